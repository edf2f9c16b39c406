"""Losses that change logits for each example by its class: equalization, Seesaw, LDAM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from tune_lt import distributed
from tune_lt.losses.base import Loss
from tune_lt.losses.formulas import sizes, with_margin
from tune_lt.registry import Knob


class Equalization(Loss):
    """Softmax equalization loss (Tan et al. 2020): examples of other classes mostly do not push tail classes down.

        l_b = −log( e^{z_y} / Σ_k w_k e^{z_k} ),   w_k = 1 − b_k · T(f_k) · [k ≠ y]

    f_k = n_k / Σ n; T(f) = 1 for f < ``tail_threshold``, else 0; b_k is 1 with probability γ, drawn for each example
    and class from torch's generator. In eval mode b = 0: plain cross-entropy.

    - ``gamma``: the larger, the more often a tail class gets no gradient from others' examples; 0 is cross-entropy.
    - ``tail_threshold``: classes with a smaller fraction of all images are tail. The default 0.5 / C, half of an even
      share, is the published 0.005 for CIFAR-100; with few classes that number would mark none.
    """

    tail: Tensor  # (C,) bool

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        gamma: Annotated[float, Ge(0), Le(1), Knob("uniform", (0.0, 1.0), neutral=0.0)] = 0.9,
        tail_threshold: Annotated[float, Ge(0), Le(1), Knob("loguniform", (0.001, 0.2))] | None = None,
    ) -> None:
        super().__init__(class_counts)
        self.gamma = gamma
        share = self.class_counts / self.class_counts.sum()
        tail = share < (0.5 / len(share) if tail_threshold is None else tail_threshold)
        self.register_buffer("tail", tail, persistent=False)

    @classmethod
    def idle(cls, params: Mapping[str, Any]) -> tuple[str, ...]:
        return () if params["gamma"] else ("tail_threshold",)

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.training:
            drawn = distributed.rand(len(logits), logits.shape[1], logits.device) < self.gamma
            spared = (drawn & self.tail).scatter(1, targets.unsqueeze(1), False)
            logits = logits.masked_fill(spared, -torch.inf)  # w = 0
        return F.cross_entropy(logits, targets, reduction="none"), None


class Seesaw(Loss):
    """CE(z + log M + log C, y): an example pushes rarer classes down less, confused ones more (Wang et al. 2021).

        log M_j = p · log min(1, N_j / N_y)                     mitigation factor
        log C_j = q · log max(1, σ_j / max(σ_y, 0.01))          compensation factor; σ = softmax(z), detached

    - ``p``: the larger, the more the tail gains; 0 has no mitigation.
    - ``q``: the larger, the more confused classes are pushed; 0 is mitigation alone, the row "Seesaw" of the paper's
      tables.
    - ``online``: N_j counts the labels seen so far in training mode, as in the public code; else N_j = n_j.
    """

    EPS = 1e-2
    labels_seen: Tensor  # (C,) int64
    log_counts: Tensor  # (C,)

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        p: Annotated[float, Ge(0), Knob("uniform", (0.0, 1.5), neutral=0.0)] = 0.8,
        q: Annotated[float, Ge(0), Knob("uniform", (0.0, 4.0), neutral=0.0)] = 2.0,
        online: bool = True,
    ) -> None:
        super().__init__(class_counts)
        self.p, self.q, self.online = p, q, online
        self.register_constant("log_counts", sizes(self.class_counts).log())
        self.register_buffer("labels_seen", torch.zeros_like(self.class_counts))

    @classmethod
    def idle(cls, params: Mapping[str, Any]) -> tuple[str, ...]:
        return () if params["p"] else ("online",)

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.online and self.training:
            labels = torch.zeros_like(self.labels_seen).index_add_(0, targets, torch.ones_like(targets))
            self.labels_seen += self.total(labels)
        return F.cross_entropy(logits + self.margins(logits, targets), targets, reduction="none"), None

    @torch.no_grad()
    def margins(self, logits: Tensor, targets: Tensor) -> Tensor:
        """log M + log C, (B, C), up to a constant in each row, which does not change a softmax."""
        log_counts = self.labels_seen.clamp(min=1).to(logits.dtype).log() if self.online else self.log_counts
        log_p = logits.log_softmax(1)
        log_p_target = log_p.gather(1, targets.unsqueeze(1)).clamp(min=math.log(self.EPS))
        return with_margin(self.q * (log_p - log_p_target).clamp_(min=0), log_counts, targets, self.p)


class LDAM(Loss):
    """CE(s · (z − m_y · onehot(y)), y), m_c = max_m · (n_min / n_c)^¼ (Cao et al. 2019).

    Made for logits that are cosines: choose ``head: cosine`` for the network.

    - ``max_m``: the margin of the rarest class; larger keeps rare classes further from the boundary, 0 has none.
    - ``s``: the scale of the logits; larger is a sharper softmax.
    """

    margins: Tensor  # (C,)

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        max_m: Annotated[float, Ge(0), Knob("uniform", (0.0, 1.0), neutral=0.0)] = 0.5,
        s: Annotated[float, Gt(0), Knob("loguniform", (5.0, 60.0))] = 30.0,
    ) -> None:
        super().__init__(class_counts)
        self.s = s
        n = sizes(self.class_counts)
        self.register_constant("margins", max_m * (n.min() / n) ** 0.25)

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        margin = self.margins[targets].to(logits.dtype).unsqueeze(1)
        lowered = logits.scatter_add(1, targets.unsqueeze(1), -margin)
        return F.cross_entropy(self.s * lowered, targets, reduction="none"), None
