"""From the tidy frame of finished runs to a table: what is averaged, and what is too incomplete to be.

The frame has one line per finished final cell: ``row`` (the table row's name), ``loss``, ``data_seed``, ``init_seed``,
``run_id`` and ``experiment`` (MLflow's ids), the accuracies ``test/top1``, ``test/many``, ``test/medium``,
``test/few``, ``test/rare`` as fractions in [0, 1] (NaN for an empty group), and the lists ``class_counts``,
``per_class``, ``class_names`` (None where they were not read).
Everything that comes out of here is in percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan, sqrt

import numpy as np
import pandas as pd
from scipy import stats

from tune_lt.report.tables.differences import CONFIDENCE, Difference, Key, Pair, corrected, difference, tied

COLUMNS: Mapping[str, str] = {
    "Many": "test/many",
    "Medium": "test/medium",
    "Few": "test/few",
    "Rare": "test/rare",
    "Overall": "test/top1",
}
"""The table's columns in order, and the frame's column behind each."""


@dataclass(frozen=True)
class Summary:
    """One cell of a table, in percent: ``std`` has n - 1 in its denominator, [``low``, ``high``] is the 95 % interval.

    ``n`` counts the runs. ``std`` and the interval are NaN for fewer than two runs, everything but ``n`` is NaN where
    a run has no value (an empty group) or where runs are missing.
    """

    mean: float
    std: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Scored:
    """A finished run behind a cell: its MLflow ``run_id`` and ``experiment``, its seeds, its ``value`` in percent."""

    run_id: str
    experiment: str
    data_seed: int
    init_seed: int
    value: float

    @classmethod
    def of(cls, run_id: str, experiment: str, pair: Pair, fraction: float) -> Scored:
        """From a value as a fraction."""
        return cls(run_id, experiment, int(pair[0]), int(pair[1]), 100 * float(fraction))


@dataclass(frozen=True)
class Spec:
    """What a table should show: its ``rows`` in order, the number of runs ``expected`` of each, its footnotes.

    ``reference``: the row that the others are compared with, if there is one.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    expected: int
    notes: tuple[str, ...] = ()
    reference: str | None = None

    def __post_init__(self) -> None:
        if self.expected < 1:
            raise ValueError(f"table {self.name}: expected must be at least 1 run, not {self.expected}")


@dataclass(frozen=True)
class Table:
    """A table ready to be printed.

    ``cells[row, column]`` exists for every row of the spec and every name in `COLUMNS`; ``missing[row]`` is the number
    of runs still missing, holds incomplete rows only and answers 0 for any other; ``notes`` are the spec's footnotes
    and those that the runs themselves call for. ``differences[row, column]`` from the reference, corrected over the
    rows of a column, exist where the row and the reference are complete. ``runs[row, column]`` are those that the cell
    is the mean of; of an incomplete row those there are. ``tied`` rows cannot be told from the best of their column.
    """

    spec: Spec
    cells: Mapping[tuple[str, str], Summary]
    missing: Mapping[str, int]
    notes: tuple[str, ...] = ()
    differences: Mapping[tuple[str, str], Difference] = field(default_factory=dict)
    runs: Mapping[tuple[str, str], tuple[Scored, ...]] = field(default_factory=dict)
    tied: frozenset[tuple[str, str]] = frozenset()


