"""Histograms of the gradient norms of each class: N unit regions of equal (URA) or adaptive (AURA) width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class UnitRegions(nn.Module):
    """One histogram over [0, 1] for each class, in buffers: ``edges`` (C, N + 1) and ``counts`` (C, N).

    Region i of class c is [edges[c, i], edges[c, i + 1]); the last one contains 1 too.
    """

    edges: Tensor
    counts: Tensor  # int64, so that .half() or .bfloat16() of the loss leaves them exact

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
        """v[c, i] = counts / (N · d), (C, N), of the paper's Algorithm 1; with equal widths the counts themselves."""
        return self.counts / (self.counts.shape[1] * self.widths)

    def find(self, g: Tensor, targets: Tensor) -> Tensor:
        """The region of each gradient norm (B,) in the histogram of its target's class, (B,)."""
        inner = self.edges[:, 1:-1][targets].to(g.dtype)
        return torch.searchsorted(inner, g.unsqueeze(1), right=True).squeeze(1)

    def count(self, g: Tensor, targets: Tensor) -> None:
        """Adds the gradient norms (B,) to the histograms of their targets' classes, in place."""
        cells = torch.add(self.find(g, targets), targets, alpha=self.counts.shape[1])
        self.counts.view(-1).scatter_(0, cells, 1, reduce="add")

    def adapted_edges(self) -> Tensor:
        """AURA's edges (C, N + 1): widths 1 / log(e + v), scaled to sum 1, so narrower where there are more examples.

        The paper's 1 / log v is infinite or negative for v <= 1. With e + v the widths are finite and positive, and
        equal for a class without examples.
        """
        widths = 1 / torch.log(math.e + self.values)
        edges = (widths / widths.sum(1, keepdim=True)).cumsum(1)
        edges[:, -1] = 1  # the cumulative sum may be off by rounding
        return torch.cat([torch.zeros_like(edges[:, :1]), edges], dim=1)
