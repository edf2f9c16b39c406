"""Finds and repairs what a driver that died, a crashed disk or a race left behind in a study's record.

`examine_study` changes nothing. `fix` first takes the study's lease, so that no driver works on the study meanwhile,
and examines it again. A second `fix` has no effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mlflow.entities import Run

from tune_lt.documents import CONTENTS, Contents
from tune_lt.errors import InputError
from tune_lt.store import DAMAGED, DUPLICATE, TAG, CellRecord, Cells, Store
from tune_lt.store.client import StoreError
from tune_lt.store.copies import CHECKPOINTS
from tune_lt.store.journal import JOURNAL, Journal, unsent
from tune_lt.store.lease import Lease, described, holder, lives
from tune_lt.store.records import reused_tag
from tune_lt.texts import some

SHOWN = 4  # runs that a line names
OUTCOME = f"{TAG}outcome"


@dataclass(frozen=True)
class Finding:
    """One thing that was found. ``found`` and ``remedy`` say in words what it is and what `fix` does, "" if nothing.

    ``kind``: held, journal, moved, orphan, running, damaged, duplicate, parent, checkpoint or lease. `fix` sets
    ``tags`` on ``runs``, ends them as KILLED where ``killed`` is true, and deletes ``files``. Where ``runs`` are
    duplicates, ``kept`` are the runs that stay in their place.
    """

    kind: str
    found: str
    remedy: str = ""
    runs: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    killed: bool = False
    files: Sequence[Path] = ()
    kept: Sequence[str] = ()

    @property
    def problem(self) -> bool:
        """False for a study that a driver runs: its record cannot be judged before the driver ends."""
        return self.kind != "held"

    def __str__(self) -> str:
        return self.found + (f" (--fix: {self.remedy})" if self.remedy else "")


def examine_study(store: Store, study: str) -> list[Finding]:
    """What is wrong with the study's record, in the order in which `fix` repairs it. Changes nothing.

    While a driver runs the study, that is the only finding. Raises InputError if the store has no such study.
    """
    parent = store.parent(study)
    held = holder(store.client, parent.info.run_id) if parent else None
    if held and parent and lives(store.client, parent.info.run_id, held):
        return [Finding("held", f"being run by {described(held)}; look again when it is done")]
    findings = _examine(store, study)
    if parent is None and not findings:
        store.own_run(study)  # raises
    if held:
        findings.append(Finding("lease", f"its lease is still that of {described(held)}, which is dead", "given up"))
    return findings


def fix(store: Store, study: str, findings: Sequence[Finding]) -> list[str]:
    """Repair what `examine_study` found, as far as possible; return what was done, in lines.

    Raises InputError if a driver runs the study by now, or if the store does not take the records that were not sent.
    """
    is_new = store.parent(study) is None
    parent = store.ensure_parent(study)
    lease = Lease(store, parent)
    try:
        if any(finding.kind == "journal" for finding in findings):
            Journal(store, study, parent, store.state_folder(study), beat=lease.renew).close()
        if is_new:
            store.finish(parent, "KILLED")
        done = [finding for finding in findings if finding.kind in ("journal", "lease")]  # taking the lease ended it
        for finding in _examine(store, study):
            lease.renew()
            if lease.lost:
                raise InputError(f"another driver has taken over the study {study!r}; repair stops")
            if finding.remedy:
                _apply(store, parent, finding)
                done.append(finding)
        return [f"{finding.found}: {finding.remedy}" for finding in done]
    finally:
        lease.release()


def _apply(store: Store, parent: str, finding: Finding) -> None:
    for run_id, kept in zip(finding.runs, finding.kept, strict=False):
        _note_reuse(store, parent, run_id, kept)
    for run_id in finding.runs:
        if finding.tags:
            store.tag(run_id, finding.tags)
        if finding.killed:
            store.finish(run_id, "KILLED")
    for file in finding.files:
        file.unlink(missing_ok=True)


def _note_reuse(store: Store, parent: str, run_id: str, kept_id: str) -> None:
    """Let the search of a trial that is a duplicate know it as one that was trained already, under the kept run."""
    own, kept = (store.client.get_run(one).data.tags for one in (run_id, kept_id))
    search, number, found, fingerprint = (own.get(f"{TAG}{tag}") for tag in ("search", "trial", "found", "fingerprint"))
    if search is None or number is None or found is None or kept.get(OUTCOME) != "complete":
        return
    if (search, number) != (kept.get(f"{TAG}search"), kept.get(f"{TAG}trial")):
        content = json.dumps({"found": json.loads(found), "fingerprint": fingerprint})
        store.tag(parent, {TAG + reused_tag(search, number): content})


def _examine(store: Store, study: str) -> list[Finding]:
    """Every finding that does not concern the lease."""
    cells, parents = store.cells(study), store.parents(study)
    own = parents[0].info.run_id if parents else ""
    counted = [cell for cell in cells if cell.tags.get("outcome") not in (DAMAGED, DUPLICATE)]
    moved = _moved(store, study, counted)
    damaged = {cell.run_id: cell for cell in counted if _is_damaged(store, cell, artifacts=not moved)}
    pairs = _duplicates([cell for cell in counted if cell.run_id not in damaged])
    return [
        *_journal(store, study),
        *moved,
        *_of_runs(
            "orphan",
            "{} not below the study's run",
            "put there",
            [cell for cell in cells if cell.parent != own],
            tags={"mlflow.parentRunId": own},
        ),
        *_of_runs(
            "running",
            "{} RUNNING, but no driver is alive",
            "marked as interrupted, the next run of the study goes on with what it still needs",
            [cell for cell in cells if cell.status == "RUNNING"],
            tags={OUTCOME: "interrupted"},
            killed=True,
        ),
        *_of_runs(
            "damaged",
            "{} without metrics or per_class.json",
            "marked as damaged, the next run of the study trains again what it still needs",
            list(damaged.values()),
            tags={OUTCOME: DAMAGED},
        ),
        *_of_runs(
            "duplicate",
            "{} of a cell that has another run",
            "marked as duplicate, the run that finished first stays",
            [cell for cell, _ in pairs],
            tags={OUTCOME: DUPLICATE},
            kept=[kept.run_id for _, kept in pairs],
        ),
        *_parents(parents),
        *_checkpoints(store, study, cells, parents, {cell.fingerprint for cell in damaged.values()}),
    ]


def _journal(store: Store, study: str) -> list[Finding]:
    folder = store.state_folder(study)
    count = unsent(folder)[0].count(b"\n")
    text = f"{_count(count, 'record')} in {folder / JOURNAL} not sent to the store"
    return [Finding("journal", text, "sent, in order")] if count else []


def _moved(store: Store, study: str, cells: Sequence[CellRecord]) -> list[Finding]:
    """Whether the folder of all artifacts is gone. Then it was probably moved, and no cell must be trained again."""
    experiment = store.home(study)
    place = urlparse(experiment.artifact_location if experiment else "")
    folder = unquote(place.path)
    complete = any(cell.tags.get("outcome") == "complete" for cell in cells)
    if place.scheme != "file" or not complete or Path(folder).is_dir():
        return []
    text = f"the artifacts' folder {folder} is not there; put it back, or make a link to where it is now"
    return [Finding("moved", text)]


def _is_damaged(store: Store, cell: CellRecord, *, artifacts: bool) -> bool:
    """Whether a cell that counts as trained lacks metrics or, if ``artifacts`` are looked at, per_class.json."""
    outcome, fold = cell.tags.get("outcome"), cell.tags.get("fold")
    if outcome not in ("complete", "pruned") or cell.status != "FINISHED":
        return False
    if cell.tags.get("kind") == "trial":
        return "train/loss" not in cell.metrics  # its other metrics are means of its cells' metrics
    split = {None: (), "full": ("test/top1", "test/balanced")}.get(fold, ("val/top1", "val/balanced"))
    if not {"train/loss", *split} <= cell.metrics.keys():
        return True
    return outcome == "complete" and artifacts and not _readable(store, cell.run_id)


def _readable(store: Store, run_id: str) -> bool:
    try:
        return isinstance(store.read_json(run_id, "per_class.json"), dict)
    except InputError as error:
        if isinstance(error, StoreError) or not isinstance(error.__context__, ValueError):
            raise  # the store does not answer, which says nothing about the cell
        return False  # it is there, but cut short


def _duplicates(cells: Sequence[CellRecord]) -> list[tuple[CellRecord, CellRecord]]:
    """Pairs of a duplicate and the run that stays: two with one key, or two complete cells with one fingerprint."""
    pairs = []
    by_key: dict[str, CellRecord] = {}
    by_fingerprint: dict[str, CellRecord] = {}
    for cell in sorted(cells, key=_precedence):
        kept = by_key.setdefault(cell.tags.get("key", cell.run_id), cell)
        whole = cell.tags.get("outcome") == "complete" and cell.status == "FINISHED"
        if kept is cell and whole and cell.tags.get("kind") == "cell":
            kept = by_fingerprint.setdefault(cell.fingerprint, cell)
        if kept is not cell:
            pairs.append((cell, kept))
    return pairs


def _precedence(cell: CellRecord) -> tuple[int, int]:
    """Sorts complete runs first, then pruned, failed, other runs; of equals, the one that finished first."""
    ranks = {"complete": 0, "pruned": 1, "failed": 2}
    rank = ranks.get(cell.tags.get("outcome", ""), 3) if cell.status in ("FINISHED", "FAILED") else 3
    return rank, cell.ended if rank < 3 else 0  # the order of the others is that in which they began


def _parents(parents: list[Run]) -> list[Finding]:
    runs = [run.info.run_id for run in parents if run.info.status == "RUNNING"]
    text = "the study's own run is RUNNING, but no driver is alive"
    return [Finding("parent", text, "marked as KILLED", runs, killed=True)] if runs else []


def _checkpoints(store: Store, study: str, cells: Cells, parents: list[Run], damaged: set[str]) -> list[Finding]:
    """Checkpoints that no training will continue from, and those that were being written when the driver died."""
    folder = next(
        (Path(run.data.tags[CHECKPOINTS]) for run in parents if CHECKPOINTS in run.data.tags),
        store.state_folder(study) / "checkpoints",
    )
    if not folder.is_dir():
        return []
    pruned = {cell.fingerprint for cell in cells if cell.tags.get("outcome") == "pruned"}
    wanted = {cell.fingerprint for cell in cells if cell.tags.get("outcome") in ("running", "interrupted", None)}
    done = (store.finished_cells().keys() | cells.failing().keys() | (pruned - wanted)) - damaged
    try:
        documents = [store.read(run.info.run_id, CONTENTS, Contents.of) for run in parents]
    except InputError:
        return []  # it cannot be seen which cell is recommended
    # the state of the recommended cell is kept, for the model that a later run exports
    done -= {one.recommended.fingerprint for one in documents if one and one.recommended}
    groups = {
        "of cells that are done": [file for file in folder.glob("*.pt") if file.stem in done],
        "half written": list(folder.glob(".*.pt.*")),
    }
    return [
        Finding("checkpoint", f"{_count(len(files), 'checkpoint')} {what}", "deleted", files=files)
        for what, files in groups.items()
        if files
    ]


def _of_runs(kind: str, text: str, remedy: str, cells: Sequence[CellRecord], **effect: Any) -> list[Finding]:
    """One finding for all cells of a kind, none if there are no cells."""
    names = some([_label(cell) for cell in cells], SHOWN)
    found = f"{text.format(_count(len(cells), 'run'))}: {names}"
    return [Finding(kind, found, remedy, [cell.run_id for cell in cells], **effect)] if cells else []


def _label(cell: CellRecord) -> str:
    tags = cell.tags
    name = f"trial {tags['trial']}" if "trial" in tags else f"{tags.get('row', '?')} seed {tags.get('init_seed', '?')}"
    return f"{name} ({cell.run_id[:8]})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
