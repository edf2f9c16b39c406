"""GHM-CWAP: gradient harmonizing with category-wise adaptive precision, the paper's loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from tune_lt import distributed
from tune_lt.losses.base import Loss
from tune_lt.losses.formulas import one_minus_p, sizes, with_margin
from tune_lt.losses.histogram import UnitRegions
from tune_lt.registry import Knob


class GHMCWAP(Loss):
    """W[y, i] · CE(z + M[y], y), with the unit regions i of each class's gradient norms g (paper, Eq. 1-3, Alg. 1).

        M[m, n] = γ · log min(1, S_n / S_m)    inter-category margin
        g       = 1 − softmax(z + M[y])_y      gradient norm, in [0, 1]; i is its region among the N of class y
        v[c, i]                                examples of class c in region i during the last epoch, ÷ (N · width)
        S_c     = Σ_i v[c, i]^α                effective sample size
        W[c, i] = v[c, i]^(α−1)                intra-category weight

    Logits (B, C), targets (B,). Only the cross-entropy is differentiated. Two histograms: the ``frozen`` one of the
    last complete epoch is looked up, the ``live`` one counts in training mode; `end_epoch` turns one into the other.
    In the first epoch W = 1 and the margin comes from the class counts; a class without examples in an epoch keeps its
    last histogram, one never seen has W = 1 and S_c = max(n_c, 1).

    The defaults of ``alpha`` and ``gamma`` are what did best in `docs/method.md`; the paper's are 0.9 and 0.8.

    - ``alpha``: smaller treats similar examples as more redundant: gentler margins, stronger weights. Above 1 favours
      the head under ``effective``.
    - ``gamma``: larger margins lift the tail at the head's cost; 0 has none.
    - ``tau``: not the paper's: τ · log n_c is added to the logits z first, everywhere above, as logit adjustment does
      (Menon et al. 2021, Eq. 10). With ``gamma`` 0 and ``weight`` none the loss is logit adjustment.
    - ``regions``: N; more are finer and noisier.
    - ``aura``: widths follow the last histogram, in classes with at least N images; else they stay equal.
    - ``weight``: ``effective`` v^(α−1); ``reciprocal`` S_c / v^α, Eq. 1 to the letter; ``none`` 1. A v below 1 counts
      as 1 here.
    - ``normalization``: ``batch_mean`` divides by the batch's mean weight; ``none``, Eq. 3 to the letter.
    - ``margin_counts``: the margin from ``effective`` S_c or ``raw`` n_c.
    - ``size``: S_c from ``counts``, v · N · width, which widths do not warp; ``density`` from v, Alg. 1 to the letter.

    Raises InputError for impossible class counts.
    """

    adaptive: Tensor  # (C,) bool: whether the class's widths follow its histogram
    raw_size: Tensor  # (C,): max(n_c, 1)
    prior: Tensor  # (C,): τ · log n_c, where τ is not 0
    weights: Tensor  # (C, N): W, in the units of ``frozen``
    log_size: Tensor  # (C,): log S

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        alpha: Annotated[float, Gt(0), Le(2), Knob("uniform", (0.3, 1.0), neutral=1.0)] = 0.6,
        gamma: Annotated[float, Ge(0), Knob("uniform", (0.0, 1.5), neutral=0.0)] = 1.2,
        regions: Annotated[int, Ge(2), Knob("choice", (10, 20, 30))] = 30,
        aura: Annotated[bool, Knob("choice", (True, False))] = True,
        weight: Literal["effective", "reciprocal", "none"] = "effective",
        normalization: Literal["batch_mean", "none"] = "batch_mean",
        margin_counts: Literal["effective", "raw"] = "effective",
        size: Literal["counts", "density"] = "counts",
        tau: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(class_counts)
        self.alpha, self.gamma = alpha, gamma
        self.weight, self.normalization = weight, normalization
        self.margin_counts, self.size, self.tau = margin_counts, size, tau
        classes = len(self.class_counts)
        self.frozen = UnitRegions(classes, regions)
        self.live = UnitRegions(classes, regions)
        self.register_buffer("adaptive", (self.class_counts >= regions) & aura, persistent=False)
        self.register_constant("raw_size", sizes(self.class_counts))
        if tau:
            self.register_constant("prior", tau * self.raw_size.log())
        self.register_buffer("weights", torch.ones(classes, regions))
        self.register_buffer("log_size", self.raw_size.log())

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.tau:
            logits = logits + self.prior
        adjusted = with_margin(logits, self.log_size, targets, self.gamma)
        cross_entropy = F.cross_entropy(adjusted, targets, reduction="none")
        with torch.no_grad():
            g = one_minus_p(cross_entropy)
            weights = self.weights[targets, self.frozen.find(g, targets)]
            if self.training:
                self.live.count(g, targets)
        if self.normalization == "batch_mean":
            return cross_entropy, weights
        return weights * cross_entropy, None

    def gradient_norm(self, logits: Tensor, targets: Tensor) -> Tensor:
        """g as it is binned, (B,): of the softmax with the margin."""
        if self.tau:
            logits = logits + self.prior
        return super().gradient_norm(with_margin(logits, self.log_size, targets, self.gamma), targets)

    def unit_regions(self) -> Tensor:
        """The edges (C, N + 1) of the last complete epoch, by which weights are looked up."""
        return self.frozen.edges

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Freezes what was counted since the last call, summed over ranks, and starts to count anew.

        All in place: a captured graph keeps reading the same memory.
        """
        self.live.counts.copy_(distributed.total(self.live.counts))
        present = self.live.counts.sum(1, keepdim=True) > 0
        self.frozen.edges.copy_(torch.where(present, self.live.edges, self.frozen.edges))
        self.frozen.counts.copy_(torch.where(present, self.live.counts, self.frozen.counts))
        adapted = torch.where(self.adaptive.unsqueeze(1), self.frozen.adapted_edges(), self.live.edges)
        self.live.edges.copy_(adapted)
        self.live.counts.zero_()

        seen = self.frozen.counts.sum(1) > 0
        size = torch.where(seen, self._effective_size(), self.raw_size)
        self.weights.copy_(torch.where(seen.unsqueeze(1), self._weights(size), 1))
        if self.margin_counts == "effective":
            self.log_size.copy_(size.log())

    def _effective_size(self) -> Tensor:
        """S_c = Σ_i v[c, i]^α, (C,); an empty region adds nothing."""
        v = self.frozen.values
        mass = self.frozen.counts.to(v.dtype) if self.size == "counts" else v
        return (mass**self.alpha).sum(1)

    def _weights(self, size: Tensor) -> Tensor:
        """W[c, i], (C, N)."""
        v = self.frozen.values.clamp(min=1)
        if self.weight == "effective":
            return v ** (self.alpha - 1)
        if self.weight == "reciprocal":
            return size.unsqueeze(1) / v**self.alpha
        return torch.ones_like(v)
