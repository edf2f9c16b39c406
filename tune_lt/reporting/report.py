"""A study's tables and figure, assembled from what the store has of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tune_lt.errors import InputError
from tune_lt.reporting import difficulty, formats, page, pairs, paper, recommendation, search_figures, searches
from tune_lt.reporting.figures import accuracy_by_class_size
from tune_lt.reporting.recorded import Recorded, provenance, read, with_runs
from tune_lt.reporting.searches import Searched
from tune_lt.reporting.sheets import Sheet, marked, of_factors, of_groups
from tune_lt.reporting.tables import COLUMNS, Spec, Table, assemble, with_classes
from tune_lt.rows import BASE, ONE_SE, REFERENCE
from tune_lt.study import FULL
from tune_lt.tracking import CellRecord, Store, own_tags

MOST_BY_CLASS = 300  # runs whose accuracies by class are read, an artifact each
SWAPPED = (
    "margin is the paper's R and weight_ura its A^URA: the caption of its Table 3 calls R intra-category and A "
    "inter-category, its text and numbers say the opposite."
)


@dataclass(frozen=True)
class Report:
    """A study's frame of finished cells (one line per row and seed), its tables, and its figures by name.

    ``details`` are tables that are written, not printed; ``searches`` what they are of, ``recorded`` what the page says
    of where it all comes from. ``rows`` in the order of the study, ``shown`` those of the figure.
    """

    study: str
    frame: pd.DataFrame
    tables: tuple[Sheet, ...]
    figures: Mapping[str, Figure]
    recorded: Recorded
    details: tuple[Sheet, ...] = ()
    searches: tuple[Searched, ...] = ()
    rows: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    @property
    def by_class(self) -> pd.DataFrame:
        """The lines of the frame that have the accuracy of each class."""
        return with_classes(self.frame)


def collect(store: Store, study: str) -> Report:
    """Everything there is to say of ``study``, read from the store: what its searches found, then its tables.

    Raises InputError if the study got as far as neither.
    """
    parent = store.parent(study)
    content = store.read_json(parent.info.run_id, "cells.json") if parent else None
    listed = content.get("searches") if content else None
    searched = searches.read(store, parent.info.run_id, listed) if parent else []
    if parent is None or (content is None and not searched):
        known = ", ".join(store.studies()) or "none"
        raise InputError(f"the store {store.shown} has no cells of a study {study!r}; studies there: {known}")
    tags = own_tags(parent)
    scale = tags.get("scale", FULL)
    own = [
        with_runs(searches.chosen_sheet(one), [(one, trial) for _, trial in searches.choices(one)], store, study)
        for one in searched
    ]
    figures = {f"curve_{one.file}": search_figures.curve(one) for one in searched if one.dimensions()}
    figures |= {f"pareto_{one.file}": search_figures.pareto(one) for one in searched if len(one.search.objectives) > 1}
    found, details = own, [searches.trials_sheet(one) for one in searched]
    if len(searched) > 1:
        compared = with_runs(searches.compared_sheet(searched), [(one, one.best) for one in searched], store, study)
        found, details = [compared], [*own, *details]
    if content is None or not any(content["rows"].values()):
        recorded = read(store, parent, pd.DataFrame(), ())
        sheets = tuple(marked(sheet, scale) for sheet in found)
        more = tuple(marked(sheet, scale) for sheet in details)
        return Report(study, pd.DataFrame(), sheets, figures, recorded, more, tuple(searched))
    records = store.finished_cells()
    frame = _frame(store, content["rows"], records)
    tables, every_two, figure, shown = _of_rows(study, content, frame, records)
    beside = paper.sheets_of(tags, content, records)
    recorded = read(store, parent, frame, records.values())
    measured = every_two + _measured(store, frame, _hardest(content["columns"]), _reference(content["rows"]))
    advice = recommendation.sheet(content, searched, frame)
    last = [advice] if advice else []
    return Report(
        study,
        frame,
        (*beside, *(marked(sheet, scale) for sheet in (*found, *tables, *last))),
        figures | {"accuracy_by_class_size": figure},
        recorded,
        tuple(marked(sheet, scale) for sheet in (*details, *measured)),
        tuple(searched),
        tuple(content["rows"]),
        tuple(shown),
    )


def write(report: Report, folder: Path, ui: str | None = None) -> list[Path]:
    """Write tables as Markdown, LaTeX and CSV, figures as PNG and PDF, and the page, below ``folder``; their paths.

    ``ui``: as `page.html` has it.
    """
    files = write_sheets((*report.tables, *report.details), folder)
    for name, figure in report.figures.items():
        for suffix in ("png", "pdf"):
            files.append(folder / f"{name}.{suffix}")
            figure.savefig(files[-1], dpi=150)
    files.append(folder / "report.html")
    files[-1].write_text(page.html(report, ui), encoding="utf-8")
    return files


def write_sheets(sheets: Iterable[Sheet], folder: Path) -> list[Path]:
    """Write tables as Markdown, LaTeX and CSV below ``folder``; the files' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for sheet in sheets:
        for suffix, text in (("md", formats.markdown), ("tex", formats.latex), ("csv", formats.csv)):
            files.append(folder / f"{sheet.name}.{suffix}")
            files[-1].write_text(text(sheet), encoding="utf-8")
    return files


