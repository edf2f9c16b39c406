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

from tune_lt.documents import TableCell
from tune_lt.report.tables.differences import Sample
from tune_lt.report.tables.sheet import of_groups
from tune_lt.report.tables.summary import (
    COLUMNS,
    Runs,
    Scored,
    Table,
    cells_at,
    runs_by_row,
    runs_of,
    summarise,
)
from tune_lt.store import CellRecord

MakeTable = Callable[..., Table[str]]
ROWS = ("softmax", "margin", "weight_ura", "margin+weight_ura")


def test_three_runs_by_hand() -> None:
    """0.5, 0.6, 0.7: mean 60, deviations -10, 0, 10, so std = √(200 / 2) = 10.

    t(0.975, 2 degrees of freedom) = 4.3027 (any printed table), half width 4.3027 · 10 / √3 = 24.84.
    """
    summary = summarise([0.5, 0.6, 0.7])
    assert (summary.mean, summary.std, summary.n) == pytest.approx((60, 10, 3))
    assert (summary.low, summary.high) == pytest.approx((60 - 24.84, 60 + 24.84), abs=0.005)


def test_two_runs_by_hand() -> None:
    """0.4, 0.6: mean 50, std = √((100 + 100) / 1) = 14.142; t(0.975, 1) = 12.706, half width 12.706 · 10 = 127.06.

    An accuracy lies between 0 and 100, and so does the interval.
    """
    summary = summarise([0.4, 0.6])
    assert (summary.mean, summary.std) == pytest.approx((50, 10 * sqrt(2)))
    assert (summary.low, summary.high) == (0, 100)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_agrees_with_scipy_and_the_standard_library(n: int) -> None:
    values = np.random.default_rng(n).uniform(0, 1, n)
    summary = summarise(values)
    percent = [100 * value for value in values.tolist()]
    assert summary.mean == pytest.approx(statistics.mean(percent))
    assert summary.std == pytest.approx(statistics.stdev(percent))
    low, high = stats.t.interval(0.95, n - 1, loc=summary.mean, scale=stats.sem(percent))
    assert (summary.low, summary.high) == pytest.approx((max(0, low), min(100, high)))


def test_one_run_has_a_mean_and_no_spread() -> None:
    summary = summarise([0.25])
    assert (summary.mean, summary.n) == (25, 1)
    assert all(map(isnan, (summary.std, summary.low, summary.high)))


def test_equal_runs_are_as_uncertain_as_half_an_image() -> None:
    """Three times 0.5 of 20 images: error 2.5, t(0.975, 2) = 4.3027, so 50 ± 10.757. Unknown images: no interval."""
    summary = summarise([0.5] * 3, Sample(dict.fromkeys(range(3), 0.5), step=1 / 20))
    assert (summary.std, summary.low, summary.high) == pytest.approx((0, 50 - 10.757, 50 + 10.757), abs=1e-3)
    assert all(map(isnan, (summarise([0.5] * 3).low, summarise([0.5] * 3).high)))


def test_the_interval_of_crossed_runs_is_over_their_data_seeds() -> None:
    """Six runs on three sub-samples, whose means are 50, 60 and 70: the interval of those three."""
    values = {(d, i): 0.5 + 0.1 * d + 0.03 * (2 * i - 1) for d in range(3) for i in range(2)}
    runs = Runs(tuple(Scored("", "", *pair, value) for pair, value in values.items()))
    assert (runs.summary.mean, runs.summary.n) == (pytest.approx(60), 6)
    assert (runs.summary.low, runs.summary.high) == pytest.approx((60 - 24.84, 60 + 24.84), abs=0.005)
    assert runs.summary.std == pytest.approx(statistics.stdev([100 * value for value in values.values()]))


@pytest.mark.parametrize("values", [[nan, 0.5, 0.6], [nan, nan], []])
def test_a_missing_value_is_not_averaged_away(values: list[float]) -> None:
    summary = summarise(values)
    assert summary.n == len(values)
    assert all(map(isnan, (summary.mean, summary.std, summary.low, summary.high)))


def test_a_complete_row_is_summarised_in_every_column(frame: pd.DataFrame, make_table: MakeTable) -> None:
    """softmax: Many 0.9 three times, Few half of Overall's 0.5, 0.6, 0.7, no Rare classes."""
    table = make_table(frame, ROWS, 3)
    assert set(table.runs) == {(row, column) for row in ROWS for column in COLUMNS}
    summaries = {column: table.runs["softmax", column].summary for column in COLUMNS}
    assert [summaries[c].mean for c in ("Many", "Medium", "Few", "Overall")] == pytest.approx([90, 60, 30, 60])
    assert summaries["Few"].std == pytest.approx(5)
    assert isnan(summaries["Rare"].mean)
    assert summaries["Rare"].n == 3


