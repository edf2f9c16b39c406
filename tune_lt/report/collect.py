"""A study's tables and figure, assembled from what the store has of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from tune_lt.documents import (
    BY_IMAGE,
    CONTENTS,
    NORMS,
    PER_CLASS,
    ByImage,
    Contents,
    Norms,
    PerClass,
    SearchResult,
    TableCell,
)
from tune_lt.errors import InputError
from tune_lt.report.of_rows import hardest, of_column, of_rows, reference_of
from tune_lt.report.study_run import Recorded, read, with_runs
from tune_lt.report.tables import claims, paper, recommendation, searches
from tune_lt.report.tables.sheet import Sheet, marked
from tune_lt.report.tables.summary import COLUMNS, with_classes
from tune_lt.store import CellRecord, Store, own_tags
from tune_lt.study import FULL
from tune_lt.study.rows import REFERENCE

MOST_BY_CLASS = 300  # runs whose accuracies by class are read, an artifact each


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
    searches: tuple[SearchResult, ...] = ()
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
    content = store.read(parent.info.run_id, CONTENTS, Contents.of) if parent else None
    listed = content.searches if content else None
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
    found, details = own, [searches.trials_sheet(one) for one in searched]
    if len(searched) > 1:
        compared = with_runs(searches.compared_sheet(searched), [(one, one.best) for one in searched], store, study)
        found, details = [compared], [*own, *details]
    if content is None or not content.cells:
        recorded = read(store, parent, pd.DataFrame(), ())
        sheets = tuple(marked(sheet, scale) for sheet in found)
        more = tuple(marked(sheet, scale) for sheet in details)
        return Report(study, pd.DataFrame(), sheets, {}, recorded, more, tuple(searched))
    records = store.finished_cells()
    frame = _frame(store, content.rows, records)
    tables, every_two, figure, shown = of_rows(study, content, frame, records)
    beside = paper.sheets_of(tags, content, records)
    recorded = read(store, parent, frame, records.values())
    measured = every_two + _measured(store, frame, hardest(content.columns), reference_of(content.rows))
    advice = recommendation.sheet(content, searched, frame)
    last = [advice] if advice else []
    return Report(
        study,
        frame,
        (*beside, *(marked(sheet, scale) for sheet in (*found, *tables, *last))),
        {"accuracy_by_class_size": figure},
        recorded,
        tuple(marked(sheet, scale) for sheet in (*details, *measured)),
        tuple(searched),
        tuple(content.rows),
        tuple(shown),
    )


def _measured(store: Store, frame: pd.DataFrame, factor: float | None, reference: str | None) -> list[Sheet]:
    """The paper's two claims, measured at one imbalance factor, as far as the runs recorded what that takes."""
    if frame.empty:
        return []
    own = frame[of_column(frame, factor)]
    sheets = []
    if reference == REFERENCE:
        sheets.append(claims.terciles(own, reference, lambda run: store.read(run, BY_IMAGE, ByImage.of)))
    sheets.append(claims.precision(own, lambda run: store.read(run, NORMS, Norms.of)))
    return [sheet for sheet in sheets if sheet is not None]


def _frame(store: Store, rows: Mapping[str, Sequence[TableCell]], records: Mapping[str, CellRecord]) -> pd.DataFrame:
    finished = {
        row: [(entry, records[entry.fingerprint]) for entry in entries if entry.fingerprint in records]
        for row, entries in rows.items()
    }
    classes = _classes(store, finished)
    lines = []
    for row, entries in finished.items():
        for entry, record in entries:
            per_class = classes.get(record.run_id)
            lines.append(
                {
                    "row": row,
                    "loss": record.params["loss/name"],
                    "data_seed": entry.data_seed,
                    "init_seed": entry.init_seed,
                    "imbalance": entry.imbalance,
                    "run_id": record.run_id,
                    "experiment": record.experiment,
                    **{metric: record.metrics.get(metric, math.nan) for metric in (*COLUMNS.values(), "test/balanced")},
                    "class_counts": per_class and per_class.class_counts,
                    "per_class": per_class and per_class.test,
                    "class_names": per_class and per_class.class_names,
                }
            )
    return pd.DataFrame(lines)


def _classes(store: Store, finished: Mapping[str, list[tuple[TableCell, CellRecord]]]) -> dict[str, PerClass | None]:
    """The accuracy of each class, by run; of more than `MOST_BY_CLASS` runs only those of each row's first seeds."""
    places: dict[tuple[str, float | None], list[str]] = {}
    for row, entries in finished.items():
        for entry, record in entries:
            places.setdefault((row, entry.imbalance), []).append(record.run_id)
    most = max(1, MOST_BY_CLASS // max(1, len(places)))
    wanted = dict.fromkeys(run_id for runs in places.values() for run_id in runs[:most])
    return {run_id: store.read(run_id, PER_CLASS, PerClass.of) for run_id in wanted}
