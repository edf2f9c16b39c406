"""What a study recommends: the row that held-out images chose, and what the sealed test says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isnan

import pandas as pd

from tune_lt.documents import Contents, SearchResult
from tune_lt.report.tables.differences import Difference, difference
from tune_lt.report.tables.searches import listed
from tune_lt.report.tables.sheet import Sheet, difference_text, of_groups, plus_minus
from tune_lt.report.tables.summary import COLUMNS, Spec, Table, assemble, by_seeds
from tune_lt.study.rows import REFERENCE, plain_row

NAME = "recommendation"
TAIL = ("Few", "Rare")
HONEST = (
    "Held-out training images made the choice and the sealed test had no part in it, so these differences are not "
    "flattered by having been chosen."
)


def sheet(content: Contents, searched: Sequence[SearchResult], frame: pd.DataFrame) -> Sheet | None:
    """The recommended row beside plain cross-entropy, and what follows, in sentences; None if the study has none.

    ``content``: of the study's tables (``cells.json``); ``frame``: of their finished cells, as `tables` has it.
    """
    chosen = content.recommended
    if chosen is None or frame.empty:
        return None
    row = chosen.row
    first = next(entry for entry in content.rows[row] if entry.fingerprint == chosen.fingerprint)
    entries = [entry for entry in content.rows[row] if entry.imbalance == first.imbalance]
    own = frame[frame["imbalance"].isna() if first.imbalance is None else frame["imbalance"] == first.imbalance]
    reference = plain_row(content.rows)
    rows = (row,) if reference in (None, row) else (str(reference), row)
    compared = reference if len(rows) == 2 else None
    table = assemble(own, Spec(NAME, f"Recommendation: {row}", rows, len(entries), (), compared))
    table = replace(table, tied=frozenset())
    shown = of_groups(table)
    if table.differences:
        gains = [difference_text(table.differences.get((row, column))) for column in COLUMNS]
        line = (f"Δ vs {reference} [95 % CI]", *gains, *("" for _ in shown.header[1 + len(COLUMNS) :]))
        shown = replace(shown, lines=(*shown.lines, line))
    keep = 1 + len(COLUMNS)
    return replace(
        shown,
        header=shown.header[:keep],
        lines=tuple(line[:keep] for line in shown.lines),
        bold=frozenset(),
        narrow={},
        behind={place: runs for place, runs in shown.behind.items() if place[1] < keep},
        notes=(*_why(chosen.search, searched), *_no_choice(content, searched), *_gains(table, own, row), HONEST),
    )


def _why(search: str, searched: Sequence[SearchResult]) -> list[str]:
    """How the held-out images chose."""
    one = next(one for one in searched if one.name == search)
    metrics = one.objectives

    def value(other: SearchResult) -> float:
        return sum(other.best.value(metric) for metric in metrics)

    found = f"{search}: {listed(one.best.found)}."
    score = ", ".join(
        f"{metric} {plus_minus(100 * one.best.value(metric), 100 * one.best.standard_error(metric))} %"
        for metric in metrics
    )
    others = sorted((other for other in searched if other is not one), key=value, reverse=True)
    if not others:
        return [found, f"Its best trial reached {score} on held-out images; no other loss was searched."]
    following = f"{others[0].name} {100 * others[0].best.value(metrics[0]):.2f}"
    return [
        found,
        f"Of {len(searched)} losses, each searched with the same budget, its best trial did best on held-out images: "
        f"{score}; the next is {following}.",
    ]


def _no_choice(content: Contents, searched: Sequence[SearchResult]) -> list[str]:
    """Which losses held-out images had no say on, since nothing of them was searched."""
    names = {one.name for one in searched}
    left = list(dict.fromkeys(loss for loss in content.losses.values() if loss not in names))
    return [f"Not in that choice, because nothing of them was searched: {', '.join(left)}."] if left else []


def _gains(table: Table, frame: pd.DataFrame, row: str) -> list[str]:
    """The sealed test's answer: the tail, the head, and whether it is worth it."""
    reference = table.spec.reference
    if missing := sum(table.missing.values()):
        return [f"{missing} runs are missing: what it gains cannot be said yet."]
    if len(table.spec.rows) == 1 and row == REFERENCE:
        return ["That is plain cross-entropy itself, which the others are compared with."]
    if not table.differences or reference is None:
        return ["There is no row of plain cross-entropy to compare it with."]
    groups = [column for column in COLUMNS if column != "Overall" and not isnan(table.cells[row, column].mean)]
    lower = [name for name in groups if name in TAIL] or groups[-1:]
    tail, head, whole = (
        difference(by_seeds(frame, row, metrics), by_seeds(frame, reference, metrics))
        for metrics in ([COLUMNS[name] for name in lower], [COLUMNS[groups[0]]], ["test/balanced"])
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


def _verdict(one: Difference) -> str:
    shown = f"{one.mean:+.2f} points [{one.low:+.2f}, {one.high:+.2f}]".replace("-", "−")
    if one.low > 0:
        return f"gains {shown}"
    return f"loses {shown}" if one.high < 0 else f"shows no difference that chance would not give: {shown}"
