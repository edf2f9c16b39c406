"""What a table is made of: the runs of each row in each column, their mean and spread, and how the rows differ.

Accuracies of runs are fractions in [0, 1]; a `Summary` is in percent, a `Difference` in points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan, nan
from typing import Generic, TypeVar

import numpy as np
import pandas as pd

from tune_lt.documents import TableCell
from tune_lt.report.tables.differences import (
    Difference,
    Draw,
    Pair,
    Sample,
    corrected,
    difference,
    interval,
    standard_error,
    tied,
)
from tune_lt.store import CellRecord

COLUMNS: Mapping[str, str] = {
    "Many": "test/many",
    "Medium": "test/medium",
    "Few": "test/few",
    "Rare": "test/rare",
    "Overall": "test/top1",
}
"""The columns of a table of groups in order, and the metric that each shows."""

Column = TypeVar("Column")


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1 in its denominator) and 95 % interval [``low``, ``high``] of ``n`` runs, in %.

    ``std`` is NaN for fewer than two runs, the interval for fewer than two units (`Sample`). Everything but ``n`` is
    NaN where a run has no value (a group without classes) or where runs are missing.
    """

    mean: float
    std: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Scored:
    """A finished run: its MLflow ``run_id`` and ``experiment``, its seeds, and its accuracy as a ``fraction``."""

    run_id: str
    experiment: str
    data_seed: int
    init_seed: int
    fraction: float

    @property
    def value(self) -> float:
        """The accuracy in percent."""
        return 100 * self.fraction


@dataclass(frozen=True)
class Runs:
    """The runs that one number of a table is made of.

    ``missing``: how many more the study has planned; as long as there are any, nothing is averaged. ``against``: the
    reference's runs, where the number is a difference. ``draw`` and ``step``: as in `Sample`.
    """

    runs: tuple[Scored, ...]
    missing: int = 0
    against: tuple[Scored, ...] = ()
    draw: Draw = "sub-sample"
    step: float = 0.0

    @cached_property
    def values(self) -> dict[Pair, float]:
        """The runs' accuracies as fractions, by data seed and init seed."""
        return {(run.data_seed, run.init_seed): run.fraction for run in self.runs}

    @cached_property
    def sample(self) -> Sample:
        """The units of the runs, for intervals and tests."""
        return Sample.of(self.values, self.draw, self.step)

    @cached_property
    def summary(self) -> Summary:
        """What a table shows of the runs: `summarise`, or NaN with the number of runs while some are missing."""
        if self.missing:
            return Summary(nan, nan, len(self.runs), nan, nan)
        return summarise(self.values.values(), self.sample)


@dataclass(frozen=True)
class Scoring:
    """How the runs of a study at one imbalance factor differ, and how finely they are scored.

    ``draw``: what the data seed does; ``steps``: metric -> `Sample.step`, without those that are not known.
    """

    draw: Draw = "sub-sample"
    steps: Mapping[str, float] = field(default_factory=dict)


UNKNOWN = Scoring()


@dataclass(frozen=True)
class Table(Generic[Column]):
    """Rows and columns before they are formatted: ``runs[row, column]``, which may lack places that no study plans.

    ``reference``: the row that the others are compared with, if it is one of ``rows``. ``pooled``: Holm's correction
    goes over all differences of the table; else over each column alone.
    """

    rows: Sequence[str]
    columns: Sequence[Column]
    runs: Mapping[tuple[str, Column], Runs]
    reference: str | None = None
    pooled: bool = False

    def column(self, column: Column) -> dict[str, Runs]:
        """The runs of each row in a column."""
        return {row: self.runs[row, column] for row in self.rows if (row, column) in self.runs}

    def complete(self, column: Column) -> dict[str, Runs]:
        """The rows of which no run is missing in a column."""
        return {row: runs for row, runs in self.column(column).items() if not runs.missing}

    @cached_property
    def differences(self) -> dict[tuple[str, Column], Difference]:
        """Each complete row minus the complete reference, over runs of the same seeds.

        A row whose seeds are not all the reference's is not compared.
        """
        found: dict[tuple[str, Column], Difference] = {}
        for column in self.columns:
            values = self.complete(column)
            base = values.pop(self.reference, Runs(())) if self.reference else Runs(())
            compared = {
                (row, column): difference(own.sample, base.sample)
                for row, own in values.items()
                if own.values.keys() == base.values.keys()
            }
            found |= compared if self.pooled else corrected(compared)
        return corrected(found) if self.pooled else found

    def best(self, column: Column) -> list[str]:
        """The complete rows with the highest printed mean of a column; none where fewer than two have a mean."""
        means = {row: round(runs.summary.mean, 2) for row, runs in self.complete(column).items()}
        known = {row: mean for row, mean in means.items() if not isnan(mean)}
        return [row for row, mean in known.items() if mean == max(known.values())] if len(known) > 1 else []

    def tied(self, column: Column) -> set[str]:
        """The complete rows below the best of a column that cannot be told from it."""
        top = self.best(column)
        values = {row: runs.sample for row, runs in self.complete(column).items()}
        return tied(values, top[0]) - set(top) if top else set()


