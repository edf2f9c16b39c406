"""Cross-entropy, and the losses that change how much an example or a class counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor
from torch.nn import functional as F

from tune_lt.errors import InputError
from tune_lt.losses.base import Loss
from tune_lt.losses.formulas import effective_number_weights, log_odds, sizes
from tune_lt.registry import Knob

_START, _BETA = 0.8, 0.9999  # of deferred re-weighting


class Softmax(Loss):
    """Cross-entropy −log softmax(z)_y."""

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.cross_entropy(logits, targets, reduction="none"), None


class ClassBalanced(Loss):
    """Cross-entropy with the weight w_y = 1 / n_y."""

    class_weights: Tensor  # (C,)

    def __init__(self, class_counts: Sequence[int]) -> None:
        super().__init__(class_counts)
        self.register_constant("class_weights", 1 / sizes(self.class_counts))

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.cross_entropy(logits, targets, reduction="none"), self.class_weights[targets]


class EffectiveNumber(Loss):
    """Cross-entropy with the weight w_y = (1 − β) / (1 − β^n_y) (Cui et al. 2019).

    ``beta``: 0 is plain cross-entropy; the larger, the closer the weights are to those of `ClassBalanced`. Beyond about
    1 / (1 − β) images the size of a class makes no difference.
    """

    class_weights: Tensor  # (C,)

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        beta: Annotated[float, Ge(0), Lt(1), Knob("choice", (0.9, 0.99, 0.999, 0.9999), neutral=0.0)] = 0.9999,
    ) -> None:
        super().__init__(class_counts)
        self.register_constant("class_weights", effective_number_weights(self.class_counts, beta))

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.cross_entropy(logits, targets, reduction="none"), self.class_weights[targets]


class Focal(Loss):
    """(1 − p_y)^γ · −log p_y with p = softmax(z) (Lin et al. 2017, Eq. 4, with a softmax).

    ``gamma``: the larger, the less an example counts whose class is already predicted with confidence; 0 is
    cross-entropy.
    """

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        gamma: Annotated[float, Ge(0), Knob("uniform", (0.0, 5.0), neutral=0.0)] = 1.0,
    ) -> None:
        super().__init__(class_counts)
        self.gamma = gamma

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        a = log_odds(logits, targets)  # in log space the gradient stays finite at p_y = 1 even for γ < 1
        log_one_minus_p, cross_entropy = F.logsigmoid(a), F.softplus(a)
        return torch.exp(self.gamma * log_one_minus_p) * cross_entropy, None


class GHM(Loss):
    """GHM-C: sigmoid cross-entropy, each output divided by the density of its gradient norm (Li et al. 2019).

        g[b, c] = |σ(z[b, c]) − [y_b = c]|                gradient norm of an output; it lies in one of the equal bins
        w[b, c] = B · C / (K · v_i)                       v_i outputs in its bin i, K bins with any: the mean is 1
        l_b     = Σ_c w[b, c] · BCE(z[b, c], [y_b = c])

    - ``bins``: the number of bins of [0, 1]; more are finer and noisier.
    - ``momentum``: v_i is a moving average over the batches with an output in bin i, and starts at 0 as in the public
      code; larger is smoother, 0 uses the current batch alone. It is updated in training mode only.
    - ``divide_by_classes``: divide l_b by C, as the public code does; gradients then shrink with the number of classes.
    """

    accumulated: Tensor  # (bins,): v

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        bins: Annotated[int, Ge(2), Le(10_000), Knob("int", (5, 30))] = 10,
        momentum: Annotated[float, Ge(0), Lt(1), Knob("uniform", (0.0, 0.9))] = 0.75,
        divide_by_classes: bool = False,
    ) -> None:
        super().__init__(class_counts)
        self.bins, self.momentum, self.divide_by_classes = bins, momentum, divide_by_classes
        self.register_buffer("accumulated", torch.zeros(bins))

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        truth = torch.zeros_like(logits).scatter(1, targets.unsqueeze(1), 1)  # F.one_hot would wait for the device
        binary = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        losses = (self._weights(logits, truth) * binary).sum(1)
        return losses / logits.shape[1] if self.divide_by_classes else losses, None

    @torch.no_grad()
    def _weights(self, logits: Tensor, truth: Tensor) -> Tensor:
        g = (torch.sigmoid(logits) - truth).abs_()
        region = g.mul_(self.bins).long().clamp_(0, self.bins - 1)  # clamped for g = 1, and for NaN of diverged logits
        counts = torch.zeros(self.bins, dtype=torch.int64, device=region.device)
        counts.index_add_(0, region.view(-1), counts.new_ones(1).expand(region.numel()))
        counts = self.total(counts)
        occupied = counts > 0
        average = self.momentum * self.accumulated + (1 - self.momentum) * counts
        v = torch.where(occupied, average, self.accumulated)
        if self.training:
            self.accumulated.copy_(v)
        outputs = counts.sum()  # B · C of the whole batch
        return (v.reciprocal() * outputs / occupied.sum())[region]


class DRW(Loss):
    """Deferred re-weighting (Cao et al. 2019, DRW): ``loss`` with effective-number weights in its late epochs.

    From epoch round(start · epochs) on, counted from 0, the weight that ``loss`` gives an example (1 if it gives none)
    is multiplied by (1 − β) / (1 − β^n_y).

    - ``start``: the fraction of the training before the weights; 1 is a training without them.
    - ``beta``: as in `EffectiveNumber`; 0 has no effect.

    Raises InputError if ``loss`` is not a `Loss`, or ``epochs``, the length of the training, not a whole number >= 1.
    """

    class_weights: Tensor  # (C,)
    epoch: Tensor  # scalar: epochs completed, on the device so that no step waits for it

    def __init__(
        self,
        loss: Loss,
        class_counts: Sequence[int],
        epochs: int | None,
        *,
        start: Annotated[float, Ge(0), Le(1)] = _START,
        beta: Annotated[float, Ge(0), Lt(1)] = _BETA,
    ) -> None:
        super().__init__(class_counts)
        if not isinstance(loss, Loss):
            raise InputError(f"drw wraps subclasses of tune_lt.losses.Loss, found {type(loss).__name__}")
        if not isinstance(epochs, int) or epochs < 1:
            raise InputError(f"drw needs epochs, the length of the training (a whole number >= 1), found {epochs!r}")
        self.base = loss
        self.first_epoch = _first_epoch(start, epochs)
        self.register_constant("class_weights", effective_number_weights(self.class_counts, beta))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def begins(epochs: int, *, start: float = _START, beta: float = _BETA) -> bool:
        """Whether a training of so many epochs with these parameters ever has weights other than 1."""
        return beta > 0 and _first_epoch(start, epochs) < epochs

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        losses, weights = self.base.terms(logits, targets)
        deferred = torch.where(self.epoch >= self.first_epoch, self.class_weights[targets], 1)
        return losses, deferred if weights is None else deferred * weights

    def gradient_norm(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.base.gradient_norm(logits, targets)

    def unit_regions(self) -> Tensor | None:
        return self.base.unit_regions()

    def end_epoch(self) -> None:
        self.base.end_epoch()
        self.epoch += 1


def _first_epoch(start: float, epochs: int) -> int:
    """The first epoch with the weights of deferred re-weighting, counted from 0."""
    return round(start * epochs)
