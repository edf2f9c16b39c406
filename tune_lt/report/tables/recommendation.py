"""What a study recommends: the row that held-out images chose, and what the sealed test says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from tune_lt.documents import Contents, SearchResult
from tune_lt.report.tables.differences import Difference, Pair, difference
from tune_lt.report.tables.searches import listed
from tune_lt.report.tables.sheet import Sheet, TextColumn, data, difference_text, mean_std, of_columns, plus_minus
from tune_lt.report.tables.summary import COLUMNS, Table, cells_at, records_of, runs_by_row
from tune_lt.store import CellRecord
from tune_lt.study.rows import REFERENCE, plain_row

NAME = "recommendation"
TAIL = ("Few", "Rare")
BALANCED = "balanced"  # not a column of the table: the mean over classes
HONEST = (
    "Held-out training images made the choice and the sealed test had no part in it, so these differences are not "
    "flattered by having been chosen."
)


def sheet(content: Contents, searched: Sequence[SearchResult], finished: Mapping[str, CellRecord]) -> Sheet | None:
    """The recommended row beside plain cross-entropy, and what follows in sentences; None if the study recommends none.

    ``content``: the study's ``cells.json``; ``finished``: cells by fingerprint, as `Store.finished_cells` gives them.
    """
    chosen = content.recommended
    if chosen is None or not records_of(content.rows, finished):
        return None
    row, reference = chosen.row, plain_row(content.rows)
    imbalance = next(cell.imbalance for cell in content.rows[row] if cell.fingerprint == chosen.fingerprint)
    rows = [row] if reference in (None, row) else [str(reference), row]
    runs = runs_by_row(cells_at(content.rows, imbalance), finished, {**COLUMNS, BALANCED: "test/balanced"})
    table = Table(rows, list(COLUMNS), runs, reference if len(rows) == 2 else None)
    last = [f"Δ vs {reference} [95 % CI]"] if table.differences else []
    columns = []
    for column in COLUMNS:
        own = table.column(column)
        texts = {name: mean_std(one.summary) for name, one in own.items()}
        texts |= {name: difference_text(table.differences[row, column]) for name in last}
        columns.append(TextColumn(column, texts, runs=own))
    return of_columns(
        NAME,
        f"Recommendation: {row}",
        [*rows, *last],
        columns,
        data(table, "column"),
        [*_why(chosen.search, searched), *_no_choice(content, searched), *_gains(table, row), HONEST],
        dim=[name for name in rows if runs[name, "Overall"].missing],
    )


def _why(search: str, searched: Sequence[SearchResult]) -> list[str]:
    """How the held-out images chose this search among those of the study."""
    one = next(one for one in searched if one.name == search)
    metrics = one.objectives
    found = f"{search}: {listed(one.best.found)}."
    score = ", ".join(
        f"{metric} {plus_minus(100 * one.best.value(metric), 100 * one.best.standard_error(metric))} %"
        for metric in metrics
    )
    others = [other for other in searched if other is not one]
    if not others:
        return [found, f"Its best trial reached {score} on held-out images; no other loss was searched."]
    following = max(others, key=lambda other: sum(other.best.value(metric) for metric in metrics))
    return [
        found,
        f"Of {len(searched)} losses, each searched with the same budget, its best trial did best on held-out images: "
        f"{score}; the next is {following.name} {100 * following.best.value(metrics[0]):.2f}.",
    ]


def _no_choice(content: Contents, searched: Sequence[SearchResult]) -> list[str]:
    """The footnote on the losses of rows that were not searched, so that held-out images could not choose them."""
    names = {one.name for one in searched}
    left = list(dict.fromkeys(loss for loss in content.losses.values() if loss not in names))
    return [f"Not in that choice, because nothing of them was searched: {', '.join(left)}."] if left else []


def _gains(table: Table[str], row: str) -> list[str]:
    """What the sealed test says of the tail, of the head and of all classes, and whether the row is better at all."""
    missing = sum(runs.missing for runs in table.column("Overall").values())
    if missing:
        return [f"{missing} runs are missing: what it gains cannot be said yet."]
    if row == REFERENCE:
        return ["That is plain cross-entropy itself, which the others are compared with."]
    if not table.differences or table.reference is None:
        return ["There is no row of plain cross-entropy to compare it with."]
    reference = table.reference
    groups = [column for column in COLUMNS if column != "Overall" and not isnan(table.runs[row, column].summary.mean)]
    lower = [name for name in groups if name in TAIL] or groups[-1:]
    tail, head, whole = (
        difference(_means(table, row, columns), _means(table, reference, columns))
        for columns in (lower, groups[:1], [BALANCED])
    )
    if isnan(tail.low):
        return [f"One pair of runs with {reference} says nothing: give the study more seeds."]
    sentences = [
        f"Against {reference} the tail ({' and '.join(lower)}, each group alike) {_verdict(tail)}, "
        f"{tail.pairs} pairs of runs.",
        f"The head ({groups[0]}) {_verdict(head)}.",
        f"The mean over classes {_verdict(whole)}.",
    ]
    if tail.low <= 0 and whole.low <= 0:
        sentences.append(
            f"Nothing here shows that it is better than {reference}: more seeds narrow these intervals; until they do, "
            f"{reference} is the simpler choice."
        )
    elif head.high < 0 and whole.low <= 0:
        sentences.append(
            f"The head pays for the tail: over all classes alike nothing here shows that it is better than {reference}."
        )
    return sentences


def _means(table: Table[str], row: str, columns: Sequence[str]) -> dict[Pair, float]:
    """Each run's mean over some columns, by seeds."""
    values = [table.runs[row, column].values for column in columns]
    return {pair: sum(one[pair] for one in values) / len(values) for pair in values[0]}


def _verdict(one: Difference) -> str:
    shown = f"{one.mean:+.2f} points [{one.low:+.2f}, {one.high:+.2f}]".replace("-", "−")
    if one.low > 0:
        return f"gains {shown}"
    return f"loses {shown}" if one.high < 0 else f"shows no difference that chance would not give: {shown}"
