"""Cells that are trained on another machine (`tune_lt.training.cells`): their list, and their results' way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    parent_tags,
    planned_cells,
    recorded_search,
    study_tags,
    table_of_contents,
    trial_cells,
)
from tune_lt.study import Space, Study, grid
from tune_lt.tracking import CONTENTS, Store
from tune_lt.training.cells import LISTED, ListedCell, Listing, TrainedCell


def listing(study: Study, content_hash: str, store: Store | None, *, missing: bool) -> tuple[Listing, list[str]]:
    """What the study's grids and tables are made of, and the rows that must wait for a search to end.

    First the grids' cells, one unit of every trial before the next, then the tables': one seed of every row before the
    next. ``store``: where ended searches are looked up, and, for ``missing``, the cells that need no training.
    """
    planner = Planner(study, content_hash, study_tags(study))
    parent = store.parent(study.name) if store else None
    found: dict[str, dict[str, Any]] = {}
    cells: list[PlannedCell] = []
    for space in study.searches.values():
        concluded = recorded_search(study, space, store, parent.info.run_id, content_hash) if store and parent else None
        if concluded is None:
            cells += _of_search(planner, study, space, content_hash)
        else:
            found |= found_by(space.name, concluded)
    tables, waiting = _of_tables(study, found, content_hash)
    cells += tables
    have = store.finished_cells() if store and missing else {}
    wanted = {cell.fingerprint: cell for cell in reversed(cells)}  # of rows that share a cell the first names it
    listed = tuple(_listed(planner, cell) for name, cell in reversed(wanted.items()) if name not in have)
    content = table_of_contents(study, tables, found, None)
    content["rows"] = {row: entries for row, entries in content["rows"].items() if row not in waiting}
    made = Listing(
        study.name, study.text, parent_tags(study), content, content_hash, study.plugins, study.sources,
        max(1, int(study.resources.cpus)), study.resources.readers, listed,
    )  # fmt: skip
    return made, waiting


def _of_search(planner: Planner, study: Study, space: Space, content_hash: str) -> list[PlannedCell]:
    """The cells of a search that are known before it begins: its reference, and all of a grid."""
    cells = planner.reference(space) if space.search.constraints else []
    if space.search.sampler == "grid":
        units = zip(*(trial_cells(study, space, point) for point in grid(space.space)), strict=True)
        for cell in (cell for unit in units for cell in unit):
            name = fingerprint(cell, content_hash, study.sources)
            cells.append(PlannedCell("fold", cell.data["imbalance"], cell, name))
    return cells


def _of_tables(
    study: Study, found: Mapping[str, Mapping[str, Any]], content_hash: str
) -> tuple[list[PlannedCell], list[str]]:
    """The tables' cells that are alike whatever the searches that go on will find, and the rows that are not."""
    ends = [
        {name: {path: d.values[end] for path, d in space.space.items()} for name, space in study.searches.items()}
        for end in (0, -1)
    ]
    low, high = (planned_cells(study, {**guessed, **found}, content_hash) for guessed in ends)
    alike = [one.fingerprint == other.fingerprint for one, other in zip(low, high, strict=True)]
    waiting = [cell.row for cell, same in zip(low, alike, strict=True) if not same]
    return [cell for cell, same in zip(low, alike, strict=True) if same], list(dict.fromkeys(waiting))


def _listed(planner: Planner, planned: PlannedCell) -> ListedCell:
    record = planner.record(planned.cell, planned.fingerprint, planned.row, planned.fingerprint)
    params = {path: str(value) for path, value in record["params"].items()}
    return ListedCell(planned.fingerprint, planned.cell, record["name"], params, record["tags"])


def read(folder: Path) -> tuple[Listing, list[TrainedCell]]:
    """The list of cells that was trained into ``folder``, and every result there.

    Raises InputError for a folder without any, or a file that is not what it should be.
    """
    listing = Listing.read(folder / LISTED)
    files = sorted(file for file in folder.glob("*.json") if file.name != LISTED)
    if not files:
        raise InputError(f"{folder}: no results yet; python -m tune_lt.training.cells writes one for each cell")
    trained = [TrainedCell.read(file) for file in files]
    for file, one in zip(files, trained, strict=True):
        if one.study != listing.study:
            raise InputError(f"{file}: found a cell of {one.study}; valid: of {listing.study}, as {LISTED} beside it")
    return listing, trained


def take_in(listing: Listing, cells: Sequence[TrainedCell], store: Store, say: Callable[[str], None]) -> None:
    """Record cells that were trained elsewhere as the cells they are: each once, those that the store has not at all.

    A study that was never run here gets its table of contents too, so that it can be reported at once. Raises
    InputError while the study is being run.
    """
    store.client.patience = PATIENCE_SECONDS
    study = listing.study
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
        if store.read_json(parent, CONTENTS) is None:
            store.begin(parent, listing.text, listing.tags)
            store.log_json(parent, CONTENTS, dict(listing.contents))
            whole = {one.fingerprint for one in listing.cells} <= store.finished_cells().keys()
            store.finish(parent, "FINISHED" if whole else "KILLED")  # as a study that was interrupted
    finally:
        lease.release()
    say(f"{study}: {len(fresh)} cells imported, {len(cells) - len(fresh)} were there already")
