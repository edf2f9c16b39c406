"""Paired differences, their test and its correction, against plain loops."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import isnan, nan, sqrt
from typing import Any

import pytest
from scipy import stats

from tune_lt.report.tables.differences import Difference, corrected, difference, holm, tied
from tune_lt.report.tables.summary import Table

Line = Callable[..., dict[str, Any]]
MakeTable = Callable[..., Table[str]]


def by_seed(*values: float) -> dict[tuple[int, int], float]:
    return {(seed, seed): value for seed, value in enumerate(values)}


def test_five_pairs_by_hand() -> None:
    """Differences 1, 2, 3, 4, 5 points: mean 3, s = √(10 / 4) = 1.5811, error 1.5811 / √5 = 0.70711.

    t(0.975, 4) = 2.7764 (any printed table): 3 ± 1.9633. t = 3 / 0.70711 = 4.2426, two-sided p = 0.01324.
    """
    one = difference(by_seed(0.61, 0.62, 0.63, 0.64, 0.65), by_seed(0.6, 0.6, 0.6, 0.6, 0.6))
    assert (one.mean, one.pairs) == (pytest.approx(3), 5)
    assert (one.low, one.high) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-4)
    assert one.p == pytest.approx(0.01324, abs=1e-5)


def test_agrees_with_a_plain_loop_and_scipy() -> None:
    draw = random.Random(0)
    own = {(d, i): draw.random() for d in range(3) for i in range(4)}
    base = {(d, i): draw.random() for d in range(3) for i in range(4)}
    total = squares = 0.0
    for pair in own:
        total += 100 * (own[pair] - base[pair])
    mean = total / 12
    for pair in own:
        squares += (100 * (own[pair] - base[pair]) - mean) ** 2
    half = 2.200985 * sqrt(squares / 11) / sqrt(12)  # t(0.975, 11)
    one = difference(own, base)
    assert (one.mean, one.low, one.high) == pytest.approx((mean, mean - half, mean + half))
    order = sorted(own)
    assert one.p == pytest.approx(stats.ttest_rel([own[p] for p in order], [base[p] for p in order]).pvalue)


def test_pairs_are_matched_by_both_seeds_whatever_their_order() -> None:
    """(0, 1) and (1, 0) are different pairs: 0.5 − 0.4 and 0.7 − 0.6, not 0.5 − 0.6 and 0.7 − 0.4."""
    one = difference({(0, 1): 0.5, (1, 0): 0.7}, {(1, 0): 0.6, (0, 1): 0.4})
    assert (one.mean, one.high - one.low) == pytest.approx((10, 0))


def test_below_five_pairs_the_interval_stands_alone() -> None:
    four = difference(by_seed(0.61, 0.62, 0.63, 0.64), by_seed(0.6, 0.6, 0.6, 0.6))
    assert isnan(four.p)
    assert four.low < 2.5 < four.high
    assert not isnan(difference(by_seed(0.1, 0.2, 0.3, 0.4, 0.6), by_seed(0, 0, 0, 0, 0)).p)


def test_a_single_pair_and_a_missing_value() -> None:
    one = difference(by_seed(0.5), by_seed(0.4))
    assert one.mean == pytest.approx(10)
    assert all(map(isnan, (one.low, one.high, one.p)))
    assert isnan(difference(by_seed(0.5, nan), by_seed(0.4, 0.4)).mean)
    assert difference(by_seed(0.5), {}).pairs == 0


def test_equal_differences_are_certain_and_none_at_all_is_nothing() -> None:
    assert difference(by_seed(*[0.5] * 5), by_seed(*[0.25] * 5)).p == 0
    assert difference(by_seed(*[0.5] * 5), by_seed(*[0.5] * 5)).p == 1


def test_holm_by_hand() -> None:
    """Holm's own way: 0.01 · 4, 0.02 · 3, 0.03 · 2 = 0.06, and 0.04 · 1 is raised to 0.06 before it; order kept."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


def test_only_what_was_tested_is_corrected_for() -> None:
    tested, untested = Difference(1, 0, 2, 5, p=0.02), Difference(1, 0, 2, 4)
    both = corrected({"a": tested, "b": untested, "c": tested})
    assert both["a"].holm == both["c"].holm == pytest.approx(0.04)
    assert isnan(both["b"].holm)


def test_rows_are_marked_as_tied_by_the_corrected_p() -> None:
    """Differences 0, 2, 3, 4, 6 points: mean 3, s = √(20 / 4), error 1, t = 3, two-sided p of 4 degrees 0.0399.

    One such row can be told from the best; two cannot, since Holm doubles their p to 0.08.
    """
    best, behind = by_seed(*[0.5] * 5), by_seed(0.5, 0.48, 0.47, 0.46, 0.44)
    assert difference(best, behind).p == pytest.approx(0.0399, abs=1e-4)
    assert tied({"best": best, "a": behind}, "best") == set()
    assert tied({"best": best, "a": behind, "b": behind}, "best") == {"a", "b"}
    assert tied({"best": by_seed(0.5, 0.5), "a": by_seed(0.5, 0.4)}, "best") == set()  # nothing was tested


def test_a_row_of_other_seeds_than_the_references_is_not_compared(make_line: Line, make_table: MakeTable) -> None:
    """Both are complete, but only four of their five seeds are the same: no pairs for the whole of either mean."""
    lines = [make_line("softmax", seed, (0.5,) * 5) for seed in range(5)]
    lines += [make_line("a", seed, (0.6,) * 5) for seed in range(1, 6)]
    lines += [make_line("b", seed, (0.6,) * 5) for seed in range(5)]
    table = make_table(lines, ("softmax", "a", "b"), 5, "softmax")
    assert {row for row, _ in table.differences} == {"b"}
    assert table.runs["a", "Overall"].summary.mean == pytest.approx(60)


def test_a_tables_rows_are_compared_column_by_column(make_line: Line, make_table: MakeTable) -> None:
    """Each column has differences of its own; an incomplete row has none, and none is corrected for."""
    gains = {"a": (1, 2, 3, 4, 5), "b": (-1, 1, -1, 1, 0.5)}
    lines = []
    for seed in range(5):
        lines.append(make_line("softmax", seed, (0.5, 0.5, 0.5, 0.5, 0.5)))
        for row, points in gains.items():
            top1 = 0.5 + points[seed] / 100
            lines.append(make_line(row, seed, (0.5 + 2 * points[seed] / 100, 0.5, 0.5, nan, top1)))
    lines.append(make_line("c", 0, (0.9,) * 5))
    table = make_table(lines, ("softmax", "a", "b", "c"), 5, "softmax")
    assert {row for row, _ in table.differences} == {"a", "b"}
    assert table.differences["a", "Overall"].mean == pytest.approx(3)
    assert table.differences["a", "Many"].mean == pytest.approx(6)
    assert isnan(table.differences["a", "Rare"].mean)
    a, b = table.differences["a", "Overall"], table.differences["b", "Overall"]
    assert a.p < b.p
    assert (a.holm, b.holm) == (pytest.approx(2 * a.p), pytest.approx(max(2 * a.p, b.p)))


def test_an_incomplete_reference_compares_nothing(make_line: Line, make_table: MakeTable) -> None:
    lines = [make_line("a", seed, (0.5,) * 5) for seed in range(2)] + [make_line("softmax", 0, (0.5,) * 5)]
    assert not make_table(lines, ("softmax", "a"), 2, "softmax").differences
