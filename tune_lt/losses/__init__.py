"""GHM-CWAP and the long-tailed losses it is compared with, as ordinary ``nn.Module`` s.

    loss = losses.build("ghm_cwap", class_counts=[5000, 500, 50], alpha=0.9)
    loss(logits, targets).backward()      # logits (B, C), targets (B,) -> scalar
    loss.end_epoch()                      # after each pass over the training data

**The reduction**, the same for every loss, so that a search compares losses and not learning rates. A loss is a value
l_b for each example and, for some, a weight w_b:

- weights (class-balanced, effective number, GHM-CWAP's under ``batch_mean``, those of DRW) divide by their sum over the
  batch, Σ_b w_b l_b / Σ_b w_b, as PyTorch's weighted cross-entropy does: their scale does not matter;
- factors that belong to a formula (focal's, GHM's, margins) are part of l_b, which is averaged over the batch.

Under data parallelism (``torch.distributed`` initialised) "the batch" is the union of the ranks' batches: in training
mode the mean over the ranks of what they get is its loss, which is what DistributedDataParallel's averaged gradients
need, however many examples each rank has. Every rank must then call the loss, and `end_epoch`, equally often.

**Class counts** enter every formula as max(n_c, 1): a class without training images is treated as if it had one, which
keeps log n_c and 1 / n_c finite.

**Precision**: half-precision logits are computed in float32, float64 logits in float64.
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

__all__ = ["DRW", "LOSSES", "OWN", "Loss", "UnitRegions", "build", "register"]

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
OWN = frozenset(LOSSES)  # not those that are registered later


def build(
    name: str,
    *,
    class_counts: Sequence[int],
    epochs: int | None = None,
    drw: Mapping[str, Any] | None = None,
    **params: Any,
) -> Loss:
    """The loss called ``name`` for classes with ``class_counts`` training images.

    ``params`` are the loss's keyword-only parameters. ``drw`` wraps the loss in deferred re-weighting, with the
    parameters of `DRW`; it needs ``epochs``, the length of the training, which is ignored otherwise.

    Raises InputError for an unknown name or parameter, a value out of bounds, impossible class counts, ``drw`` without
    ``epochs``.
    """
    loss: Loss = registry.build(LOSSES, "loss", name, class_counts, **params)
    if drw is None:
        return loss
    if not isinstance(drw, Mapping):
        raise InputError(f"drw = {drw!r}, but it must be a mapping; {registry.names(registry.parameters(DRW))}")
    wrapped: Loss = registry.build({"drw": DRW}, "loss option", "drw", loss, class_counts, epochs, **drw)
    return wrapped


def register(name: str) -> Callable[[Any], Any]:
    """Decorator that adds your own loss, best a subclass of `Loss`, to `LOSSES`: ``@losses.register("mine")``."""
    return registry.register(LOSSES, "loss", name)
