"""A table as texts, which every format prints (`Sheet`), and how tables of accuracies become one.

Accuracies are in percent with two decimals, as the paper prints them; "—" where there is no number. The highest printed
mean of a column is bold, among complete rows; the legend says that this is no test of significance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from typing import Literal

import pandas as pd

from tune_lt.report.tables.differences import LEAST, PAIRS_TO_TEST, Difference
from tune_lt.report.tables.summary import Column, Runs, Summary, Table
from tune_lt.study import smaller

TIED = "≈"
LEGEND = (
    "Accuracy in %: mean ± standard deviation over the runs; 95 % interval of the mean by Student's t. "
    "No standard error is taken to be below half of what one sealed image changes. Bold: the highest mean of the "
    "column, not a test of significance."
)
TIES = (
    f"{TIED}: cannot be told from the best of the column, paired by seeds, from {PAIRS_TO_TEST} pairs on. Where all "
    "rows are equal, a column lacks such a mark in 5 % of the tables."
)
NONE = "—"
_COMPARED = {  # a difference's fields, as the CSV file names them
    "mean": "difference",
    "low": "difference_low",
    "high": "difference_high",
    "pairs": "pairs",
    "p": "p",
    "holm": "p_holm",
    "error": "difference_error",
}


@dataclass(frozen=True)
class Sheet:
    """A table to be printed: the ``lines`` below its ``header``, the first ``left`` columns of which are text.

    ``data``: the same in full precision, for the CSV file; ``notes``: the footnotes. ``bold`` holds (line, column) and
    ``dim`` lines, by index. ``narrow``: what a terminal shows in place of a long name in the header. ``behind``: the
    runs that a number is made of, by (line, column).
    """

    name: str
    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    data: pd.DataFrame
    notes: tuple[str, ...] = ()
    left: int = 1
    bold: frozenset[tuple[int, int]] = frozenset()
    dim: frozenset[int] = frozenset()
    narrow: Mapping[str, str] = field(default_factory=dict)
    behind: Mapping[tuple[int, int], Runs] = field(default_factory=dict)


@dataclass(frozen=True)
class TextColumn:
    """A column of a table with a line for each row: its ``name``, and by row the ``texts`` to print.

    ``bold``: the rows whose text is bold; ``runs``: those that a row's text is made of; ``narrow``: as in `Sheet`.
    """

    name: str
    texts: Mapping[str, str]
    bold: Collection[str] = ()
    runs: Mapping[str, Runs] = field(default_factory=dict)
    narrow: str = ""


def of_columns(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[TextColumn],
    data: pd.DataFrame,
    notes: Iterable[str],
    dim: Collection[str] = (),
) -> Sheet:
    """A table with a line for each row: the row's name, then its text in every column."""
    places = [(line, row, at, column) for line, row in enumerate(rows) for at, column in enumerate(columns, start=1)]
    return Sheet(
        name,
        title,
        ("Method", *(column.name for column in columns)),
        tuple((row, *(column.texts[row] for column in columns)) for row in rows),
        data,
        tuple(notes),
        bold=frozenset((line, at) for line, row, at, column in places if row in column.bold),
        dim=frozenset(line for line, row in enumerate(rows) if row in dim),
        narrow={column.name: column.narrow for column in columns if column.narrow},
        behind={(line, at): column.runs[row] for line, row, at, column in places if row in column.runs},
    )


def of_groups(name: str, title: str, table: Table[str], notes: Iterable[str] = ()) -> Sheet:
    """Each row's accuracy in every group of classes, and how it differs from the reference if there is one.

    The data is tidy: a line for each row and column of the table. An incomplete row has its ``n`` and no numbers.
    """
    overall = table.column("Overall")
    columns = [means(table, column, column) for column in table.columns]
    intervals = {row: _interval(runs.summary) for row, runs in overall.items()}
    columns.append(TextColumn("Overall 95 % interval", intervals, runs=overall, narrow="Overall\n95 % CI"))
    if table.differences:
        columns.append(gains(table, "Overall", f"Δ Overall vs {table.reference} [95 % CI]", "Δ\n95 % CI"))
    columns.append(_counts(table, ["Overall"]))
    own = [LEGEND, *_ties(table), *_compared_how(table, "the rows"), *notes]
    return of_columns(name, title, table.rows, columns, data(table, "column"), own, _incomplete(table))


def of_factors(name: str, title: str, table: Table[str], what: str, notes: Iterable[str] = ()) -> Sheet:
    """Overall accuracy by the levels of a factor, as the paper's Table 1 shows it by imbalance factors.

    ``table``: a column for each level; ``what`` the factor is called.
    """
    columns = [means(table, level, level) for level in table.columns]
    compared = dict.fromkeys(level for _, level in table.differences)
    columns += [gains(table, level, f"Δ {level} [95 % CI]", f"Δ {level}\n95 % CI") for level in compared]
    columns.append(_counts(table, table.columns))
    own = [LEGEND.replace("; 95 % interval of the mean by Student's t", ""), f"Columns: {what}, accuracy Overall."]
    own += [*_ties(table), *_compared_how(table, "all comparisons of this table")]
    missing = sum(runs.missing for runs in table.runs.values())
    if missing:
        wanted = missing + sum(len(runs.runs) for runs in table.runs.values())
        own.append(f"{missing} of {wanted} runs are missing; where one is, nothing is averaged.")
    lines = data(table, what.replace(" ", "_"))
    return of_columns(name, title, table.rows, columns, lines, [*own, *notes], _incomplete(table))


