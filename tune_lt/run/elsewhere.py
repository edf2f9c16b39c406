"""Cells that `tune_lt.training.cells` trains on another machine: the list for it, and the import of its results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from tune_lt.config import ImageHashes
from tune_lt.documents import CONTENTS, SearchResult
from tune_lt.errors import InputError
from tune_lt.run.planner import Plan, PlannedCell, found_by, parent_tags, study_tags
from tune_lt.store import DUPLICATE, TAG, Store, own_tags
from tune_lt.store.journal import PATIENCE_SECONDS, Journal
from tune_lt.store.lease import Lease
from tune_lt.study import Space, Study, grid
from tune_lt.training.exchange import LISTED, ListedCell, Listing, TrainedCell, result_files
from tune_lt.training.identity import used


def listing(study: Study, images: ImageHashes, store: Store | None, *, missing: bool) -> Listing:
    """The list of a study's cells. A row that needs the result of a search waits until that search has ended.

    Cells of grid searches come first, the first unit of every trial before the second. Then come the cells of the
    tables, the first seed of every row before the second. ``store``: where ended searches are looked up. With
    ``missing``, cells that the store has, or knows to diverge, are left out.
    """
    plan = Plan(study, images, study_tags(study))
    parent = store.parent(study.name) if store else None
    results: list[SearchResult] = []
    cells: list[PlannedCell] = []
    for space in study.searches.values():
        result = plan.recorded(space, store, parent.info.run_id) if store and parent else None
        if result is None:
            cells += _of_search(plan, space)
        else:
            results.append(result)
    found = found_by(*results)
    tables, waiting = plan.settled(found)
    cells += tables
    have = store.finished_cells().keys() | store.cells(study.name).failing().keys() if store and missing else set()
    wanted = {cell.fingerprint: cell for cell in reversed(cells)}  # of rows that share a cell the first names it
    listed = tuple(_listed(plan, cell) for name, cell in reversed(wanted.items()) if name not in have)
    sources = dict(study.sources)
    for one in listed:
        sources |= used(one.cell.data, one.cell.model, one.cell.loss, sources)
    contents = plan.contents(tables, found, None)
    rows = {row: cells for row, cells in contents.rows.items() if row not in waiting}
    return Listing(
        study=study.name,
        text=study.text,
        tags=parent_tags(study, images.whole),
        contents=dataclasses.replace(contents, rows=rows),
        waiting=tuple(waiting),
        images=images,
        plugins=study.plugins,
        plugin_files=study.plugin_files,
        sources=sources,
        threads=max(1, int(study.resources.cpus)),
        loaders=study.resources.readers,
        cells=listed,
    )


def _of_search(plan: Plan, space: Space) -> list[PlannedCell]:
    """The cells of a search that are known before it begins: the reference of its constraints, and all of a grid."""
    cells = plan.reference(space) if space.search.constraints else []
    if space.search.sampler == "grid":
        trials = [plan.units(space, point) for point in grid(space.space)]
        cells += [cell for one_of_each in zip(*trials, strict=True) for cell in one_of_each]
    return cells


def _listed(plan: Plan, planned: PlannedCell) -> ListedCell:
    record = plan.record(planned)
    params = {path: str(value) for path, value in record.params.items()}
    return ListedCell(planned.fingerprint, planned.cell, record.name, params, record.tags)


def read(folder: Path) -> tuple[Listing, list[TrainedCell]]:
    """The list of cells and every result in ``folder``, where `tune_lt.training.cells` wrote them.

    Raises InputError if there is no result, or for a file of another form.
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
    """Record cells that were trained on another machine; those that the store already has are left out.

    A study that was never run here also gets its ``cells.json``, so that it can be reported at once. Raises InputError
    while a driver runs the study.
    """
    store.client.patience = PATIENCE_SECONDS
    study = listing.study
    parent = store.ensure_parent(study)
    lease = Lease(store, parent)
    try:
        opened = partial(Journal, store, study, parent, store.state_folder(study), say=say, beat=lease.renew)
        opened().close()  # send what a killed driver had not sent yet
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
    """Mark unfinished runs of these cells as duplicates: the cells have been trained on another machine."""
    for record in store.cells(study):
        if record.tags.get("key") in fingerprints and record.tags.get("outcome") != "complete":
            store.tag(record.run_id, {f"{TAG}outcome": DUPLICATE})
            store.finish(record.run_id, "KILLED")


def _describe(listing: Listing, store: Store, parent: str) -> None:
    """Give the study's own run the tags and documents that a driver would write, unless one has run the study here."""
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
