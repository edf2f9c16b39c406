"""Which tables and which figure the rows of a study make: the ablation, the baselines, one set an imbalance factor."""

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
from tune_lt.report.tables.sheet import Sheet, of_factors, of_groups
from tune_lt.report.tables.summary import Spec, Table, assemble, with_classes
from tune_lt.store import CellRecord
from tune_lt.study.rows import ONE_SE, plain_row

SWAPPED = (
    "margin is the paper's R and weight_ura its A^URA: the caption of its Table 3 calls R intra-category and A "
    "inter-category, its text and numbers say the opposite."
)


def of_rows(
    study: str, content: Contents, frame: pd.DataFrame, records: Mapping[str, CellRecord]
) -> tuple[list[Sheet], list[Sheet], Figure, list[str]]:
    """The tables of a study that has rows, all pairs of its rows, the figure, and the rows in the figure."""
    columns, rows = content.columns, tuple(content.rows)
    sheets: list[Sheet] = []
    compared: list[Sheet | None] = []
    overall: dict[str, Table] = {}
    for column in columns:
        part = {
            row: tuple(entry for entry in entries if entry.imbalance == column) for row, entries in content.rows.items()
        }
        own = frame if frame.empty else frame[of_column(frame, column)]
        several = column if len(columns) > 1 else None
        specs = _specs(replace(content, rows=part), records, several)
        sheets += [of_groups(assemble(own, spec)) for spec in specs]
        entries = next(iter(part.values()))
        label = "as it is" if column is None else f"{column:g}"
        spec = Spec("by_imbalance", study, rows, len(entries), tuple(_crossed(entries)), reference_of(rows))
        overall[label] = assemble(own, spec)
        suffix, end = _at(several)
        compared.append(pairs.sheet(own, overall[label], f"pairs{suffix}", f"{study}: every two rows{end}"))
    if len(columns) > 1:
        title = f"{study}: accuracy by imbalance factor"
        sheets.insert(0, of_factors(overall, "by_imbalance", title, "imbalance"))
    factor = hardest(columns)
    own = frame if frame.empty else frame[of_column(frame, factor)]
    title = f"{study}: accuracy by class size" + (f", imbalance {factor:g}" if len(columns) > 1 else "")
    shown = _figure_rows(content, own)
    own = with_classes(own)
    pairwise = [sheet for sheet in compared if sheet is not None]
    return sheets, pairwise, accuracy_by_class_size(own, shown, title), shown


def hardest(columns: Iterable[float | None]) -> float | None:
    """The largest imbalance factor."""
    return max(columns, key=lambda column: column or 0.0, default=None)


def reference_of(rows: Collection[str]) -> str | None:
    """The row that the others are compared with: plain cross-entropy, else the base of an ablation, else the first."""
    return plain_row(rows) or next(iter(rows), None)


def _at(imbalance: float | None) -> tuple[str, str]:
    """What the name and the title of a table end with where there are tables for several imbalance factors."""
    return ("", "") if imbalance is None else (f"_{imbalance:g}", f", imbalance {imbalance:g}")


def of_column(frame: pd.DataFrame, imbalance: float | None) -> pd.Series:
    """Which lines belong to an imbalance factor."""
    return frame["imbalance"].isna() if imbalance is None else frame["imbalance"] == imbalance


def _specs(content: Contents, records: Mapping[str, CellRecord], imbalance: float | None) -> list[Spec]:
    """The ablation: rows of the searched loss. The baselines: every other loss, and the searched one in full.

    ``imbalance`` is in their titles where there are tables for several.
    """
    rows, searched, losses = content.rows, content.searched, content.losses
    entries = next(iter(rows.values()), ())
    expected = len(entries)
    own = [row for row in rows if losses[row] == searched]
    others = [row for row in rows if losses[row] != searched]
    reference = [row for row in others if row == reference_of(rows)]
    table_3 = (SWAPPED,) if {"margin", "weight_ura"} <= set(own) else ()
    notes = _found(content.found) + _crossed(entries)
    used = [
        records[entry.fingerprint] for entries in rows.values() for entry in entries if entry.fingerprint in records
    ]
    notes += [provenance(used)] if used else []
    if any(abs(record.metrics["test/top1"] - record.metrics["test/balanced"]) > 1e-9 for record in used):
        notes.append(
            "The sealed images are not the same number for every class: Overall and the groups count images, "
            f"the mean over classes is {_balanced(rows, records)}."
        )
    if not rows:
        return []
    alone = {_search(name) for name in content.found} == {searched}
    only = (f"Only {searched} was searched; the other losses run as the study file has them.",) if alone else ()
    suffix, end = _at(imbalance)
    ablated, compared = (*reference, *own), (*others, *own[-1:])
    ablation = Spec(
        f"ablation{suffix}",
        f"Ablation of {searched}{end}",
        ablated,
        expected,
        (*notes, *table_3),
        reference_of(ablated),
    )
    baselines = Spec(
        f"baselines{suffix}",
        f"Baselines and {searched}{end}",
        compared,
        expected,
        (*notes, *only),
        reference_of(compared),
    )
    if not others:
        return [ablation]
    return [ablation, baselines] if len(own) > 1 else [baselines]


def _balanced(rows: Mapping[str, Sequence[TableCell]], records: Mapping[str, CellRecord]) -> str:
    """Each complete row's mean of the balanced accuracy, in percent."""
    shown = []
    for row, entries in rows.items():
        values = [
            records[entry.fingerprint].metrics["test/balanced"] for entry in entries if entry.fingerprint in records
        ]
        if len(values) == len(entries):
            shown.append(f"{row} {100 * sum(values) / len(values):.2f}")
    return ", ".join(shown)


def _figure_rows(content: Contents, frame: pd.DataFrame) -> list[str]:
    """The reference, the full method, and of the other losses the one with the best overall mean."""
    present = list(dict.fromkeys(frame["row"])) if not frame.empty else []
    full = [row for row in present if content.losses[row] == content.searched][-1:]
    chosen = [row for row in present if row == reference_of(content.rows)]
    rest = [row for row in present if row not in chosen and content.losses[row] != content.searched]
    if rest:
        means = frame[frame["row"].isin(rest)].groupby("row")["test/top1"].mean()
        chosen.append(str(means.idxmax()))
    return list(dict.fromkeys(chosen + full))


def _found(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The footnote on the values that a search found; those of several stand in a table of their own."""
    names = {_search(name) for name in found}
    if len(names) > 1:
        return [f"Searched on held-out training images: {', '.join(sorted(names))}; see the table of the searches."]
    best = {name: values for name, values in found.items() if values and name in names}
    notes = [f"Searched on held-out training images ({name}): {searches.listed(best[name])}." for name in best]
    for name, values in found.items():
        if name not in names and values != best.get(_search(name)):
            notes.append(f"The plainest of them within one standard error of the best: {searches.listed(values)}.")
    return notes


def _crossed(entries: Sequence[TableCell]) -> list[str]:
    """The footnote on runs that are less independent than the intervals and tests take them to be."""
    data = len({entry.data_seed for entry in entries})
    if data == len(entries):
        return []
    return [
        f"{len(entries)} runs on {data} sub-samples: those on one are not independent, which narrows every interval."
    ]


def _search(name: str) -> str:
    """The search that found what rows know by ``name``."""
    return name.removesuffix(f"/{ONE_SE}")
