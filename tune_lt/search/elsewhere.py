"""Cells that are trained on another machine (`tune_lt.training.cells`): their list, and their results' way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tune_lt.config import fingerprint
from tune_lt.errors import InputError
from tune_lt.journal import PATIENCE_SECONDS, Journal
from tune_lt.search.lease import Lease
from tune_lt.search.planning import (
    PlannedCell,
    Planner,
    found_by,
    planned_cells,
    recorded_search,
    study_tags,
    trial_cells,
)
from tune_lt.study import Study, grid
from tune_lt.tracking import Store
from tune_lt.training.cells import ListedCell, Listing, TrainedCell


def listing(study: Study, content_hash: str, store: Store | None, *, missing: bool) -> tuple[Listing, list[str]]:
    """What the study's grids and tables are made of, and the rows that must wait for a search to end.

    First the grids' cells, one unit of every trial before the next, then the tables': one seed of every row before the
    next. ``store``: where ended searches are looked up, and, for ``missing``, the cells that need no training.
    """
    parent = store.parent(study.name) if store else None
    planner = Planner(study, content_hash, study_tags(study))
    found: dict[str, dict[str, Any]] = {}
    low, high = dict(found), dict(found)
    cells: list[PlannedCell] = []
    for name, space in study.searches.items():
        concluded = recorded_search(study, space, store, parent.info.run_id, content_hash) if store and parent else None
        if concluded is not None:
            found |= found_by(name, concluded)
            continue
        low[name], high[name] = ({path: d.values[end] for path, d in space.space.items()} for end in (0, -1))
        if space.search.constraints:
            cells += planner.reference(space)
        if space.search.sampler == "grid":
            units = zip(*(trial_cells(study, space, point) for point in grid(space.space)), strict=True)
            for cell in (cell for unit in units for cell in unit):
                name_of = fingerprint(cell, content_hash, study.sources)
                cells.append(PlannedCell("fold", cell.data["imbalance"], cell, name_of))
    pairs = list(
        zip(
            planned_cells(study, found | low, content_hash),
            planned_cells(study, found | high, content_hash),
            strict=True,
        )
    )
    cells += [cell for cell, other in pairs if cell.fingerprint == other.fingerprint]
    waiting = list(dict.fromkeys(cell.row for cell, other in pairs if cell.fingerprint != other.fingerprint))
    have = store.finished_cells() if store and missing else {}
    wanted = {cell.fingerprint: cell for cell in reversed(cells)}  # of rows that share a cell the first names it
    listed = [_listed(planner, cell) for name, cell in reversed(wanted.items()) if name not in have]
    resources = study.resources
    threads, loaders = max(1, int(resources.cpus)), resources.readers
    return Listing(study.name, content_hash, study.plugins, study.sources, threads, loaders, tuple(listed)), waiting


def _listed(planner: Planner, planned: PlannedCell) -> ListedCell:
    record = planner.record(planned.cell, planned.fingerprint, planned.row, planned.fingerprint)
    params = {path: str(value) for path, value in record["params"].items()}
    return ListedCell(planned.fingerprint, planned.cell, record["name"], params, record["tags"])


def read(folder: Path) -> list[TrainedCell]:
    """Every result in ``folder``. Raises InputError for a folder without any, or a file that is none."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"{folder}: no results; valid: the folder that python -m tune_lt.training.cells wrote to")
    return [TrainedCell.read(file) for file in files]


def take_in(trained: Iterable[TrainedCell], store: Store, say: Callable[[str], None]) -> None:
    """Record cells that were trained elsewhere as the cells they are: each once, those that the store has not at all.

    Raises InputError while a study among theirs is being run.
    """
    store.client.patience = PATIENCE_SECONDS
    by_study: dict[str, list[TrainedCell]] = {}
    for one in trained:
        by_study.setdefault(one.study, []).append(one)
    for study, cells in by_study.items():
        known = store.parent(study)
        parent = store.ensure_parent(study)
        lease = Lease(store, parent)
        try:
            journal = Journal(store, study, parent, store.state_folder(study), say=say, beat=lease.renew)
            try:
                journal.drain()  # what a driver that was killed had not sent yet
                complete, failed = store.finished_cells(), store.hopeless_cells(study)
                fresh = [one for one in cells if one.fingerprint not in (failed if one.failed else complete)]
                for one in fresh:
                    journal.take(one.records)
            finally:
                journal.close()
            if known is None:
                store.finish(parent, "KILLED")  # as one that was interrupted: tune-lt run makes its tables
        finally:
            lease.release()
        say(f"{study}: {len(fresh)} cells imported, {len(cells) - len(fresh)} were there already")
