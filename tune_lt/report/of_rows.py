"""The tables and the figure of a study's rows: ablation and baselines for each imbalance factor, and all factors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tune_lt.documents import Contents, TableCell
from tune_lt.report.figures.classes import accuracy_by_class_size
from tune_lt.report.tables import pairs, searches
from tune_lt.report.tables.origins import provenance
from tune_lt.report.tables.scoring import covered
from tune_lt.report.tables.sheet import Sheet, of_factors, of_groups
from tune_lt.report.tables.summary import COLUMNS, Runs, Scoring, Table, cells_at, records_of, runs_by_row, with_classes
from tune_lt.store import CellRecord
from tune_lt.study.rows import ONE_SE, plain_row

SWAPPED = (
    "margin is the paper's R and weight_ura its A^URA: the caption of its Table 3 calls R intra-category and A "
    "inter-category, its text and numbers say the opposite."
)


def of_rows(
    study: str,
    content: Contents,
    frame: pd.DataFrame,
    finished: Mapping[str, CellRecord],
    scoring: Mapping[float | None, Scoring],
) -> tuple[list[Sheet], list[Sheet], Figure, list[str]]:
    """A study's tables of rows, its tables of every two rows, its figure, and the rows in the figure.

    ``frame``: a line for each finished cell of ``content``, as `collect` makes it; ``finished``: cells by fingerprint;
    ``scoring``: by imbalance factor.
    """
    several = len(content.columns) > 1
    sheets: list[Sheet] = []
    compared: list[Sheet | None] = []
    overall: dict[tuple[str, str], Runs] = {}
    for imbalance in content.columns:
        cells = cells_at(content.rows, imbalance)
        runs = runs_by_row(cells, finished, scoring=scoring[imbalance])
        suffix, end = (f"_{imbalance:g}", f", imbalance {imbalance:g}") if several and imbalance else ("", "")
        sheets += _ablation_and_baselines(replace(content, rows=cells), runs, finished, suffix, end)
        compared.append(pairs.sheet(list(cells), runs, f"pairs{suffix}", f"{study}: every two rows{end}"))
        label = "as it is" if imbalance is None else f"{imbalance:g}"
        overall |= {(row, label): runs[row, "Overall"] for row in cells}
    if several:
        levels = list(dict.fromkeys(label for _, label in overall))
        table = Table(list(content.rows), levels, overall, reference_of(content.rows), pooled=True)
        title = f"{study}: accuracy by imbalance factor"
        sheets.insert(0, of_factors("by_imbalance", title, table, "imbalance", covered(content)))
    factor = hardest(content.columns)
    own = frame[of_column(frame, factor)]
    shown = _figure_rows(content, own)
    title = f"{study}: accuracy by class size" + (f", imbalance {factor:g}" if several else "")
    pairwise = [sheet for sheet in compared if sheet is not None]
    return sheets, pairwise, accuracy_by_class_size(with_classes(own), shown, title), shown


def hardest(columns: Iterable[float | None]) -> float | None:
    """The largest imbalance factor."""
    return max(columns, key=lambda column: column or 0.0, default=None)


def reference_of(rows: Collection[str]) -> str | None:
    """The row that the others are compared with: plain cross-entropy, else the base of an ablation, else the first."""
    return plain_row(rows) or next(iter(rows), None)


def of_column(frame: pd.DataFrame, imbalance: float | None) -> pd.Series:
    """Which lines of a frame have an imbalance factor, as booleans."""
    return frame["imbalance"].isna() if imbalance is None else frame["imbalance"] == imbalance


def _ablation_and_baselines(
    content: Contents, runs: Mapping[tuple[str, str], Runs], finished: Mapping[str, CellRecord], suffix: str, end: str
) -> list[Sheet]:
    """The ablation: rows of the searched loss. The baselines: every other loss, and the last row of the searched one.

    Only one of them where the other would show nothing more. ``content``, ``runs``: of one imbalance factor, with which
    ``suffix`` ends the tables' names and ``end`` their titles.
    """
    rows, searched = content.rows, content.searched
    own = [row for row in rows if content.losses[row] == searched]
    others = [row for row in rows if content.losses[row] != searched]
    notes = [*_found(content.found), *covered(content)]
    notes += [f"{row} is missing: the search of {name} found nothing." for row, name in content.missing.items()]
    used = records_of(rows, finished)
    notes += [provenance(used)] if used else []
    if any(abs(record.metrics["test/top1"] - record.metrics["test/balanced"]) > 1e-9 for record in used):
        notes.append(
            "The sealed images are not the same number for every class: Overall and the groups count images, "
            f"the mean over classes is {_balanced(rows, finished)}."
        )

    def table(name: str, title: str, shown: Sequence[str], note: str) -> Sheet:
        compared = Table(shown, list(COLUMNS), runs, reference_of(shown))
        return of_groups(f"{name}{suffix}", f"{title}{end}", compared, [*notes, *([note] if note else [])])

    sheets = []
    if len(own) > 1 or not others:
        reference = [row for row in others if row == reference_of(rows)]
        note = SWAPPED if {"margin", "weight_ura"} <= set(own) else ""
        sheets.append(table("ablation", f"Ablation of {searched}", [*reference, *own], note))
    if others:
        alone = {_search(name) for name in content.found} == {searched}
        note = f"Only {searched} was searched; the other losses run as the study file has them." if alone else ""
        sheets.append(table("baselines", f"Baselines and {searched}", [*others, *own[-1:]], note))
    return sheets


def _balanced(rows: Mapping[str, Sequence[TableCell]], finished: Mapping[str, CellRecord]) -> str:
    """The mean over classes of each complete row, in percent."""
    runs = runs_by_row(rows, finished, {"": "test/balanced"})
    means = {row: own.summary.mean for (row, _), own in runs.items() if not own.missing}
    return ", ".join(f"{row} {mean:.2f}" for row, mean in means.items())


def _figure_rows(content: Contents, frame: pd.DataFrame) -> list[str]:
    """The reference, of the other losses the row with the best overall mean, and the last row of the searched loss."""
    present = list(dict.fromkeys(frame["row"]))
    full = [row for row in present if content.losses[row] == content.searched][-1:]
    chosen = [row for row in present if row == reference_of(content.rows)]
    rest = [row for row in present if row not in chosen and content.losses[row] != content.searched]
    if rest:
        means = frame[frame["row"].isin(rest)].groupby("row")["test/top1"].mean()
        chosen.append(str(means.idxmax()))
    return list(dict.fromkeys(chosen + full))


def _found(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The footnote on what a search found, or where to find what several found. ``found``: by search, or by
    NAME/one_standard_error for the plainest trial within a standard error of the best.
    """
    names = {_search(name) for name in found}
    if len(names) > 1:
        return [f"Searched on held-out training images: {', '.join(sorted(names))}; see the table of the searches."]
    best = {name: values for name, values in found.items() if values and name in names}
    notes = [f"Searched on held-out training images ({name}): {searches.listed(best[name])}." for name in best]
    for name, values in found.items():
        if name not in names and values != best.get(_search(name)):
            notes.append(f"The plainest of them within one standard error of the best: {searches.listed(values)}.")
    return notes


def _search(name: str) -> str:
    """The search that a name in `Contents.found` belongs to."""
    return name.removesuffix(f"/{ONE_SE}")
