"""GHM-CWAP: gradient harmonizing with category-wise adaptive precision, the paper's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from tune_lt import distributed
from tune_lt.losses.base import Loss
from tune_lt.losses.formulas import sizes, with_margin
from tune_lt.losses.histogram import UnitRegions
from tune_lt.registry import Knob


class GHMCWAP(Loss):
    """W[y, i] · CE(z + M[y], y), with the unit regions i of each class's gradient norms g (paper, Eq. 1-3, Alg. 1).

        M[m, n] = γ · log min(1, S_n / S_m)    inter-category margin
        g       = 1 − softmax(z + M[y])_y      gradient norm, in [0, 1]; i is its region among the N of class y
        v[c, i]                                examples of class c in region i during the last epoch, ÷ (N · width)
        S_c     = Σ_i v[c, i]^α                effective sample size
        W[c, i] = v[c, i]^(α−1)                intra-category weight

    Gradients flow through the cross-entropy alone. The loss has two histograms: it looks up regions and weights in the
    ``frozen`` one, of the last complete epoch, and counts into the ``live`` one in training mode; `end_epoch` copies
    live to frozen. In the first epoch W = 1 and S_c = max(n_c, 1), as for a class that has had no example yet. A class
    without examples in an epoch keeps its previous histogram.

    The defaults of ``alpha`` and ``gamma`` did best in `docs/method.md`; the paper's values are 0.9 and 0.8.

    - ``alpha``: the smaller, the more redundant similar examples are taken to be: margins shrink, weights differ more.
      Above 1, ``effective`` weights favour the head.
    - ``gamma``: larger margins help the tail and cost the head; 0 has none.
    - ``tau``: not in the paper: τ · log n_c is added to z in every formula above, as in logit adjustment (Menon et al.
      2021, Eq. 10). With ``gamma`` 0 and ``weight`` none the loss is logit adjustment.
    - ``regions``: N; more are finer and noisier.
    - ``aura``: the widths of a class with at least N images adapt to its last histogram; all others are equal.
    - ``weight``: ``effective`` is v^(α−1), ``reciprocal`` is S_c / v^α as Eq. 1 is printed, ``none`` is 1. Here a v
      below 1 counts as 1.
    - ``normalization``: ``batch_mean`` divides by the mean weight of the batch; ``none`` does not, as Eq. 3 is printed.
    - ``margin_counts``: compute the margin from ``effective`` S_c or ``raw`` n_c.
    - ``size``: compute S_c from ``counts``, v · N · width, which do not depend on the widths, or from the ``density`` v
      as Alg. 1 is printed.
    """

    adaptive: Tensor  # (C,) bool: whether the class's widths follow its histogram
    raw_size: Tensor  # (C,): max(n_c, 1)
    prior: Tensor  # (C,): τ · log n_c; only there if τ is not 0
    weights: Tensor  # (C, N): W of the regions of ``frozen``
    log_size: Tensor  # (C,): log S

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        alpha: Annotated[float, Gt(0), Le(2), Knob("uniform", (0.3, 1.0), neutral=1.0)] = 0.6,
        gamma: Annotated[float, Ge(0), Knob("uniform", (0.0, 1.5), neutral=0.0)] = 1.2,
        regions: Annotated[int, Ge(2), Le(10_000), Knob("choice", (10, 20, 30))] = 30,
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
        self.uses_regions = weight != "none" or (margin_counts == "effective" and gamma != 0)
        classes = len(self.class_counts)
        self.frozen = UnitRegions(classes, regions)
        self.live = UnitRegions(classes, regions)
        self.register_buffer("adaptive", (self.class_counts >= regions) & aura, persistent=False)
        self.register_constant("raw_size", sizes(self.class_counts))
        if tau:
            self.register_constant("prior", tau * self.raw_size.log())
        self.register_buffer("weights", torch.ones(classes, regions))
        self.register_buffer("log_size", self.raw_size.log())

    @classmethod
    def idle(cls, params: Mapping[str, Any]) -> set[str]:
        margin, weight = params["gamma"] != 0, params["weight"]
        sized = margin and params["margin_counts"] == "effective"  # S enters the margin
        idle = set() if margin else {"margin_counts"}
        if weight == "none":
            idle |= {"normalization"} if sized else {"normalization", "alpha", "regions", "aura"}
        return idle if sized or weight == "reciprocal" else idle | {"size"}

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        cross_entropy = F.cross_entropy(self._adjusted(logits, targets), targets, reduction="none")
        with torch.no_grad():
            g = -torch.expm1(-cross_entropy)  # 1 − p: rounded where p is close to 1, but exact enough to find a region
            weights = self.weights[targets, self.frozen.find(g, targets)]
            if self.training:
                self.live.count(g, targets)
        if self.normalization == "batch_mean":
            return cross_entropy, weights
        return weights * cross_entropy, None

    def gradient_norm(self, logits: Tensor, targets: Tensor) -> Tensor:
        """g, (B,), of the softmax with the margin: the one that is counted in the unit regions."""
        return super().gradient_norm(self._adjusted(logits, targets), targets)

    def _adjusted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """z + τ · log n + M[y], (B, C), up to a constant in each row."""
        if self.tau:
            logits = logits + self.prior
        return with_margin(logits, self.log_size, targets, self.gamma)

    def unit_regions(self) -> Tensor | None:
        """The edges (C, N + 1) of the last complete epoch, None if nothing depends on them."""
        return self.frozen.edges if self.uses_regions else None

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Replace the frozen histogram by the live one, summed over the ranks, and start a new live one.

        All buffers are changed in place, since a CUDA graph reads them at their addresses.
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
        """S_c = Σ_i v[c, i]^α, (C,)."""
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
