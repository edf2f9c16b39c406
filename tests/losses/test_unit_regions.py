"""The per-class histogram: boundaries, units, adaptive widths."""

from __future__ import annotations

import math

import torch

from tune_lt.losses import UnitRegions


def filled(counts: list[list[int]]) -> UnitRegions:
    regions = UnitRegions(len(counts), len(counts[0]))
    regions.counts.copy_(torch.tensor(counts))
    return regions


def test_regions_are_closed_below_and_the_last_one_above() -> None:
    """With N = 4 the edges are 0, .25, .5, .75, 1: each belongs to the region above it, 1 to the last."""
    g = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, 1.0])

    found = UnitRegions(2, 4).find(g, torch.ones(7, dtype=torch.int64))

    assert found.tolist() == [0, 0, 1, 2, 2, 3, 3]


def test_each_class_has_its_own_edges() -> None:
    regions = UnitRegions(2, 2)
    regions.edges[1, 1] = 0.1

    assert regions.find(torch.tensor([0.3, 0.3]), torch.tensor([0, 1])).tolist() == [0, 1]


def test_counting_adds_up_repeated_cells() -> None:
    regions = UnitRegions(2, 2)

    regions.count(torch.tensor([0.1, 0.2, 0.9, 0.6]), torch.tensor([1, 1, 1, 0]))
    regions.count(torch.tensor([0.1]), torch.tensor([1]))

    assert regions.counts.tolist() == [[0, 1], [3, 1]]


def test_values_are_counts_where_widths_are_equal_and_grow_where_regions_are_narrow() -> None:
    """N = 2, widths .1 and .9: v = counts / (2 · width) = 3 / .2 = 15 and 9 / 1.8 = 5."""
    regions = filled([[3, 9], [3, 9]])
    regions.edges[1, 1] = 0.1

    torch.testing.assert_close(regions.values, torch.tensor([[3.0, 9.0], [15.0, 5.0]]))


def test_adapted_widths_by_hand() -> None:
    """v = (0, e² − e, e⁴ − e): 1 / log(e + v) = (1, 1/2, 1/4), over their sum 7/4: (4/7, 2/7, 1/7)."""
    regions = filled([[0, 0, 0]])
    regions.counts = torch.tensor([[0.0, math.e**2 - math.e, math.e**4 - math.e]])

    torch.testing.assert_close(regions.adapted_edges(), torch.tensor([[0, 4 / 7, 6 / 7, 1]]))


def test_adapted_widths_of_an_empty_class_stay_equal() -> None:
    torch.testing.assert_close(UnitRegions(1, 30).adapted_edges(), UnitRegions(1, 30).edges)


def test_adapted_edges_are_increasing_and_end_at_one() -> None:
    generator = torch.Generator().manual_seed(0)
    regions = filled(torch.randint(0, 10**6, (20, 50), generator=generator).tolist())

    edges = regions.adapted_edges()

    assert (edges.diff(dim=1) > 0).all()
    assert (edges[:, 0] == 0).all()
    assert (edges[:, -1] == 1).all()


def test_counts_survive_a_change_of_precision() -> None:
    regions = filled([[16_777_217, 1]]).to(torch.bfloat16)

    assert regions.counts.tolist() == [[16_777_217, 1]]
