"""What is averaged in a table, and what must not be."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from math import isnan, nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tune_lt.report.tables.sheet import of_groups
from tune_lt.report.tables.summary import COLUMNS, Spec, assemble, runs_of, summarise

ROWS = ("softmax", "margin", "weight_ura", "margin+weight_ura")
SPEC = Spec("ablation", "Ablation", ROWS, expected=3, notes=("A footnote.",))


def test_three_runs_by_hand() -> None:
    """0.5, 0.6, 0.7: mean 60, deviations -10, 0, 10, so std = √(200 / 2) = 10.

    t(0.975, 2 degrees of freedom) = 4.3027 (any printed table), half width 4.3027 · 10 / √3 = 24.84.
    """
    summary = summarise([0.5, 0.6, 0.7])
    assert (summary.mean, summary.std, summary.n) == pytest.approx((60, 10, 3))
    assert (summary.low, summary.high) == pytest.approx((60 - 24.84, 60 + 24.84), abs=0.005)


def test_two_runs_by_hand() -> None:
    """0.4, 0.6: mean 50, std = √((100 + 100) / 1) = 14.142; t(0.975, 1) = 12.706, half width 12.706 · 10 = 127.06.

    The interval leaves [0, 100] and is left so.
    """
    summary = summarise([0.4, 0.6])
    assert (summary.mean, summary.std) == pytest.approx((50, 10 * sqrt(2)))
    assert (summary.low, summary.high) == pytest.approx((-77.06, 177.06), abs=0.005)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_agrees_with_scipy_and_the_standard_library(n: int) -> None:
    values = np.random.default_rng(n).uniform(0, 1, n)
    summary = summarise(values)
    percent = [100 * value for value in values.tolist()]
    assert summary.mean == pytest.approx(statistics.mean(percent))
    assert summary.std == pytest.approx(statistics.stdev(percent))
    interval = stats.t.interval(0.95, n - 1, loc=summary.mean, scale=stats.sem(percent))
    assert (summary.low, summary.high) == pytest.approx(interval)


def test_one_run_has_a_mean_and_no_spread() -> None:
    summary = summarise([0.25])
    assert (summary.mean, summary.n) == (25, 1)
    assert all(map(isnan, (summary.std, summary.low, summary.high)))


def test_equal_runs_have_an_interval_of_no_width() -> None:
    summary = summarise([0.5, 0.5, 0.5])
    assert (summary.std, summary.low, summary.high) == (0, 50, 50)


@pytest.mark.parametrize("values", [[nan, 0.5, 0.6], [nan, nan], []])
def test_a_missing_value_is_not_averaged_away(values: list[float]) -> None:
    summary = summarise(values)
    assert summary.n == len(values)
    assert all(map(isnan, (summary.mean, summary.std, summary.low, summary.high)))


def test_a_complete_row_is_summarised_in_every_column(frame: pd.DataFrame) -> None:
    """softmax: Many 0.9 three times, Few half of Overall's 0.5, 0.6, 0.7, no Rare classes."""
    table = assemble(frame, SPEC)
    assert set(table.cells) == {(row, column) for row in ROWS for column in COLUMNS}
    assert [table.cells["softmax", c].mean for c in ("Many", "Medium", "Few", "Overall")] == pytest.approx(
        [90, 60, 30, 60]
    )
    assert table.cells["softmax", "Few"].std == pytest.approx(5)
    assert isnan(table.cells["softmax", "Rare"].mean)
    assert table.cells["softmax", "Rare"].n == 3


def test_each_column_shows_its_own_group(make_line: Callable[..., dict[str, Any]]) -> None:
    frame = pd.DataFrame([make_line("softmax", 0, (0.1, 0.2, 0.3, 0.4, 0.25))])
    table = assemble(frame, Spec("t", "T", ("softmax",), expected=1))
    assert [table.cells["softmax", column].mean for column in COLUMNS] == pytest.approx([10, 20, 30, 40, 25])
    assert list(COLUMNS) == ["Many", "Medium", "Few", "Rare", "Overall"]


def test_an_incomplete_row_is_never_averaged(frame: pd.DataFrame) -> None:
    table = assemble(frame, SPEC)
    for row, runs in (("margin", 1), ("weight_ura", 0)):
        for column in COLUMNS:
            cell = table.cells[row, column]
            assert cell.n == runs
            assert all(map(isnan, (cell.mean, cell.std, cell.low, cell.high)))


def test_missing_names_the_incomplete_rows_only(frame: pd.DataFrame) -> None:
    missing = assemble(frame, SPEC).missing
    assert dict(missing) == {"margin": 2, "weight_ura": 3}
    assert missing["softmax"] == 0


