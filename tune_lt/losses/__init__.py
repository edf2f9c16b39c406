"""GHM-CWAP and the long-tailed losses that it is compared with, as ``nn.Module``.

    loss = losses.build("ghm_cwap", class_counts=[5000, 500, 50], alpha=0.9)
    loss(logits, targets).backward()      # logits (B, C), targets (B,) -> scalar
    loss.end_epoch()                      # after each pass over the training data

Symbols: z are the logits, y the target of an example, n_c the training images of class c, B examples, C classes.

**Reduction.** All losses are reduced alike, so that a search compares losses and not learning rates. A loss gives each
example b a value l_b, and some losses a weight w_b too.

- Weights (class-balanced, effective number, DRW, GHM-CWAP with ``batch_mean``) are divided by their sum over the batch,
  Σ_b w_b l_b / Σ_b w_b, as in PyTorch's weighted cross-entropy: their scale does not matter.
- Factors of a formula (focal, GHM, margins) are part of l_b, which is averaged over the batch.

**Several ranks** (``torch.distributed`` is initialised). In training mode the mean of the ranks' results is the loss of
all their examples, however many each rank has; DistributedDataParallel averages gradients in the same way. Every rank
must call the loss and `end_epoch` equally often.

**Class counts** enter every formula as max(n_c, 1), which keeps log n_c and 1 / n_c finite.

**Precision**: half-precision logits are converted to float32; float64 logits stay float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tune_lt import registry
from tune_lt.errors import InputError
from tune_lt.losses.adjustment import VS, BalancedSoftmax, LogitAdjustment
from tune_lt.losses.base import Loss
from tune_lt.losses.ghm_cwap import GHMCWAP
from tune_lt.losses.histogram import UnitRegions
from tune_lt.losses.margins import LDAM, Equalization, Seesaw
from tune_lt.losses.reweighting import DRW, GHM, ClassBalanced, EffectiveNumber, Focal, Softmax

__all__ = ["DRW", "LOSSES", "OWN", "Loss", "UnitRegions", "build", "canonical", "register"]

LOSSES: dict[str, Any] = {
    "softmax": Softmax,
    "class_balanced": ClassBalanced,
    "focal": Focal,
    "ghm": GHM,
    "effective_number": EffectiveNumber,
    "equalization": Equalization,
    "seesaw": Seesaw,
    "ghm_cwap": GHMCWAP,
    "balanced_softmax": BalancedSoftmax,
    "logit_adjustment": LogitAdjustment,
    "ldam": LDAM,
    "vs": VS,
}
OWN = frozenset(LOSSES)  # without the plugins' losses, which are registered later


def build(
    name: str,
    *,
    class_counts: Sequence[int],
    epochs: int | None = None,
    drw: Mapping[str, Any] | None = None,
    **params: Any,
) -> Loss:
    """The loss called ``name`` with its parameters ``params``, for classes with ``class_counts`` training images.

    ``drw``, the parameters of `DRW`, wraps it in deferred re-weighting. This needs ``epochs``, the length of the
    training, which is ignored otherwise.

    Raises InputError for an unknown name or parameter, a value out of bounds, impossible class counts, and ``drw``
    without ``epochs``.
    """
    loss: Loss = registry.build(LOSSES, "loss", name, class_counts, **params)
    if drw is None:
        return loss
    if not isinstance(drw, Mapping):
        raise InputError(f"drw = {drw!r}, but it must be a mapping; {registry.names(registry.parameters(DRW))}")
    wrapped: Loss = registry.build({"drw": DRW}, "loss option", "drw", loss, class_counts, epochs, **drw)
    return wrapped


def canonical(loss: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """The section ``loss`` with the defaults in place of the parameters that have no effect at the others' values.

    ``epochs``: the length of the training, which decides whether ``drw`` ever begins. A plugin's loss stays as it is.
    """
    if loss["name"] not in OWN:
        return dict(loss)
    builder = LOSSES[loss["name"]]
    defaults = {name: default for name, (_, default) in registry.parameters(builder).items()}
    plain = {name: defaults[name] for name in builder.idle({**defaults, **loss}) if name in loss}
    if loss.get("drw") is not None and not DRW.begins(epochs, **loss["drw"]):
        plain["drw"] = None
    return {**loss, **plain}


def register(name: str) -> Callable[[Any], Any]:
    """Decorator that adds your own loss, best a subclass of `Loss`, to ``LOSSES``: ``@losses.register("mine")``."""
    return registry.register(LOSSES, "loss", name)