def _of_rows(
    study: str, content: Mapping[str, Any], frame: pd.DataFrame, records: Mapping[str, CellRecord]
) -> tuple[list[Sheet], list[Sheet], Figure, list[str]]:
    """The tables of a study that has rows, all pairs of its rows, the figure, and the rows in the figure."""
    columns, rows = content["columns"], tuple(content["rows"])
    sheets: list[Sheet] = []
    compared: list[Sheet | None] = []
    overall: dict[str, Table] = {}
    for column in columns:
        part = {
            row: [entry for entry in entries if entry["imbalance"] == column]
            for row, entries in content["rows"].items()
        }
        own = frame if frame.empty else frame[_of_column(frame, column)]
        several = column if len(columns) > 1 else None
        specs = _specs({**content, "rows": part}, records, several)
        sheets += [of_groups(assemble(own, spec)) for spec in specs]
        entries = next(iter(part.values()))
        label = "as it is" if column is None else f"{column:g}"
        spec = Spec("by_imbalance", study, rows, len(entries), tuple(_crossed(entries)), _reference(rows))
        overall[label] = assemble(own, spec)
        suffix, end = _at(several)
        compared.append(pairs.sheet(own, overall[label], f"pairs{suffix}", f"{study}: every two rows{end}"))
    if len(columns) > 1:
        title = f"{study}: accuracy by imbalance factor"
        sheets.insert(0, of_factors(overall, "by_imbalance", title, "imbalance"))
    hardest = _hardest(columns)
    own = frame if frame.empty else frame[_of_column(frame, hardest)]
    title = f"{study}: accuracy by class size" + (f", imbalance {hardest:g}" if len(columns) > 1 else "")
    shown = _figure_rows(content, own)
    own = with_classes(own)
    pairwise = [sheet for sheet in compared if sheet is not None]
    return sheets, pairwise, accuracy_by_class_size(own, shown, title), shown


def _measured(store: Store, frame: pd.DataFrame, factor: float | None, reference: str | None) -> list[Sheet]:
    """The paper's two claims, measured at one imbalance factor, as far as the runs recorded what that takes."""
    if frame.empty:
        return []
    own = frame[_of_column(frame, factor)]
    sheets = [difficulty.terciles(own, reference, store.read_json)] if reference == REFERENCE else []
    sheets.append(difficulty.precision(own, store.read_json))
    return [sheet for sheet in sheets if sheet is not None]


def _hardest(columns: Iterable[float | None]) -> float | None:
    return max(columns, key=lambda column: column or 0.0, default=None)


def _reference(rows: Iterable[str]) -> str | None:
    """The row that the others are compared with: plain cross-entropy, else the base of an ablation, else the first."""
    have = list(rows)
    return next((name for name in (REFERENCE, BASE, *have[:1]) if name in have), None)


def _at(imbalance: float | None) -> tuple[str, str]:
    """What the name and the title of a table end with where there are tables for several imbalance factors."""
    return ("", "") if imbalance is None else (f"_{imbalance:g}", f", imbalance {imbalance:g}")


def _frame(store: Store, rows: Mapping[str, list[dict[str, Any]]], records: Mapping[str, CellRecord]) -> pd.DataFrame:
    finished = {
        row: [(entry, records[entry["fingerprint"]]) for entry in entries if entry["fingerprint"] in records]
        for row, entries in rows.items()
    }
    classes = _classes(store, finished)
    lines = []
    for row, entries in finished.items():
        for entry, record in entries:
            per_class = classes.get(record.run_id) or dict.fromkeys(("class_counts", "test", "class_names"))
            lines.append(
                {
                    "row": row,
                    "loss": record.params["loss/name"],
                    "data_seed": entry["data_seed"],
                    "init_seed": entry["init_seed"],
                    "imbalance": entry["imbalance"],
                    "run_id": record.run_id,
                    "experiment": record.experiment,
                    **{metric: record.metrics.get(metric, math.nan) for metric in (*COLUMNS.values(), "test/balanced")},
                    "class_counts": per_class["class_counts"],
                    "per_class": per_class["test"],
                    "class_names": per_class["class_names"],
                }
            )
    return pd.DataFrame(lines)


