"""The gradient norms of each class, counted in N unit regions of equal (URA) or adaptive (AURA) width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class UnitRegions(nn.Module):
    """One histogram over [0, 1] per class, in buffers: ``edges`` (C, N + 1) and ``counts`` (C, N).

    Region i of class c is [edges[c, i], edges[c, i + 1]), the last one closed.
    """

    edges: Tensor
    counts: Tensor  # whole numbers, so that a change of precision cannot touch them

    def __init__(self, classes: int, regions: int) -> None:
        super().__init__()
        edges = torch.arange(regions + 1, dtype=torch.float64) / regions
        self.register_buffer("edges", edges.to(torch.get_default_dtype()).repeat(classes, 1))
        self.register_buffer("counts", torch.zeros(classes, regions, dtype=torch.int64))

    @property
    def widths(self) -> Tensor:
        """d[c, i], (C, N): each row sums to 1."""
        return self.edges.diff(dim=1)

    @property
    def values(self) -> Tensor:
        """v[c, i] = counts / (N · d), (C, N): Algorithm 1's units, the counts themselves where widths are equal."""
        return self.counts / (self.counts.shape[1] * self.widths)

    @property
    def density(self) -> Tensor:
        """The gradient norm's density, (C, N): each row integrates to 1 (paper, Fig. 2); NaN for an empty class."""
        return self.counts / (self.counts.sum(1, keepdim=True) * self.widths)

    def find(self, g: Tensor, targets: Tensor) -> Tensor:
        """The region of each gradient norm (B,) in the histogram of its target's class, (B,)."""
        inner = self.edges[:, 1:-1][targets].to(g.dtype)
        return torch.searchsorted(inner, g.unsqueeze(1), right=True).squeeze(1)

    def count(self, g: Tensor, targets: Tensor) -> None:
        """Adds the gradient norms (B,) to the histograms of their targets' classes, in place."""
        cells = torch.add(self.find(g, targets), targets, alpha=self.counts.shape[1])
        self.counts.view(-1).scatter_(0, cells, 1, reduce="add")

    def adapted_edges(self) -> Tensor:
        """AURA: edges (C, N + 1) with widths 1 / log(e + v) scaled to sum 1: narrower where there are more examples.

        The paper's 1 / log v is infinite or negative for v <= 1; e + v keeps it in (0, 1], and an empty class equal.
        """
        widths = 1 / torch.log(math.e + self.values)
        edges = (widths / widths.sum(1, keepdim=True)).cumsum(1)
        edges[:, -1] = 1  # free of rounding
        return torch.cat([torch.zeros_like(edges[:, :1]), edges], dim=1)
