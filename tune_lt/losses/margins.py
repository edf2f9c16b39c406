"""Losses that hold classes apart, or off each other, in the cross-entropy: equalization, Seesaw, LDAM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from tune_lt import distributed
from tune_lt.losses.base import Loss
from tune_lt.losses.formulas import sizes, with_margin
from tune_lt.registry import Knob


class Equalization(Loss):
    """Softmax equalization loss (Tan et al. 2020, the softmax form): tail classes are mostly spared as negatives.

        l_b = −log( e^{z_y} / Σ_k w_k e^{z_k} ),   w_k = 1 − b_k · T(f_k) · [k ≠ y]

    f_k = n_k / Σ n; T(f) = 1 for f < ``tail_threshold``; b_k is 1 with probability γ, drawn for each example and class
    from torch's generator. Logits (B, C), targets (B,). In eval mode b = 0: plain cross-entropy.

    - ``gamma``: the larger, the more often a tail class gets no gradient from others' examples; 0 is cross-entropy.
    - ``tail_threshold``: a fraction of all images; classes below it are tail. Default: half of an even share, 0.5 / C
      (the published 0.005 for CIFAR-100), as a fixed number would mark no class at all in a set of few classes.
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

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.training:
            drawn = distributed.rand(len(logits), logits.shape[1], logits.device) < self.gamma
            spared = (drawn & self.tail).scatter(1, targets.unsqueeze(1), False)
            logits = logits.masked_fill(spared, -torch.inf)  # weight 0 in the sum of exponentials
        return F.cross_entropy(logits, targets, reduction="none"), None


class Seesaw(Loss):
    """CE(z + log M + log C, y): a gentler push on rarer classes, a harder one on confused classes (Wang et al. 2021).

        log M_j = p · log min(1, N_j / N_y)                     mitigation factor
        log C_j = q · log max(1, σ_j / max(σ_y, 0.01))          compensation factor; σ = softmax(z), detached

    Logits (B, C), targets (B,).

    - ``p``: larger margins lift the tail more; 0 has none.
    - ``q``: larger pushes confused classes harder; 0 is mitigation alone, the row "Seesaw" of the paper's tables.
    - ``online``: N_j counts the labels seen so far in training mode (a buffer), as in the public code, without knowing
      the training set; else N_j = n_j.
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

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.online and self.training:
            alone = distributed.size() == 1
            counts = self.labels_seen if alone else torch.zeros_like(self.labels_seen)
            counts.index_add_(0, targets, torch.ones_like(targets))
            if not alone:
                self.labels_seen += self.total(counts)
        return F.cross_entropy(logits + self.margins(logits, targets), targets, reduction="none"), None

    @torch.no_grad()
    def margins(self, logits: Tensor, targets: Tensor) -> Tensor:
        """log M + log C, (B, C), up to a constant in each row, which the softmax does not see."""
        log_counts = self.labels_seen.clamp(min=1).to(logits.dtype).log() if self.online else self.log_counts
        log_p = logits.log_softmax(1)
        log_p_target = log_p.gather(1, targets.unsqueeze(1)).clamp(min=math.log(self.EPS))
        return with_margin(self.q * (log_p - log_p_target).clamp_(min=0), log_counts, targets, self.p)


class LDAM(Loss):
    """CE(s · (z − m_y · onehot(y)), y), m_c = max_m · (n_min / n_c)^¼ (Cao et al. 2019).

    Logits (B, C), targets (B,). Meant for the cosines of a normalised head, in [−1, 1]; the head is the model's
    business, logits are taken as they are.

    - ``max_m``: the rarest class's margin; larger holds rare classes further from the boundary, 0 has none.
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
