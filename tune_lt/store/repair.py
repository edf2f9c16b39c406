"""What a driver that died, a crashed disk or a race left behind in a study's record, and how it is put right.

`examine_study` only looks. `fix` takes the study's lease first, so that no driver works on it meanwhile, and looks
again before it changes anything: what it does twice changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

from mlflow.entities import Run

from tune_lt.errors import InputError
from tune_lt.store import DAMAGED, DUPLICATE, TAG, CellRecord, Cells, Store
from tune_lt.store.journal import Journal
from tune_lt.store.lease import Lease, alive, holder
from tune_lt.store.records import reused_tag
from tune_lt.texts import some

Kind = Literal["held", "journal", "orphan", "running", "damaged", "duplicate", "parent", "checkpoint", "lease", "moved"]
SHOWN = 4  # runs named in a line
PLACE = f"{TAG}checkpoints"  # where a driver said that the states are
MEANS = {
    "orphan": "put there",
    "running": "marked as interrupted, the next run goes on with what is still wanted",
    "damaged": "marked as damaged, the next run trains anew what is still wanted",
    "duplicate": "marked as duplicate, the run that finished first stays",
}


@dataclass(frozen=True)
class Finding:
    """One thing found: ``found`` says what, ``remedy`` what `fix` does about it (nothing, if empty).

    ``runs`` are the MLflow runs concerned, ``kept`` those that stand in for them (of duplicates); ``files`` likewise.
    """

    kind: Kind
    study: str
    found: str
    remedy: str = ""
    runs: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def problem(self) -> bool:
        """A study that is being run is not one: nothing can be said of it until it is done."""
        return self.kind != "held"

    def __str__(self) -> str:
        return f"{self.study}: {self.found}" + (f" (--fix: {self.remedy})" if self.remedy else "")


def examine_study(store: Store, study: str) -> list[Finding]:
    """What is wrong with the study's record, in the order in which `fix` puts it right. Changes nothing.

    While a driver runs the study that is the only finding. Raises InputError if the store has no such study.
    """
    parent = store.parent(study)
    held = holder(store, parent.info.run_id) if parent else None
    if held and alive(held):
        since = time.time() - held["at"]
        who = f"being run by process {held['pid']} on {held['host']} (last sign of life {since:.0f} s ago)"
        return [Finding("held", study, f"{who}; look again when it is done")]
    findings = _examine(store, study)
    if parent is None and not findings:
        known = ", ".join(store.studies()) or "none"
        raise InputError(f"no study {study!r} in {store.shown}; studies there: {known}")
    if held:
        who = f"process {held['pid']} on {held['host']}"
        findings.append(Finding("lease", study, f"the lease of {who}, which is dead, is left", "it is given up"))
    return findings


def fix(store: Store, findings: Sequence[Finding]) -> list[str]:
    """Put right what `examine_study` found, as far as it can be; what was done, in lines.

    A study that is being run is left alone. Raises InputError if a driver takes it at this moment, or if the store
    does not take the records that were not sent yet.
    """
    said: list[str] = []
    for study in dict.fromkeys(finding.study for finding in findings if finding.remedy):
        said += _fix_study(store, study, [finding for finding in findings if finding.study == study])
    return said


def _fix_study(store: Store, study: str, findings: list[Finding]) -> list[str]:
    new = store.parent(study) is None
    parent = store.ensure_parent(study)
    lease = Lease(store, parent)
    said: list[str] = []
    try:
        if any(finding.kind == "journal" for finding in findings):
            Journal(store, study, parent, store.state_folder(study), beat=lease.renew).close()
        if new:
            store.finish(parent, "KILLED")
        done = [finding for finding in findings if finding.kind in ("journal", "lease")]  # the lease is ours by now
        for finding in _examine(store, study):
            lease.renew()
            if lease.lost:
                raise InputError(f"another driver has taken over the study {study!r}; repair stops")
            if finding.remedy:
                _REMEDIES[finding.kind](store, parent, finding)
                done.append(finding)
        said += [f"{finding.study}: {finding.found}: {finding.remedy}" for finding in done]
    finally:
        lease.release()
    return said


def _examine(store: Store, study: str) -> list[Finding]:
    """Everything but the lease."""
    cells, parents = store.cells(study), store.parents(study)
    counted = [cell for cell in cells if cell.tags.get("outcome") not in (DAMAGED, DUPLICATE)]
    moved = _moved(store, study, counted)
    damaged = {cell.run_id: cell for cell in counted if _is_damaged(store, cell, artifacts=not moved)}
    doubles = _duplicates([cell for cell in counted if cell.run_id not in damaged])
    own = parents[0].info.run_id if parents else ""
    named = (
        ("orphan", "{} not below the study's run", [cell for cell in cells if cell.parent != own]),
        ("running", "{} RUNNING, but no driver is alive", [cell for cell in cells if cell.status == "RUNNING"]),
        ("damaged", "{} without metrics or per_class.json", list(damaged.values())),
        ("duplicate", "{} of a cell that has another run", [double for double, _ in doubles]),
    )
    kept = {double.run_id: stays.run_id for double, stays in doubles}
    found = _journal(store, study) + moved
    found += [_of_runs(kind, study, text, runs, kept) for kind, text, runs in named if runs]
    return (
        found
        + _parents(study, parents)
        + _checkpoints(store, study, cells, {cell.fingerprint for cell in damaged.values()})
    )


def _journal(store: Store, study: str) -> list[Finding]:
    folder = store.state_folder(study)
    file, sent = folder / "journal.jsonl", folder / "journal.sent"
    if not file.exists():
        return []
    position = int(sent.read_text() or 0) if sent.exists() else 0
    count = file.read_bytes()[position:].count(b"\n")  # a last line that was cut short is no record
    text = f"{_count(count, 'record')} in {file} not sent to the store"
    return [Finding("journal", study, text, "sent, in order")] if count else []


def _moved(store: Store, study: str, cells: Sequence[CellRecord]) -> list[Finding]:
    """Artifacts of the whole study gone: most likely the folder was moved, and no reason to train it all again."""
    experiment = store.client.get_experiment_by_name(study)
    place = urlparse(experiment.artifact_location if experiment else "")
    complete = any(cell.tags.get("outcome") == "complete" for cell in cells)
    if place.scheme != "file" or not complete or Path(unquote(place.path)).is_dir():
        return []
    text = f"the artifacts' folder {unquote(place.path)} is not there; if the store was moved, move or link it back"
    return [Finding("moved", study, text)]


def _is_damaged(store: Store, cell: CellRecord, *, artifacts: bool) -> bool:
    """Whether a cell that counts as trained lacks its numbers."""
    outcome, fold = cell.tags.get("outcome"), cell.tags.get("fold")
    if outcome not in ("complete", "pruned") or cell.status != "FINISHED":
        return False
    if cell.tags.get("kind") == "trial":
        return "train/loss" not in cell.metrics  # the means of its cells, which have the rest
    split = {None: (), "full": ("test/top1", "test/balanced")}.get(fold, ("val/top1", "val/balanced"))
    if not {"train/loss", *split} <= cell.metrics.keys():
        return True
    return outcome == "complete" and artifacts and not _readable(store, cell.run_id)


def _readable(store: Store, run_id: str) -> bool:
    try:
        return isinstance(store.read_json(run_id, "per_class.json"), dict)
    except InputError as error:
        if isinstance(error.__context__, ValueError):
            return False  # there, but no JSON: half written
        raise  # the store is away: that says nothing about the cell


def _duplicates(cells: Sequence[CellRecord]) -> list[tuple[CellRecord, CellRecord]]:
    """(the run that is one too many, the run that stays): two of one key, or two complete of one fingerprint."""
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
    """Complete runs first, then others that ended by themselves; of equals the one that finished first."""
    ranks = {"complete": 0, "pruned": 1, "failed": 2}
    rank = ranks.get(cell.tags.get("outcome", ""), 3) if cell.status in ("FINISHED", "FAILED") else 3
    return rank, cell.ended if rank < 3 else 0  # unfinished ones stay in the order in which they started


def _parents(study: str, parents: list[Run]) -> list[Finding]:
    runs = tuple(run.info.run_id for run in parents if run.info.status == "RUNNING")
    text = "the study's own run is RUNNING, but no driver is alive"
    return [Finding("parent", study, text, "marked as KILLED", runs)] if runs else []


def _checkpoints(store: Store, study: str, cells: Cells, damaged: set[str]) -> list[Finding]:
    """States that nobody will go on from, and those that were being written when the driver died."""
    folder = next(
        (Path(run.data.tags[PLACE]) for run in store.parents(study) if PLACE in run.data.tags),
        store.state_folder(study) / "checkpoints",
    )
    if not folder.is_dir():
        return []
    hopeless = cells.hopeless().keys()
    pruned = {cell.fingerprint for cell in cells if cell.tags.get("outcome") == "pruned"}
    wanted = {cell.fingerprint for cell in cells if cell.tags.get("outcome") in ("running", "interrupted", None)}
    done = (store.finished_cells().keys() | hopeless | (pruned - wanted)) - damaged
    states = tuple(sorted(file for file in folder.glob("*.pt") if file.stem in done))
    halves = tuple(sorted(folder.glob(".*.pt.*")))
    found = []
    if states:
        text = f"{_count(len(states), 'checkpoint')} of cells that are done"
        found.append(Finding("checkpoint", study, text, "deleted", files=states))
    if halves:
        text = f"{_count(len(halves), 'checkpoint')} half written"
        found.append(Finding("checkpoint", study, text, "deleted", files=halves))
    return found


def _of_runs(kind: Any, study: str, text: str, cells: Sequence[CellRecord], kept: Mapping[str, str]) -> Finding:
    names = some([_label(cell) for cell in cells], SHOWN)
    runs = tuple(cell.run_id for cell in cells)
    stays = tuple(kept[run_id] for run_id in runs) if kind == "duplicate" else ()
    return Finding(kind, study, f"{text.format(_count(len(cells), 'run'))}: {names}", MEANS[kind], runs, stays)


def _label(cell: CellRecord) -> str:
    tags = cell.tags
    name = f"trial {tags['trial']}" if "trial" in tags else f"{tags.get('row', '?')} seed {tags.get('init_seed', '?')}"
    return f"{name} ({cell.run_id[:8]})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _interrupt(store: Store, parent: str, finding: Finding) -> None:
    for run_id in finding.runs:
        store.tag(run_id, {f"{TAG}outcome": "interrupted"})
        store.finish(run_id, "KILLED")


def _mark_damaged(store: Store, parent: str, finding: Finding) -> None:
    _tag_all(store, finding.runs, {f"{TAG}outcome": DAMAGED})


def _mark_duplicates(store: Store, parent: str, finding: Finding) -> None:
    """A search trial among them stays known to its search: as one whose cell was trained already."""
    for run_id, kept_id in zip(finding.runs, finding.kept, strict=True):
        own, kept = (store.client.get_run(one).data.tags for one in (run_id, kept_id))
        place = [own.get(f"{TAG}{tag}") for tag in ("search", "trial", "found", "fingerprint")]
        elsewhere = place[:2] != [kept.get(f"{TAG}search"), kept.get(f"{TAG}trial")]
        if None not in place and elsewhere and kept.get(f"{TAG}outcome") == "complete":
            search, number, found, fingerprint = map(str, place)
            content = json.dumps({"found": json.loads(found), "fingerprint": fingerprint})
            store.tag(parent, {TAG + reused_tag(search, number): content})
        store.tag(run_id, {f"{TAG}outcome": DUPLICATE})


def _tag_all(store: Store, runs: Iterable[str], tags: dict[str, str]) -> None:
    for run_id in runs:
        store.tag(run_id, tags)


def _kill(store: Store, parent: str, finding: Finding) -> None:
    for run_id in finding.runs:
        store.finish(run_id, "KILLED")


def _delete(store: Store, parent: str, finding: Finding) -> None:
    for file in finding.files:
        file.unlink(missing_ok=True)


_REMEDIES: dict[str, Callable[[Store, str, Finding], Any]] = {
    "orphan": lambda store, parent, finding: _tag_all(store, finding.runs, {"mlflow.parentRunId": parent}),
    "running": _interrupt,
    "damaged": _mark_damaged,
    "duplicate": _mark_duplicates,
    "parent": _kill,
    "checkpoint": _delete,
}