def _classes(
    store: Store, finished: Mapping[str, list[tuple[dict[str, Any], CellRecord]]]
) -> dict[str, dict[str, Any]]:
    """The accuracy of each class, by run; of more than `MOST_BY_CLASS` runs only those of each row's first seeds."""
    places: dict[tuple[str, float | None], list[str]] = {}
    for row, entries in finished.items():
        for entry, record in entries:
            places.setdefault((row, entry["imbalance"]), []).append(record.run_id)
    most = max(1, MOST_BY_CLASS // max(1, len(places)))
    wanted = dict.fromkeys(run_id for runs in places.values() for run_id in runs[:most])
    return {run_id: store.read_json(run_id, "per_class.json") or {} for run_id in wanted}


def _of_column(frame: pd.DataFrame, imbalance: float | None) -> pd.Series:
    """Which lines belong to an imbalance factor."""
    return frame["imbalance"].isna() if imbalance is None else frame["imbalance"] == imbalance


def _specs(content: Mapping[str, Any], records: Mapping[str, CellRecord], imbalance: float | None) -> list[Spec]:
    """The ablation: rows of the searched loss. The baselines: every other loss, and the searched one in full.

    ``imbalance`` is in their titles where there are tables for several.
    """
    rows, searched, losses = content["rows"], content["searched"], content["losses"]
    entries: list[dict[str, Any]] = next(iter(rows.values()), [])
    expected = len(entries)
    own = [row for row in rows if losses[row] == searched]
    others = [row for row in rows if losses[row] != searched]
    reference = [row for row in others if row == _reference(rows)]
    table_3 = (SWAPPED,) if {"margin", "weight_ura"} <= set(own) else ()
    notes = _found(content["found"]) + _crossed(entries)
    used = [
        records[entry["fingerprint"]]
        for entries in rows.values()
        for entry in entries
        if entry["fingerprint"] in records
    ]
    notes += [provenance(used)] if used else []
    if any(abs(record.metrics["test/top1"] - record.metrics["test/balanced"]) > 1e-9 for record in used):
        notes.append(
            "The sealed images are not the same number for every class: Overall and the groups count images, "
            f"the mean over classes is {_balanced(rows, records)}."
        )
    if not rows:
        return []
    alone = {_search(name) for name in content["found"]} == {searched}
    only = (f"Only {searched} was searched; the other losses run as the study file has them.",) if alone else ()
    suffix, end = _at(imbalance)
    ablated, compared = (*reference, *own), (*others, *own[-1:])
    ablation = Spec(
        f"ablation{suffix}",
        f"Ablation of {searched}{end}",
        ablated,
        expected,
        (*notes, *table_3),
        _reference(ablated),
    )
    baselines = Spec(
        f"baselines{suffix}",
        f"Baselines and {searched}{end}",
        compared,
        expected,
        (*notes, *only),
        _reference(compared),
    )
    if not others:
        return [ablation]
    return [ablation, baselines] if len(own) > 1 else [baselines]


def _balanced(rows: Mapping[str, list[dict[str, Any]]], records: Mapping[str, CellRecord]) -> str:
    """Each complete row's mean of the balanced accuracy, in percent."""
    shown = []
    for row, entries in rows.items():
        values = [
            records[entry["fingerprint"]].metrics["test/balanced"]
            for entry in entries
            if entry["fingerprint"] in records
        ]
        if len(values) == len(entries):
            shown.append(f"{row} {100 * sum(values) / len(values):.2f}")
    return ", ".join(shown)


def _figure_rows(content: Mapping[str, Any], frame: pd.DataFrame) -> list[str]:
    """The reference, the full method, and of the other losses the one with the best overall mean."""
    present = list(dict.fromkeys(frame["row"])) if not frame.empty else []
    full = [row for row in present if content["losses"][row] == content["searched"]][-1:]
    chosen = [row for row in present if row == _reference(content["rows"])]
    rest = [row for row in present if row not in chosen and content["losses"][row] != content["searched"]]
    if rest:
        means = frame[frame["row"].isin(rest)].groupby("row")["test/top1"].mean()
        chosen.append(str(means.idxmax()))
    return chosen + full


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


def _crossed(entries: list[dict[str, Any]]) -> list[str]:
    """The footnote on runs that are less independent than the intervals and tests take them to be."""
    data = len({entry["data_seed"] for entry in entries})
    if data == len(entries):
        return []
    return [
        f"{len(entries)} runs on {data} sub-samples: those on one are not independent, which narrows every interval."
    ]


def _search(name: str) -> str:
    """The search that found what rows know by ``name``."""
    return name.removesuffix(f"/{ONE_SE}")
