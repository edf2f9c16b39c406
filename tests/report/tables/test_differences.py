"""Differences, their test and its correction, and ties, against plain loops and numbers worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import isnan, nan, sqrt
from typing import Any

import pytest
from scipy import stats

from tune_lt.report.tables.differences import Difference, Sample, corrected, critical, difference, holm, tied
from tune_lt.report.tables.summary import Table

Line = Callable[..., dict[str, Any]]
MakeTable = Callable[..., Table[str]]


def by_seed(*values: float, step: float = 0.0) -> Sample:
    return Sample(dict(enumerate(values)), step)


def test_five_pairs_by_hand() -> None:
    """Differences 1, 2, 3, 4, 5 points: mean 3, s = √(10 / 4) = 1.5811, error 1.5811 / √5 = 0.70711.

    t(0.975, 4) = 2.7764 (any printed table): 3 ± 1.9633. t = 3 / 0.70711 = 4.2426, two-sided p = 0.01324.
    """
    one = difference(by_seed(0.61, 0.62, 0.63, 0.64, 0.65), by_seed(0.6, 0.6, 0.6, 0.6, 0.6))
    assert (one.mean, one.error, one.pairs) == (pytest.approx(3), pytest.approx(0.70711, abs=1e-5), 5)
    assert (one.low, one.high) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-4)
    assert one.p == pytest.approx(0.01324, abs=1e-5)


def test_three_intervals_that_hold_together_by_hand() -> None:
    """As above; t(1 − 0.025 / 3, 4) = 3.9608 (Dunn's table of t for three comparisons, 4 degrees): 3 ± 2.8007."""
    one = difference(by_seed(0.61, 0.62, 0.63, 0.64, 0.65), by_seed(0.6, 0.6, 0.6, 0.6, 0.6), 3)
    assert (one.low, one.high) == pytest.approx((3 - 2.8007, 3 + 2.8007), abs=1e-4)


def test_agrees_with_a_plain_loop_and_scipy() -> None:
    draw = random.Random(0)
    own, base = ([draw.random() for _ in range(12)] for _ in range(2))
    total = squares = 0.0
    for one, other in zip(own, base, strict=True):
        total += 100 * (one - other)
    mean = total / 12
    for one, other in zip(own, base, strict=True):
        squares += (100 * (one - other) - mean) ** 2
    half = 2.200985 * sqrt(squares / 11) / sqrt(12)  # t(0.975, 11)
    found = difference(by_seed(*own), by_seed(*base))
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert found.p == pytest.approx(stats.ttest_rel(own, base).pvalue)


def test_the_unit_is_the_data_seed_and_its_init_seeds_are_averaged() -> None:
    """Data seed 0 has 0.5 and 0.7, data seed 1 has 0.2: two units; with all images the same, init seeds 0 and 1."""
    values = {(0, 0): 0.5, (0, 1): 0.7, (1, 0): 0.2}
    assert Sample.of(values).values == pytest.approx({0: 0.6, 1: 0.2})
    assert Sample.of(values, "fixed").values == pytest.approx({0: 0.35, 1: 0.7})
    assert Sample.of({(3, 0): 0.5, (3, 1): 0.7}).values == {0: 0.5, 1: 0.7}  # one sub-sample: only init seeds differ


def test_crossed_seeds_give_the_interval_of_the_means_of_data_seeds() -> None:
    draw = random.Random(1)
    own, base = ({(d, i): draw.random() for d in range(3) for i in range(4)} for _ in range(2))
    found = difference(Sample.of(own), Sample.of(base))
    means = [sum(100 * (own[d, i] - base[d, i]) for i in range(4)) / 4 for d in range(3)]
    interval = stats.t.interval(0.95, 2, loc=sum(means) / 3, scale=stats.sem(means))
    assert found.pairs == 3
    assert (found.low, found.high) == pytest.approx(interval)


def test_units_are_matched_whatever_their_order() -> None:
    """0.5 − 0.4 and 0.7 − 0.6, not 0.5 − 0.6 and 0.7 − 0.4; what only one of them has is left out."""
    one = difference(Sample({4: 0.5, 2: 0.7, 1: 0.0}), Sample({2: 0.6, 4: 0.4}))
    assert (one.mean, one.error, one.pairs) == (pytest.approx(10), pytest.approx(0, abs=1e-9), 2)


def test_folds_and_bootstraps_widen_the_error_by_what_they_share() -> None:
    """Differences 1 to 5 points, s² = 2.5: error √(2.5 · (1/5 + 1/4)) = 1.0607 over five folds, √(2.5 · 1.2) = 1.7321
    over five draws from the same images."""
    own, base = {d: 0.6 + d / 100 for d in range(1, 6)}, dict.fromkeys(range(1, 6), 0.6)
    assert difference(Sample(own, overlap=1 / 4), Sample(base)).error == pytest.approx(1.0607, abs=1e-4)
    drawn = [Sample.of({(d, d): value for d, value in one.items()}, "bootstrap") for one in (own, base)]
    assert difference(*drawn).error == pytest.approx(1.7321, abs=1e-4)
    alone = Sample.of({(0, init): value for init, value in own.items()}, "bootstrap")
    assert alone.overlap == 0  # one draw: the runs differ in initialisation alone


def test_below_three_pairs_nothing_is_concluded_and_below_five_the_interval_stands_alone() -> None:
    two = difference(by_seed(0.61, 0.62), by_seed(0.6, 0.6))
    assert two.mean == pytest.approx(1.5)
    assert all(map(isnan, (two.low, two.high, two.p)))
    four = difference(by_seed(0.61, 0.62, 0.63, 0.64), by_seed(0.6, 0.6, 0.6, 0.6))
    assert isnan(four.p)
    assert four.low < 2.5 < four.high
    assert not isnan(difference(by_seed(0.1, 0.2, 0.3, 0.4, 0.6), by_seed(0, 0, 0, 0, 0)).p)


def test_a_single_pair_and_a_missing_value() -> None:
    one = difference(by_seed(0.5), by_seed(0.4))
    assert one.mean == pytest.approx(10)
    assert all(map(isnan, (one.low, one.high, one.p, one.error)))
    assert isnan(difference(by_seed(0.5, nan, 0.5), by_seed(0.4, 0.4, 0.4)).mean)
    assert difference(by_seed(0.5), by_seed()).pairs == 0


def test_equal_differences_are_as_uncertain_as_half_an_image() -> None:
    """Ten points, five times, of a group of ten images: error 5, so 10 ± 2.7764 · 5 and t = 2, p = 0.1161.

    Without the number of images there is no interval at all.
    """
    one = difference(by_seed(*[0.6] * 5, step=0.1), by_seed(*[0.5] * 5, step=0.1))
    assert (one.low, one.high) == pytest.approx((10 - 13.882, 10 + 13.882), abs=1e-3)
    assert one.p == pytest.approx(0.1161, abs=1e-4)
    unknown = difference(by_seed(*[0.5] * 5), by_seed(*[0.25] * 5))
    assert unknown.mean == 25
    assert all(map(isnan, (unknown.low, unknown.high, unknown.p)))


def test_an_interval_ends_where_accuracies_end() -> None:
    one = difference(by_seed(1.0, 0.2, 0.9, step=0.1), by_seed(0.0, 0.0, 0.0, step=0.1))
    assert (one.low, one.high) == (pytest.approx(70 - 4.30265 * stats.sem([100, 20, 90]), abs=1e-3), 100)


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


def test_two_rows_are_tied_by_students_t() -> None:
    """Differences 0, 2, 3, 4, 6 points: mean 3, s = √(20 / 4), error 1, t = 3, above t(0.975, 4) = 2.776.

    Of three equal rows the best is often 3 errors above another one, so there the same row is tied.
    """
    best, behind = by_seed(*[0.5] * 5), by_seed(0.5, 0.48, 0.47, 0.46, 0.44)
    assert difference(best, behind).mean / difference(best, behind).error == pytest.approx(3)
    assert tied({"best": best, "a": behind}, "best") == set()
    assert tied({"best": best, "a": behind, "b": behind}, "best") == {"a", "b"}
    assert tied({"best": by_seed(0.5, 0.5), "a": by_seed(0.5, 0.4)}, "best") == set()  # too few pairs


def test_a_row_at_a_constant_distance_is_tied_where_nothing_says_how_much_that_is() -> None:
    best, below = [0.5] * 5, [0.4] * 5
    assert tied({"best": by_seed(*best), "a": by_seed(*below)}, "best") == {"a"}
    assert tied({"best": by_seed(*best, step=0.01), "a": by_seed(*below, step=0.01)}, "best") == set()


def test_ties_need_five_pairs_and_a_difference_that_is_not_clear() -> None:
    values = [0.8 + 0.01 * seed for seed in range(5)]
    near = [value - 0.001 * (-1) ** seed for seed, value in enumerate(values)]
    rows = {"best": values, "near": near, "far": [value - 0.1 for value in values]}
    assert tied({row: by_seed(*own, step=0.01) for row, own in rows.items()}, "best") == {"near"}
    assert tied({row: by_seed(*own[:4], step=0.01) for row, own in rows.items()}, "best") == set()


def test_the_limit_grows_with_the_rows_and_falls_with_the_pairs() -> None:
    """Between the uncorrected test of one pair and Bonferroni's over all pairs of rows."""
    for pairs in (5, 10):
        limits = [critical(rows, pairs) for rows in (2, 3, 6, 12)]
        assert limits == sorted(limits)
        for rows, limit in zip((2, 3, 6, 12), limits, strict=True):
            assert limit <= stats.t.isf(0.025 / (rows * (rows - 1) / 2), pairs - 1) + 0.02
    assert critical(12, 10) < critical(12, 5)


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