def means(table: Table[Column], column: Column, name: str, narrow: str = "") -> TextColumn:
    """Each row's mean ± standard deviation; the highest is bold, and what a test cannot tell from it is marked."""
    runs, tied = table.column(column), table.tied(column)
    texts = {row: mean_std(own.summary) + (f" {TIED}" if row in tied else "") for row, own in runs.items()}
    return TextColumn(name, texts, table.best(column), runs, narrow)


def gains(table: Table[Column], column: Column, name: str, narrow: str = "") -> TextColumn:
    """How much each row is above the reference, in points, with the 95 % interval."""
    texts, runs = {}, {}
    for row in table.rows:
        one = table.differences.get((row, column))
        texts[row] = difference_text(one)
        if one and table.reference:
            runs[row] = Runs(table.runs[row, column].runs, against=table.runs[table.reference, column].runs)
    return TextColumn(name, texts, (), runs, narrow)


def _counts(table: Table[Column], columns: Sequence[Column]) -> TextColumn:
    """How many runs a row has: one number where every column has all of them."""
    texts, runs = {}, {}
    for row in table.rows:
        every = [table.runs[row, column] for column in columns]
        runs[row] = Runs(tuple(run for one in every for run in one.runs), sum(one.missing for one in every))
        counts = [len(one.runs) for one in every]
        texts[row] = "/".join(map(str, counts if len(set(counts)) > 1 else counts[:1]))
        if runs[row].missing:
            texts[row] += f" of {counts[0] + every[0].missing} runs"
    return TextColumn("Runs", texts, (), runs)


def _incomplete(table: Table[Column]) -> set[str]:
    """The rows that are complete in no column."""
    return set(table.rows) - {row for column in table.columns for row in table.complete(column)}


def data(table: Table[Column], name: str) -> pd.DataFrame:
    """A line for each row and column, whose header is ``name``, in full precision; differences where there are any."""
    lines = []
    for row in table.rows:
        for column in table.columns:
            one = table.differences.get((row, column))
            compared = {_COMPARED[key]: value for key, value in asdict(one).items()} if one else {}
            lines.append({"row": row, name: column, **asdict(table.runs[row, column].summary), **compared})
    return pd.DataFrame(lines)


def scale_note(scale: str) -> str:
    """The footnote on a study that was not run at its full scale; "" for one that was."""
    warning = smaller(scale)
    return f"{warning[0].upper()}{warning[1:]}." if warning else ""


def marked(sheet: Sheet, scale: str) -> Sheet:
    """The table; of a study that was not run at its full scale it says so."""
    note = scale_note(scale)
    if not note:
        return sheet
    return replace(sheet, title=f"{sheet.title} (scale {scale})", notes=(note, *sheet.notes))


def mean_std(cell: Summary) -> str:
    """A mean with its standard deviation, where there are any."""
    return plus_minus(cell.mean, cell.std)


def plus_minus(mean: float, spread: float, sign: Literal["", "+"] = "") -> str:
    """Two decimals of each; the mean alone where the spread is NaN. ``sign``: "+" shows that of a positive mean."""
    if isnan(mean):
        return NONE
    return f"{mean:{sign}.2f}" if isnan(spread) else f"{mean:{sign}.2f} ± {spread:.2f}"


def _interval(cell: Summary) -> str:
    return NONE if isnan(cell.low) else f"[{cell.low:.2f}, {cell.high:.2f}]"


def difference_text(one: Difference | None) -> str:
    """A difference with its interval and corrected p-value, where there are any."""
    if one is None or isnan(one.mean):
        return NONE
    text = f"{one.mean:+.2f}" + ("" if isnan(one.low) else f" [{one.low:+.2f}, {one.high:+.2f}]")
    if not isnan(one.holm):
        text += ", p < 0.001" if one.holm < 0.001 else f", p {one.holm:.3f}"
    return text.replace("-", "−")


def _ties(table: Table[Column]) -> list[str]:
    """The footnote on marks of ties, if there are any."""
    return [TIES] if any(map(table.tied, table.columns)) else []


def _compared_how(table: Table[Column], over: str) -> list[str]:
    """The footnote on columns of differences, if there are any."""
    if not table.differences:
        return []
    how = f"Δ: points of Overall more than {table.reference}, paired by seeds"
    pairs = max(one.pairs for one in table.differences.values())
    if pairs < LEAST:
        return [f"{how}; too few seeds for an interval, which takes {LEAST}."]
    if pairs < PAIRS_TO_TEST:
        return [
            f"{how}, each interval for itself: with fewer than {PAIRS_TO_TEST} pairs nothing is tested or corrected."
        ]
    return [f"{how}; p: paired t-test, two-sided, Holm's correction over {over}."]
