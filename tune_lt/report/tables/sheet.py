"""What every format prints: a table as texts, whatever it is about; and the tables of accuracies in that form.

Percent with two decimals, as the paper prints them; "—" where there is no number to show. The best mean of a column is
bold, among complete rows and by what is printed; that is no statement about significance, and the legend says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isnan

import pandas as pd

from tune_lt.report.tables.differences import PAIRS_TO_TEST, Difference, corrected
from tune_lt.report.tables.summary import COLUMNS, Scored, Summary, Table, best
from tune_lt.study import smaller

TIED = "≈"
LEGEND = (
    "Accuracy in %: mean ± standard deviation over the runs; 95 % interval of the mean by Student's t. "
    "Bold: the highest mean of the column, not a test of significance."
)
TIES = (
    f"{TIED}: not distinguishable from the best of the column (paired t-test against it, two-sided, Holm's correction "
    "over the column, p ≥ 0.05; from 5 pairs on)."
)
NONE = "—"
_RUNS = "Runs"
_COMPARED = {  # a difference's fields, as the CSV file names them
    "mean": "difference",
    "low": "difference_low",
    "high": "difference_high",
    "pairs": "pairs",
    "p": "p",
    "holm": "p_holm",
}
_INTERVAL = "Overall 95 % interval"


@dataclass(frozen=True)
class Behind:
    """The runs that a cell is made of, and those of the reference that it is a difference ``against``.

    ``missing`` counts those there should be more: then nothing is averaged, and ``runs`` are those there are.
    """

    runs: tuple[Scored, ...]
    against: tuple[Scored, ...] = ()
    missing: int = 0


@dataclass(frozen=True)
class Sheet:
    """A table to be printed: the ``lines`` below its ``header``, the first ``left`` columns of which are text.

    ``bold`` are (line, column), ``dim`` lines, by index. ``narrow``: what a terminal shows in place of a long name in
    the header. ``data`` is what the table says in full precision, for the CSV file. ``behind``: by (line, column).
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
    behind: Mapping[tuple[int, int], Behind] = field(default_factory=dict)


def of_groups(table: Table) -> Sheet:
    """A row's accuracy in every group of classes, and how it differs from the reference where there is one.

    The data is tidy: a line for each row and column of the table. An incomplete row has its ``n`` and no numbers.
    """
    spec = table.spec
    against = f"Δ Overall vs {spec.reference} [95 % CI]"
    compared = (against,) if table.differences else ()
    lines = []
    for row in spec.rows:
        overall = table.cells[row, "Overall"]
        means = [_shown(table, row, column) for column in COLUMNS]
        gain = [difference_text(table.differences.get((row, "Overall")))] if compared else []
        lines.append((row, *means, _interval(overall), *gain, _count([overall.n], spec.expected)))
    shown = [one for (_, column), one in table.differences.items() if column == "Overall"]
    notes = (LEGEND, *_ties([table]), *_compared_how(shown, spec.reference, "the rows"), *table.notes)
    bold = [best({line: table.cells[row, column].mean for line, row in enumerate(spec.rows)}) for column in COLUMNS]
    return Sheet(
        spec.name,
        spec.title,
        ("Method", *COLUMNS, _INTERVAL, *compared, _RUNS),
        tuple(lines),
        _data((*key, cell, table.differences.get(key)) for key, cell in table.cells.items()),
        notes,
        bold=frozenset((line, 1 + column) for column, rows in enumerate(bold) for line in rows),
        dim=frozenset(line for line, row in enumerate(spec.rows) if table.missing.get(row)),
        narrow={_INTERVAL: "Overall\n95 % CI", against: "Δ\n95 % CI"},
        behind=_behind(
            [(table, column) for column in COLUMNS] + [(table, "Overall")], [table] * len(compared), [table]
        ),
    )


