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
    tables = [
        with_runs(searches.chosen_sheet(one), [(one, trial) for _, trial in searches.choices(one)], store, study)
        for one in searched
    ]
    details = [searches.trials_sheet(one) for one in searched]
    if len(searched) > 1:
        compared = with_runs(searches.compared_sheet(searched), [(one, one.best) for one in searched], store, study)
        tables, details = [compared], [*tables, *details]
    beside: list[Sheet] = []
    figures: dict[str, Figure] = {}
    shown: list[str] = []
    rows = content.rows if content else {}
    finished = store.finished_cells() if any(rows.values()) else {}
    frame = _frame(store, rows, finished)
    if content and any(rows.values()):
        own, every_two, figures["accuracy_by_class_size"], shown = of_rows(study, content, frame, finished)
        advice = recommendation.sheet(content, searched, finished)
        tables += [*own, *([advice] if advice else [])]
        details += [*every_two, *_measured(store, frame, content)]
        beside = paper.sheets_of(tags, content, finished)
    scale = tags.get("scale", FULL)
    return Report(
        study,
        frame,
        (*beside, *(marked(sheet, scale) for sheet in tables)),
        figures,
        read(store, parent, frame, finished.values()),
        tuple(marked(sheet, scale) for sheet in details),
        tuple(searched),
        tuple(rows),
        tuple(shown),
    )


def _measured(store: Store, frame: pd.DataFrame, content: Contents) -> list[Sheet]:
    """The paper's two claims, measured at the largest imbalance factor, as far as the runs recorded what that takes."""
    own = frame[of_column(frame, hardest(content.columns))]
    sheets = [claims.precision(own, lambda run: store.read(run, NORMS, Norms.of))]
    if reference_of(content.rows) == REFERENCE:
        sheets.insert(0, claims.terciles(own, REFERENCE, lambda run: store.read(run, BY_IMAGE, ByImage.of)))
    return [sheet for sheet in sheets if sheet is not None]


def _frame(store: Store, rows: Mapping[str, Sequence[TableCell]], finished: Mapping[str, CellRecord]) -> pd.DataFrame:
    """A line for each finished cell of each row.

    ``run_id`` and ``experiment`` are MLflow's ids. Accuracies are fractions in [0, 1], NaN for a group without classes.
    The lists ``class_counts``, ``per_class`` and ``class_names`` are None where they were not read.
    """
    done = {
        row: [(c, finished[c.fingerprint]) for c in cells if c.fingerprint in finished] for row, cells in rows.items()
    }
    classes = _classes(store, done)
    metrics = [*COLUMNS.values(), "test/balanced"]
    lines = []
    for row, cells in done.items():
        for cell, record in cells:
            place = (row, cell.data_seed, cell.init_seed, cell.imbalance, record.run_id, record.experiment)
            scores = [record.metrics.get(metric, math.nan) for metric in metrics]
            known = classes.get(record.run_id)
            by_class = (known.class_counts, known.test, known.class_names) if known else (None, None, None)
            lines.append((*place, *scores, *by_class))
    names = ["row", "data_seed", "init_seed", "imbalance", "run_id", "experiment", *metrics]
    return pd.DataFrame(lines, columns=[*names, "class_counts", "per_class", "class_names"])


def _classes(store: Store, finished: Mapping[str, list[tuple[TableCell, CellRecord]]]) -> dict[str, PerClass | None]:
    """The accuracy of each class, by run; of more than `MOST_BY_CLASS` runs only those of each row's first seeds."""
    places: dict[tuple[str, float | None], list[str]] = {}
    for row, entries in finished.items():
        for entry, record in entries:
            places.setdefault((row, entry.imbalance), []).append(record.run_id)
    most = max(1, MOST_BY_CLASS // max(1, len(places)))
    wanted = dict.fromkeys(run_id for runs in places.values() for run_id in runs[:most])
    return {run_id: store.read(run_id, PER_CLASS, PerClass.of) for run_id in wanted}
