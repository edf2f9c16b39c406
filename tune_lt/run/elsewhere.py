"""Cells that are trained on another machine (`tune_lt.training.cells`): their list, and their results' way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tune_lt.config import fingerprint
from tune_lt.documents import CONTENTS
from tune_lt.errors import InputError
from tune_lt.run.planner import (
    PlannedCell,
    Planner,
    cells_at_both_ends,
    found_by,
    parent_tags,
    recorded_search,
    study_tags,
    table_of_contents,
    trial_cells,
)
from tune_lt.store import DUPLICATE, TAG, Store, own_tags
from tune_lt.store.journal import PATIENCE_SECONDS, Journal
from tune_lt.store.lease import Lease
from tune_lt.study import Space, Study, grid
from tune_lt.training.exchange import LISTED, ListedCell, Listing, TrainedCell, result_files


def listing(study: Study, content_hash: str, store: Store | None, *, missing: bool) -> Listing:
    """What the study's grids and tables are made of; a row that takes what a search finds waits until that has ended.

    First the grids' cells, one unit of every trial before the next, then the tables': one seed of every row before the
    next. ``store``: where ended searches are looked up, and, for ``missing``, the cells that are done or known to
    diverge.
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
            found |= found_by(concluded)
    tables, waiting = _of_tables(study, found, content_hash)
    cells += tables
    have = store.finished_cells().keys() | store.cells(study.name).failing().keys() if store and missing else set()
    wanted = {cell.fingerprint: cell for cell in reversed(cells)}  # of rows that share a cell the first names it
    listed = tuple(_listed(planner, cell) for name, cell in reversed(wanted.items()) if name not in have)
    contents = table_of_contents(study, tables, found, None)
    rows = {row: cells for row, cells in contents.rows.items() if row not in waiting}
    return Listing(
        study=study.name,
        text=study.text,
        tags=parent_tags(study),
        contents=dataclasses.replace(contents, rows=rows),
        waiting=tuple(waiting),
        content_hash=content_hash,
        plugins=study.plugins,
        sources=study.sources,
        threads=max(1, int(study.resources.cpus)),
        loaders=study.resources.readers,
        cells=listed,
    )


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
    pairs = cells_at_both_ends(study, found, content_hash)
    waiting = [cell.row for cell, other in pairs if cell.fingerprint != other.fingerprint]
    return [cell for cell, other in pairs if cell.fingerprint == other.fingerprint], list(dict.fromkeys(waiting))


def _listed(planner: Planner, planned: PlannedCell) -> ListedCell:
    record = planner.record(planned.cell, planned.fingerprint, planned.row, planned.fingerprint)
    params = {path: str(value) for path, value in record.params.items()}
    return ListedCell(planned.fingerprint, planned.cell, record.name, params, record.tags)


def read(folder: Path) -> tuple[Listing, list[TrainedCell]]:
    """The list of cells that was trained into ``folder``, and every result there.

    Raises InputError for a folder without any, or a file that is not what it should be.
    """
    listing, files = Listing.read(folder / LISTED), result_files(folder)
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
        opened = partial(Journal, store, study, parent, store.state_folder(study), say=say, beat=lease.renew)
        opened().close()  # what a driver that was killed had not sent yet
        complete, failed = store.finished_cells().keys(), store.cells(study).failing().keys()
        known = {one.fingerprint for one in cells if one.fingerprint in complete | (failed if one.failed else set())}
        fresh = [one for one in cells if one.fingerprint not in known]
        _set_aside(store, study, {one.fingerprint for one in fresh})
        journal = opened()
        try:
            for one in fresh:
                journal.take(one.records)
        finally:
            journal.close()
        _describe(listing, store, parent)
    finally:
        lease.release()
    say(f"{study}: {len(fresh)} cells imported, {len(known)} were there already")


def _set_aside(store: Store, study: str, fingerprints: Collection[str]) -> None:
    """Let runs that never came to their end count no longer: the cell has been trained from its beginning elsewhere."""
    for record in store.cells(study):
        if record.tags.get("key") in fingerprints and record.tags.get("outcome") != "complete":
            store.tag(record.run_id, {f"{TAG}outcome": DUPLICATE})
            store.finish(record.run_id, "KILLED")


def _describe(listing: Listing, store: Store, parent: str) -> None:
    """Give the study's own run what a driver gives it, unless one has run the study here."""
    run = store.parent(listing.study)
    if run is None or "git" in own_tags(run):
        return
    store.begin(parent, listing.text, listing.tags)
    store.show(listing.study, [], "val/balanced")
    store.log_json(parent, CONTENTS, listing.contents.content())
    wanted = {cell.fingerprint for cell in listing.contents.cells}
    left = wanted - store.finished_cells().keys()
    ended = left <= store.cells(listing.study).failing().keys() and not listing.waiting
    store.finish(parent, "KILLED" if not ended else "FAILED" if left else "FINISHED")  # as a driver would have