def test_more_runs_than_expected_all_count(frame: pd.DataFrame) -> None:
    table = assemble(frame, Spec("t", "T", ("softmax",), expected=2))
    assert not table.missing
    assert table.cells["softmax", "Overall"].n == 3


def test_a_repeated_run_counts_once_and_is_mentioned(
    frame: pd.DataFrame, make_line: Callable[..., dict[str, Any]]
) -> None:
    again = pd.DataFrame([make_line("softmax", 1, (0, 0, 0, 0, 0), run_id="again")])
    table = assemble(pd.concat([frame, again]), SPEC)
    assert table.cells["softmax", "Overall"].mean == pytest.approx(60)
    assert table.cells["softmax", "Overall"].n == 3
    assert table.notes == ("A footnote.", "softmax: 1 more run with the same seeds not counted.")


def test_repetitions_do_not_complete_a_row(frame: pd.DataFrame) -> None:
    margin = frame[frame["row"] == "margin"]
    table = assemble(pd.concat([margin, margin, margin]), SPEC)
    assert table.missing["margin"] == 2
    assert "margin: 2 more runs with the same seeds not counted." in table.notes


def test_crossed_seeds_are_different_runs(make_line: Callable[..., dict[str, Any]]) -> None:
    lines = [
        make_line("softmax", 0, (0.5,) * 5, data_seed=data, init_seed=init) for data in range(2) for init in range(2)
    ]
    assert len(runs_of(pd.DataFrame(lines), "softmax")) == 4


def test_lines_of_other_rows_are_left_alone(frame: pd.DataFrame) -> None:
    table = assemble(frame, Spec("t", "T", ("softmax",), expected=3))
    assert {row for row, _ in table.cells} == {"softmax"}
    assert not table.notes


@pytest.mark.parametrize("columns", [(), ("row", "data_seed", "init_seed", "test/top1")])
def test_a_study_without_runs_gives_a_table_of_missing_rows(columns: tuple[str, ...]) -> None:
    table = assemble(pd.DataFrame(columns=list(columns)), SPEC)
    assert dict(table.missing) == dict.fromkeys(ROWS, 3)
    assert all(isnan(cell.mean) and cell.n == 0 for cell in table.cells.values())


def test_a_table_that_expects_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 run"):
        Spec("t", "T", ("softmax",), expected=0)


def test_what_a_test_cannot_tell_from_the_best_is_marked(make_line: Callable[..., dict[str, Any]]) -> None:
    """``near`` is 0.2 points off the best, up and down in turn; ``far`` 10 points below, ``part`` incomplete."""
    spread = [0.81, 0.79, 0.80, 0.82, 0.78]
    values = {
        "best": spread,
        "near": [value - 0.0002 - 0.002 * (-1) ** seed for seed, value in enumerate(spread)],
        "far": [value - 0.1 for value in spread],
        "part": spread[:4],
    }
    lines = [make_line(row, s, (nan, nan, nan, nan, v)) for row, some in values.items() for s, v in enumerate(some)]
    table = assemble(pd.DataFrame(lines), Spec("t", "T", tuple(values), 5, reference="far"))
    t = stats.ttest_rel(values["near"], values["best"])
    assert t.pvalue > 0.05
    assert table.tied == {("near", "Overall")}
    sheet = of_groups(table)
    near = summarise(values["near"])
    shown = ["80.00 ± 1.58", f"{near.mean:.2f} ± {near.std:.2f} ≈", "70.00 ± 1.58", "—"]
    assert [line[5] for line in sheet.lines] == shown
    assert sheet.bold == {(0, 5)}
    assert any(note.startswith("≈: not distinguishable") for note in sheet.notes)
    few = [line for line in lines if line["data_seed"] < 4]
    assert not assemble(pd.DataFrame(few), Spec("t", "T", ("best", "near"), 4)).tied  # four pairs are not tested


def test_rows_that_share_the_best_printed_mean_are_both_best_and_not_tied(
    make_line: Callable[..., dict[str, Any]],
) -> None:
    """Means of 80 % up to the tenth decimal: both are bold, and ≈ is for rows below them."""
    spread = [0.81, 0.79, 0.80, 0.82, 0.78]
    values = {"one": spread, "same": spread[::-1], "near": [value - 0.0003 for value in spread[::-1]]}
    lines = [make_line(row, s, (nan, nan, nan, nan, v)) for row, some in values.items() for s, v in enumerate(some)]
    table = assemble(pd.DataFrame(lines), Spec("t", "T", tuple(values), 5))
    assert table.tied == {("near", "Overall")}
    assert of_groups(table).bold == {(0, 5), (1, 5)}
