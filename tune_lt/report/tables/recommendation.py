"""What a study recommends: the row that held-out images chose, and what the sealed test says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from tune_lt.documents import Contents, SearchResult
from tune_lt.report.tables.differences import LEAST, Difference, Sample, difference
from tune_lt.report.tables.scoring import covered
from tune_lt.report.tables.searches import listed
from tune_lt.report.tables.sheet import Sheet, TextColumn, data, difference_text, mean_std, of_columns, plus_minus
from tune_lt.report.tables.summary import COLUMNS, Scoring, Table, cells_at, records_of, runs_by_row
from tune_lt.store import CellRecord
from tune_lt.study.rows import REFERENCE, plain_row

NAME = "recommendation"
TAIL = ("Few", "Rare")
BALANCED = "balanced"  # not a column of the table: the mean over classes
HONEST = (
    "Held-out training images made the choice and the sealed test had no part in it, so these differences are not "
    "flattered by having been chosen."
)
SENTENCES = 3  # on the tail, the head and the mean over classes: with 95 % none of them is wrong by chance


def sheet(
    content: Contents,
    searched: Sequence[SearchResult],
    finished: Mapping[str, CellRecord],
    scoring: Mapping[float | None, Scoring],
) -> Sheet | None:
    """The recommended row beside the reference, and what follows in sentences; None if the study recommends none.

    The reference is plain cross-entropy, or the base of an ablation in a study without it. ``content``: the study's
    ``cells.json``; ``finished``: cells by fingerprint, as `Store.finished_cells` gives them; ``scoring``: by imbalance
    factor.
    """
    chosen = content.recommended
    if chosen is None or not records_of(content.rows, finished):
        return None
    row, reference = chosen.row, plain_row(content.rows)
    imbalance = next(cell.imbalance for cell in content.rows[row] if cell.fingerprint == chosen.fingerprint)
    rows = [row] if reference in (None, row) else [str(reference), row]
    metrics = {**COLUMNS, BALANCED: "test/balanced"}
    runs = runs_by_row(cells_at(content.rows, imbalance), finished, metrics, scoring[imbalance])
    table = Table(rows, list(COLUMNS), runs, reference if len(rows) == 2 else None, pooled=True)
    last = [f"Δ vs {reference} [95 % CI]"] if table.differences else []
    columns = []
    for column in COLUMNS:
        own = table.column(column)
        texts = {name: mean_std(one.summary) for name, one in own.items()}
        texts |= {name: difference_text(table.differences[row, column]) for name in last}
        columns.append(TextColumn(column, texts, runs=own))
    notes = [*_why(chosen.search, searched), *_no_choice(content, searched), *_gains(table, row, content.losses)]
    tested = any(not isnan(one.holm) for one in table.differences.values())
    each = ["Δ: each interval for itself."] if last else []
    each += ["p: paired t-test, Holm's correction over the line."] if tested else []
    return of_columns(
        NAME,
        f"Recommendation: {row}",
        [*rows, *last],
        columns,
        data(table, "column"),
        [*notes, HONEST, *each, *covered(content)],
        dim=[name for name in rows if runs[name, "Overall"].missing],
    )


def _why(search: str, searched: Sequence[SearchResult]) -> list[str]:
    """How the held-out images chose this search among those of the study."""
    one = next(one for one in searched if one.name == search)
    found = f"{search}: {listed(one.best.found)}."
    score = ", ".join(
        f"{metric} {plus_minus(100 * one.best.value(metric), 100 * one.best.standard_error(metric))} %"
        for metric in one.objectives
    )
    others = [other for other in searched if other is not one]
    if not others:
        return [found, f"Its best trial reached {score} on held-out images; there is no other search to compare with."]
    following = max(others, key=lambda other: other.merit)
    among = f"Of {len(searched)} losses, each searched with the same budget,"
    if not any(other.constraints for other in searched):
        return [
            found,
            f"{among} its best trial did best on held-out images: {score}; the next is {_short(following)}.",
        ]
    broken = one.violation(one.best)
    keep = sum(other.violation(other.best) == 0 for other in searched)
    limits = ", ".join(dict.fromkeys(metric for other in searched for metric in other.constraints))
    if broken:
        reached = (
            f"none keeps the constraints ({limits}) on held-out images; its best trial breaks them least, by "
            f"{100 * broken:.2f} points, and reached"
        )
    elif keep == 1:
        reached = f"it alone keeps the constraints ({limits}) on held-out images; its best trial reached"
    else:
        reached = f"{keep} keep the constraints ({limits}) on held-out images, and of those its best trial did best:"
    return [found, f"{among} {reached} {score}; the next is {_short(following)}."]


def _short(one: SearchResult) -> str:
    """A search with its best mean, and by how much that breaks the constraints."""
    broken = one.violation(one.best)
    limits = f", which breaks the constraints by {100 * broken:.2f} points" if broken else ""
    return f"{one.name} {100 * one.best.value(one.metric):.2f}{limits}"


def _no_choice(content: Contents, searched: Sequence[SearchResult]) -> list[str]:
    """The footnote on the losses of rows that were not searched, so that held-out images could not choose them."""
    names, without = {one.name for one in searched}, dict.fromkeys(content.missing.values())
    left = list(dict.fromkeys(loss for loss in content.losses.values() if loss not in {*names, *without}))
    notes = [f"Not in that choice, because nothing of them was searched: {', '.join(left)}."] if left else []
    notes += [f"Not in that choice, because their search found nothing: {', '.join(without)}."] if without else []
    return notes


def _gains(table: Table[str], row: str, losses: Mapping[str, str]) -> list[str]:
    """What the sealed test says of the tail, of the head and of all classes, and whether the row is better at all.

    ``losses``: the loss of each row.
    """
    missing = sum(runs.missing for runs in table.column("Overall").values())
    if missing:
        return [f"{missing} runs are missing: what it gains cannot be said yet."]
    reference = table.reference
    if reference is None and plain_row([row]):
        what = "plain cross-entropy" if losses[row] == REFERENCE else f"the base of the ablation ({losses[row]})"
        return [f"That is {what} itself, which the others are compared with."]
    if not table.differences or reference is None:
        return ["There is no row of plain cross-entropy to compare it with."]
    groups = [column for column in COLUMNS if column != "Overall" and not isnan(table.runs[row, column].summary.mean)]
    lower = [name for name in groups if name in TAIL] or groups[-1:]
    tail, head, whole = (
        difference(_mean(table, row, columns), _mean(table, reference, columns), SENTENCES)
        for columns in (lower, groups[:1], [BALANCED])
    )
    if tail.pairs < LEAST:
        return [f"Too few seeds for a verdict against {reference}: {tail.pairs} of at least {LEAST}."]
    named = reference
    if losses[reference] != REFERENCE:
        named = f"{reference} (a row of {losses[reference]}; the study has none of plain cross-entropy)"
    draw = table.runs[row, "Overall"].draw
    units = len({run.data_seed for run in table.runs[row, "Overall"].runs})
    where = ", on these training images alone," if draw == "fixed" or units == 1 else ""
    more = "more images" if draw == "bootstrap" else "more seeds"  # a bootstrap has no more to say than its images
    sentences = [
        f"Against {named}{where} the tail ({' and '.join(lower)}, each group alike) {_verdict(tail)}, "
        f"n = {tail.pairs}.",
        f"The head ({groups[0]}) {_verdict(head)}.",
        f"The mean over classes {_verdict(whole)}.",
        "These three intervals are wide enough to hold together with 95 %.",
    ]
    if not (tail.low > 0 or whole.low > 0):
        sentences.append(
            f"Nothing here shows that it is better than {reference}: {more} narrow these intervals; until they do, "
            f"{reference} is the simpler choice."
        )
    elif head.high < 0 and not whole.low > 0:
        sentences.append(
            f"The head pays for the tail: over all classes alike nothing here shows that it is better than {reference}."
        )
    return sentences


def _mean(table: Table[str], row: str, columns: Sequence[str]) -> Sample:
    """The mean over some columns, by unit."""
    samples = [table.runs[row, column].sample for column in columns]
    values = {unit: sum(one.values[unit] for one in samples) / len(samples) for unit in samples[0].values}
    return Sample(values, max(one.step for one in samples) / len(samples), samples[0].overlap)


def _verdict(one: Difference) -> str:
    if isnan(one.low):
        return f"shows nothing, since all pairs differ by the same {one.mean:+.2f} points".replace("-", "−")
    shown = f"{one.mean:+.2f} points [{one.low:+.2f}, {one.high:+.2f}]".replace("-", "−")
    if one.low > 0:
        return f"gains {shown}"
    return f"loses {shown}" if one.high < 0 else f"shows no difference that chance would not give: {shown}"