def test_each_column_shows_its_own_group(make_line: Callable[..., dict[str, Any]], make_table: MakeTable) -> None:
    table = make_table([make_line("softmax", 0, (0.1, 0.2, 0.3, 0.4, 0.25))], ["softmax"], 1)
    means = [table.runs["softmax", column].summary.mean for column in COLUMNS]
    assert means == pytest.approx([10, 20, 30, 40, 25])
    assert list(COLUMNS) == ["Many", "Medium", "Few", "Rare", "Overall"]


def test_an_incomplete_row_is_never_averaged(frame: pd.DataFrame, make_table: MakeTable) -> None:
    table = make_table(frame, ROWS, 3)
    for row, runs in (("margin", 1), ("weight_ura", 0)):
        for column in COLUMNS:
            cell = table.runs[row, column].summary
            assert cell.n == runs
            assert all(map(isnan, (cell.mean, cell.std, cell.low, cell.high)))
            assert row not in table.complete(column)
    missing = {row: runs.missing for row, runs in table.column("Overall").items()}
    assert missing == {"softmax": 0, "margin": 2, "weight_ura": 3, "margin+weight_ura": 0}


def test_of_runs_with_the_same_seeds_the_first_counts(
    frame: pd.DataFrame, make_line: Callable[..., dict[str, Any]]
) -> None:
    again = pd.DataFrame([make_line("softmax", 1, (0, 0, 0, 0, 0), run_id="again")])
    assert runs_of(pd.concat([frame, again]), "softmax")["run_id"].tolist() == ["softmax-0", "softmax-1", "softmax-2"]
    crossed = [
        make_line("softmax", 0, (0.5,) * 5, data_seed=data, init_seed=init) for data in range(2) for init in range(2)
    ]
    assert len(runs_of(pd.DataFrame(crossed), "softmax")) == 4


def test_a_row_has_the_cells_that_it_plans_at_a_factor_and_no_others() -> None:
    planned = {"a": [TableCell("a1", 10.0, 0, 0), TableCell("a2", 100.0, 0, 0)], "b": [TableCell("b1", 10.0, 0, 1)]}
    finished = {
        name: CellRecord(name, "FINISHED", name, {}, {"test/top1": 0.5}, {}, experiment="7")
        for name in ("a1", "a2", "x")
    }
    cells = cells_at(planned, 10.0)
    assert cells == {"a": (planned["a"][0],), "b": (planned["b"][0],)}
    runs = runs_by_row(cells, finished, {"Overall": "test/top1", "Rare": "test/rare"})
    assert [(one.run_id, one.experiment, one.value) for one in runs["a", "Overall"].runs] == [("a1", "7", 50.0)]
    assert (runs["a", "Overall"].missing, runs["b", "Overall"].missing) == (0, 1)
    assert isnan(runs["a", "Rare"].summary.mean)
    assert runs["b", "Overall"].summary.n == 0


def test_what_cannot_be_told_from_the_best_is_marked(
    make_line: Callable[..., dict[str, Any]], make_table: MakeTable
) -> None:
    """``near`` is 0.2 points off the best, up and down in turn; ``far`` about 10 points below, ``part`` incomplete."""
    spread = [0.81, 0.79, 0.80, 0.82, 0.78]
    values = {
        "best": spread,
        "near": [value - 0.0002 - 0.002 * (-1) ** seed for seed, value in enumerate(spread)],
        "far": [value - 0.1 - 0.001 * (-1) ** seed for seed, value in enumerate(spread)],
        "part": spread[:4],
    }
    lines = [make_line(row, s, (nan, nan, nan, nan, v)) for row, some in values.items() for s, v in enumerate(some)]
    table = make_table(lines, tuple(values), 5, "far")
    t = stats.ttest_rel(values["near"], values["best"])
    assert t.pvalue > 0.05
    assert table.tied("Overall") == {"near"}
    sheet = of_groups("t", "T", table)
    near = summarise(values["near"])
    far = summarise(values["far"])
    shown = ["80.00 ± 1.58", f"{near.mean:.2f} ± {near.std:.2f} ≈", f"{far.mean:.2f} ± {far.std:.2f}", "—"]
    assert [line[5] for line in sheet.lines] == shown
    assert sheet.bold == {(0, 5)}
    assert any(note.startswith("≈: cannot be told from the best") for note in sheet.notes)
    few = [line for line in lines if line["data_seed"] < 4]
    assert not make_table(few, ("best", "near"), 4).tied("Overall")  # four pairs are not tested


def test_rows_that_share_the_best_printed_mean_are_both_best_and_not_tied(
    make_line: Callable[..., dict[str, Any]], make_table: MakeTable
) -> None:
    """Means of 80 % up to the tenth decimal: both are bold, and ≈ is for rows below them."""
    spread = [0.81, 0.79, 0.80, 0.82, 0.78]
    values = {"one": spread, "same": spread[::-1], "near": [value - 0.0003 for value in spread[::-1]]}
    lines = [make_line(row, s, (nan, nan, nan, nan, v)) for row, some in values.items() for s, v in enumerate(some)]
    table = make_table(lines, tuple(values), 5)
    assert table.tied("Overall") == {"near"}
    assert of_groups("t", "T", table).bold == {(0, 5), (1, 5)}
