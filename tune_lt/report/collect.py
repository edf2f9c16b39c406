"""A study's report: its tables and figures, assembled from what the store has of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from tune_lt.report.tables.scoring import covered, scorings
from tune_lt.report.tables.sheet import Sheet, marked
from tune_lt.report.tables.summary import COLUMNS, Scoring, with_classes
from tune_lt.store import CellRecord, Store, own_tags
from tune_lt.study.rows import REFERENCE

MOST_BY_CLASS = 300  # runs whose accuracies by class are read, an artifact each: of more, each row's first seeds


@dataclass(frozen=True)
class Report:
    """A study's tables and figures, and what the page shows beside them.

    ``frame``: a line for each row and finished cell, see `collect`. ``details``: tables that are written to files but
    not printed. ``figures``: by name. ``recorded``: where the numbers come from. ``searches``: the ended ones.
    ``rows``: in the order of the study; ``shown``: those that the figures show at first.
    """

    study: str
    frame: pd.DataFrame
    tables: tuple[Sheet, ...]
    figures: Mapping[str, Figure]
    recorded: Recorded
    details: tuple[Sheet, ...]
    searches: tuple[SearchResult, ...]
    rows: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def by_class(self) -> pd.DataFrame:
        """The lines of the frame that have the accuracy of each class."""
        return with_classes(self.frame)


def collect(store: Store, study: str) -> Report:
    """A study's report, from the store alone: what its searches found, and the tables of its rows.

    The report's frame has a line for each row and finished cell: ``row``, ``data_seed``, ``init_seed``, ``imbalance``,
    ``fingerprint``, MLflow's ``run_id`` and ``experiment``, the accuracies ``test/many`` ... ``test/balanced`` as
    fractions in [0, 1] (NaN for a group without classes), and the lists ``class_counts``, ``per_class`` and
    ``class_names``, None where they were not read (`MOST_BY_CLASS`).

    Raises InputError if no search has ended and no rows are planned.
    """
    parent = store.own_run(study)
    content = store.read(parent.info.run_id, CONTENTS, Contents.of)
    listed = content.searches if content else None
    searched = searches.read(store, parent.info.run_id, listed)
    if content is None and not searched:
        if "dataset" in own_tags(parent) and store.read_text(parent.info.run_id, "study.yaml") is None:
            place = parent.info.artifact_uri
            raise InputError(f"the store {store.shown} has the study {study!r}, but none of its files are in {place}")
        raise InputError(f"the study {study!r} has no table yet: no search of it has ended; tune-lt status {study}")
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
        scoring = scorings(store, content, finished)
        own, every_two, figures["accuracy_by_class_size"], shown = of_rows(study, content, frame, finished, scoring)
        advice = recommendation.sheet(content, searched, finished, scoring)
        tables += [*own, *([advice] if advice else [])]
        with_intervals = [*every_two, *_measured(store, frame, content, scoring)]
        details += [replace(sheet, notes=(*sheet.notes, *covered(content))) for sheet in with_intervals]
        beside = paper.sheets_of(own_tags(parent), content, finished, scoring)
    recorded = read(store, parent, frame, finished)
    return Report(
        study,
        frame,
        (*beside, *(marked(sheet, recorded.scale) for sheet in tables)),
        figures,
        recorded,
        tuple(marked(sheet, recorded.scale) for sheet in details),
        tuple(searched),
        tuple(rows),
        tuple(shown),
    )


def _measured(
    store: Store, frame: pd.DataFrame, content: Contents, scoring: Mapping[float | None, Scoring]
) -> list[Sheet]:
    """Tables of what runs recorded beside their scores, at the largest imbalance factor: the paper's two claims."""
    factor = hardest(content.columns)
    own, draw = frame[of_column(frame, factor)], scoring[factor].draw
    sheets = []
    if reference_of(content.rows) == REFERENCE:
        sheets.append(claims.terciles(own, REFERENCE, lambda run: store.read(run, BY_IMAGE, ByImage.of), draw))
    sheets.append(claims.precision(own, lambda run: store.read(run, NORMS, Norms.of), draw))
    return [sheet for sheet in sheets if sheet is not None]


def _frame(store: Store, rows: Mapping[str, Sequence[TableCell]], finished: Mapping[str, CellRecord]) -> pd.DataFrame:
    """The report's frame, see `collect`."""
    metrics = [*COLUMNS.values(), "test/balanced"]
    lines = []
    for row, cells in rows.items():
        for cell in cells:
            record = finished.get(cell.fingerprint)
            if record:
                scores = [record.metrics.get(metric, math.nan) for metric in metrics]
                place = (row, cell.data_seed, cell.init_seed, cell.imbalance, cell.fingerprint)
                lines.append((*place, record.run_id, record.experiment, *scores))
    names = ["row", "data_seed", "init_seed", "imbalance", "fingerprint", "run_id", "experiment", *metrics]
    frame = pd.DataFrame(lines, columns=names)
    places = frame.groupby(["row", "imbalance"], dropna=False)
    wanted = places.head(max(1, MOST_BY_CLASS // max(1, places.ngroups)))["run_id"].unique()
    classes = {run_id: store.read(run_id, PER_CLASS, PerClass.of) for run_id in wanted}
    for column, name in (("class_counts", "class_counts"), ("per_class", "test"), ("class_names", "class_names")):
        frame[column] = [getattr(classes.get(run_id), name, None) for run_id in frame["run_id"]]
    return frame