def runs_by_row(
    rows: Mapping[str, Sequence[TableCell]],
    finished: Mapping[str, CellRecord],
    metrics: Mapping[str, str] = COLUMNS,
    scoring: Scoring = UNKNOWN,
) -> dict[tuple[str, str], Runs]:
    """The runs of each row in each column. ``rows``: planned cells; ``metrics``: by column, the metric that it shows.

    ``finished``: cells by fingerprint, as `Store.finished_cells` gives them; those that are not there are missing.
    """
    found = {}
    for row, cells in rows.items():
        done = [(cell, finished[cell.fingerprint]) for cell in cells if cell.fingerprint in finished]
        for column, metric in metrics.items():
            runs = [
                Scored(
                    record.run_id, record.experiment, cell.data_seed, cell.init_seed, record.metrics.get(metric, nan)
                )
                for cell, record in done
            ]
            step = scoring.steps.get(metric, 0.0)
            found[row, column] = Runs(tuple(runs), len(cells) - len(done), draw=scoring.draw, step=step)
    return found


def cells_at(rows: Mapping[str, Sequence[TableCell]], imbalance: float | None) -> dict[str, tuple[TableCell, ...]]:
    """The cells of each row that have an imbalance factor."""
    return {row: tuple(cell for cell in cells if cell.imbalance == imbalance) for row, cells in rows.items()}


def records_of(rows: Mapping[str, Sequence[TableCell]], finished: Mapping[str, CellRecord]) -> list[CellRecord]:
    """The finished cells of all rows; two rows may share some."""
    return [finished[cell.fingerprint] for cells in rows.values() for cell in cells if cell.fingerprint in finished]


def summarise(values: Iterable[float], sample: Sample | None = None) -> Summary:
    """Mean, standard deviation and 95 % interval of the mean of accuracies given as fractions, one per run.

    The interval is Student's t over the units of ``sample``, by default every run is one, within [0, 100]. If one value
    is NaN, so is the result.
    """
    fractions = list(values)
    percent = 100 * np.asarray(fractions, dtype=float)
    own = sample or Sample(dict(enumerate(fractions)))
    n = len(percent)
    if n == 0:
        return Summary(nan, nan, 0, nan, nan)
    mean = float(percent.mean())
    std = float(percent.std(ddof=1)) if n > 1 else nan
    units = 100 * np.array(list(own.values.values()))
    error = standard_error(units, own.step, own.overlap) if len(units) > 1 else nan
    low, high = map(float, interval(mean, error, len(units), 0)) if error > 0 else (nan, nan)
    return Summary(mean, std, n, low, high)


def with_classes(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of a report's frame that have the accuracy of each class: in large studies not all have it."""
    return frame[frame["per_class"].notna()]


def runs_of(frame: pd.DataFrame, row: str) -> pd.DataFrame:
    """The lines of a row in a report's frame, the first of each pair of seeds: a repeated run is no independent one."""
    return frame[frame["row"] == row].drop_duplicates(["data_seed", "init_seed"])
