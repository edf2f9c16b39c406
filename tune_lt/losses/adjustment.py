"""Losses that add the log-prior of each class to its logit in training; predictions use the logits as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from tune_lt.losses.base import Loss
from tune_lt.losses.formulas import sizes
from tune_lt.registry import Knob


class BalancedSoftmax(Loss):
    """CE(z + log n, y): learns the softmax of a test set whose classes are equally large (Ren et al. 2020)."""

    log_counts: Tensor  # (C,)

    def __init__(self, class_counts: Sequence[int]) -> None:
        super().__init__(class_counts)
        self.register_constant("log_counts", sizes(self.class_counts).log())

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.cross_entropy(logits + self.log_counts, targets, reduction="none"), None


class LogitAdjustment(Loss):
    """CE(z + τ · log π, y) with π_c = n_c / Σ n (Menon et al. 2021, Eq. 10).

    ``tau``: 1 is Balanced Softmax; larger favours the tail more, 0 is cross-entropy.
    """

    log_prior: Tensor  # (C,)

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        tau: Annotated[float, Ge(0), Knob("uniform", (0.0, 2.0), neutral=0.0)] = 1.0,
    ) -> None:
        super().__init__(class_counts)
        self.tau = tau
        n = sizes(self.class_counts)
        self.register_constant("log_prior", (n / n.sum()).log())

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.cross_entropy(logits + self.tau * self.log_prior, targets, reduction="none"), None


class VS(LogitAdjustment):
    """CE(Δ · z + τ · log π, y) with Δ_c = (n_c / n_max)^γ and π_c = n_c / Σ n (Kini et al. 2021, VS-loss).

    - ``gamma``: the larger, the smaller Δ of rare classes, whose logits training must then make larger; 0 is logit
      adjustment.
    - ``tau``: as in logit adjustment.
    """

    scale: Tensor  # (C,)

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        gamma: Annotated[float, Ge(0), Knob("uniform", (0.0, 0.6), neutral=0.0)] = 0.3,
        tau: Annotated[float, Ge(0), Knob("uniform", (0.0, 2.0), neutral=0.0)] = 1.0,
    ) -> None:
        super().__init__(class_counts, tau=tau)
        n = sizes(self.class_counts)
        self.register_constant("scale", (n / n.max()) ** gamma)

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().terms(self.scale * logits, targets)