def summarise(values: Iterable[float]) -> Summary:
    """Mean, standard deviation and 95 % interval of the mean of accuracies given as fractions, one per run.

    The interval is Student's t with n - 1 degrees of freedom, mean ± t · std / √n. It is not cut to [0, 100]:
    one that leaves that range says that there are too few runs. Nothing is ignored: one NaN makes all NaN.
    """
    percent = 100 * np.asarray(list(values), dtype=float)
    n = len(percent)
    if n == 0:
        return _unknown(0)
    mean = float(percent.mean())
    if n == 1:
        return Summary(mean, nan, n, nan, nan)
    std = float(percent.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / sqrt(n)  # t.interval is NaN where std is 0
    return Summary(mean, std, n, mean - half, mean + half)


def with_classes(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of a frame that have the accuracy of each class: of many runs only each row's first ones have."""
    return frame if frame.empty else frame[frame["per_class"].notna()]


def runs_of(frame: pd.DataFrame, row: str) -> pd.DataFrame:
    """The lines of ``row``, each pair of data seed and init seed once: a repetition adds no independent run.

    Of repetitions the first counts; the frame's order is the caller's choice.
    """
    return _lines(frame, row).drop_duplicates(["data_seed", "init_seed"])


def assemble(frame: pd.DataFrame, spec: Spec) -> Table:
    """The table of ``spec`` over the runs in ``frame`` (lines of rows that the spec does not name are left alone).

    A row with fewer runs than ``spec.expected`` is never averaged: its cells are NaN with ``n`` = the runs there are.
    Repetitions of a row's seeds are not counted (`runs_of`), and a note says so.
    """
    cells: dict[tuple[str, str], Summary] = {}
    behind: dict[tuple[str, str], tuple[Scored, ...]] = {}
    missing: Counter[str] = Counter()
    notes = list(spec.notes)
    for row in spec.rows:
        runs = runs_of(frame, row)
        n, again = len(runs), len(_lines(frame, row)) - len(runs)
        if n < spec.expected:
            missing[row] = spec.expected - n
        for column, source in COLUMNS.items():
            cells[row, column] = _unknown(n) if n < spec.expected else summarise(runs[source])
            behind[row, column] = _scored(runs, source) if n else ()
        if again:
            notes.append(f"{row}: {again} more {'run' if again == 1 else 'runs'} with the same seeds not counted.")
    differences, whole = _differences(frame, spec, missing), [row for row in spec.rows if not missing.get(row)]
    return Table(spec, cells, missing, tuple(notes), differences, behind, frozenset(_tied(frame, whole, cells)))


def best(means: Mapping[Key, float]) -> list[Key]:
    """Those with the highest printed mean; none where there is nothing to compare with."""
    printed = {name: round(mean, 2) for name, mean in means.items() if not isnan(mean)}
    return [name for name, mean in printed.items() if mean == max(printed.values())] if len(printed) > 1 else []


def _tied(
    frame: pd.DataFrame, whole: Sequence[str], cells: Mapping[tuple[str, str], Summary]
) -> Iterator[tuple[str, str]]:
    """The complete rows that a test cannot tell from the best one of a column, which itself is not among them."""
    for column, source in COLUMNS.items():
        top = best({row: cells[row, column].mean for row in whole})
        if top:
            values = {row: by_seeds(frame, row, [source]) for row in whole}
            yield from ((row, column) for row in tied(values, top[0]) - set(top))


def _scored(runs: pd.DataFrame, source: str) -> tuple[Scored, ...]:
    """Each of ``runs`` with its value in the frame's column ``source``."""
    columns = (runs["run_id"], runs["experiment"], runs["data_seed"], runs["init_seed"], runs[source])
    return tuple(
        Scored.of(run_id, experiment, (data, init), value)
        for run_id, experiment, data, init, value in zip(*columns, strict=True)
    )


def _differences(frame: pd.DataFrame, spec: Spec, missing: Mapping[str, int]) -> dict[tuple[str, str], Difference]:
    """Each complete row minus the complete reference, run by run of the same data seed and init seed."""
    whole = [row for row in spec.rows if not missing.get(row)]
    if spec.reference not in whole:
        return {}
    found: dict[tuple[str, str], Difference] = {}
    for column, source in COLUMNS.items():
        values = {row: by_seeds(frame, row, [source]) for row in whole}
        base = values.pop(spec.reference)
        compared = {(row, column): difference(own, base) for row, own in values.items() if own.keys() == base.keys()}
        found |= corrected(compared)
    return found


def by_seeds(frame: pd.DataFrame, row: str, metrics: Sequence[str]) -> dict[Pair, float]:
    """The mean of some metrics of each run of a row."""
    runs = runs_of(frame, row)
    means = runs[list(metrics)].mean(axis=1, skipna=False)
    return {
        (int(data), int(init)): float(value)
        for data, init, value in zip(runs["data_seed"], runs["init_seed"], means, strict=True)
    }


def _lines(frame: pd.DataFrame, row: str) -> pd.DataFrame:
    return frame if frame.empty else frame[frame["row"] == row]  # a frame of no runs may have no columns either


def _unknown(n: int) -> Summary:
    return Summary(nan, nan, n, nan, nan)