def of_factors(tables: Mapping[str, Table], name: str, title: str, what: str) -> Sheet:
    """Overall accuracy, rows by the levels of a factor: what the paper's Table 1 shows of its imbalance factors.

    ``tables``: one for each level, all with the same rows; ``what`` the factor is called. The differences are corrected
    over the whole sheet.
    """
    first = next(iter(tables.values()))
    rows, reference = first.spec.rows, first.spec.reference
    pooled = corrected(
        {
            (row, level): one
            for level, table in tables.items()
            for (row, column), one in table.differences.items()
            if column == "Overall"
        }
    )
    gains = [level for level, table in tables.items() if table.differences]
    lines = []
    for row in rows:
        cells = [table.cells[row, "Overall"] for table in tables.values()]
        texts = [_shown(table, row, "Overall") for table in tables.values()]
        texts += [difference_text(pooled.get((row, level))) for level in gains]
        lines.append((row, *texts, _count([cell.n for cell in cells], first.spec.expected)))
    missing = sum(sum(table.missing.values()) for table in tables.values())
    wanted = len(rows) * len(tables) * first.spec.expected
    notes = [LEGEND.replace("; 95 % interval of the mean by Student's t", ""), f"Columns: {what}, accuracy Overall."]
    notes += [*_ties(tables.values()), *_compared_how(pooled.values(), reference, "all comparisons of this table")]
    if missing:
        notes.append(f"{missing} of {wanted} runs are missing; where one is, nothing is averaged.")
    notes += dict.fromkeys(note for table in tables.values() for note in table.notes)
    bold = [
        best({line: table.cells[row, "Overall"].mean for line, row in enumerate(rows)}) for table in tables.values()
    ]
    data = [
        (row, level, table.cells[row, "Overall"], pooled.get((row, level)))
        for level, table in tables.items()
        for row in rows
    ]
    return Sheet(
        name,
        title,
        ("Method", *tables, *(f"Δ {level} [95 % CI]" for level in gains), _RUNS),
        tuple(lines),
        _data(data, what.replace(" ", "_")),
        tuple(notes),
        bold=frozenset((line, 1 + column) for column, some in enumerate(bold) for line in some),
        dim=frozenset(
            line for line, row in enumerate(rows) if all(table.missing.get(row) for table in tables.values())
        ),
        narrow={f"Δ {level} [95 % CI]": f"Δ {level}\n95 % CI" for level in gains},
        behind=_behind(
            [(table, "Overall") for table in tables.values()],
            [tables[level] for level in gains],
            list(tables.values()),
        ),
    )


def _behind(
    means: Sequence[tuple[Table, str]], gains: Sequence[Table], counted: Sequence[Table]
) -> dict[tuple[int, int], Behind]:
    """The runs behind a sheet's cells: those of the ``means``, then of the differences, then of the number of runs."""
    found: dict[tuple[int, int], Behind] = {}
    spec = counted[0].spec
    for line, row in enumerate(spec.rows):
        for column, (table, name) in enumerate(means, start=1):
            found[line, column] = Behind(table.runs.get((row, name), ()), missing=table.missing.get(row, 0))
        for column, table in enumerate(gains, start=1 + len(means)):
            if (row, "Overall") in table.differences and spec.reference is not None:
                found[line, column] = Behind(_overall(table, row), _overall(table, spec.reference))
        runs = tuple(run for table in counted for run in _overall(table, row))
        missing = sum(table.missing.get(row, 0) for table in counted)
        found[line, 1 + len(means) + len(gains)] = Behind(runs, missing=missing)
    return found


def _overall(table: Table, row: str) -> tuple[Scored, ...]:
    return table.runs.get((row, "Overall"), ())


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


def _shown(table: Table, row: str, column: str) -> str:
    return mean_std(table.cells[row, column]) + (f" {TIED}" if (row, column) in table.tied else "")


def _ties(tables: Iterable[Table]) -> list[str]:
    """The footnote that marks of equals call for."""
    return [TIES] if any(table.tied for table in tables) else []


def mean_std(cell: Summary) -> str:
    """A mean with its standard deviation, where there are any."""
    return plus_minus(cell.mean, cell.std)


def plus_minus(mean: float, spread: float) -> str:
    """Two decimals of each; the mean alone where the spread is NaN."""
    if isnan(mean):
        return NONE
    return f"{mean:.2f}" if isnan(spread) else f"{mean:.2f} ± {spread:.2f}"


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


def _compared_how(differences: Iterable[Difference], reference: str | None, over: str) -> list[str]:
    """The footnote that a column of differences calls for."""
    some = list(differences)
    if not some:
        return []
    how = f"Δ: points of Overall more than {reference}, over runs paired by data seed and init seed"
    if all(isnan(one.p) for one in some):
        return [f"{how}; no test with fewer than {PAIRS_TO_TEST} pairs."]
    return [f"{how}; p: paired t-test, two-sided, Holm's correction over {over}."]


def _count(counts: Sequence[int], expected: int) -> str:
    """How many runs stand behind a line: one number where every column has all of them."""
    if min(counts) >= expected:
        return str(min(counts))
    shown = [str(counts[0])] if len(set(counts)) == 1 else map(str, counts)
    return f"{'/'.join(shown)} of {expected} runs"


def _data(lines: Iterable[tuple[str, str, Summary, Difference | None]], column: str = "column") -> pd.DataFrame:
    """(row, column, accuracy, difference) in full precision; the differences' columns where there are any."""
    content = []
    for row, level, cell, one in lines:
        compared = {_COMPARED[name]: value for name, value in asdict(one).items()} if one else {}
        content.append({"row": row, column: level, **asdict(cell), **compared})
    names = ["row", column, "mean", "std", "n", "low", "high"]
    extra = list(_COMPARED.values()) if any("difference" in line for line in content) else []
    return pd.DataFrame(content, columns=names + extra)
