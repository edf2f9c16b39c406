"""Runs as the store returns them, and what follows from them: which cells are finished, and which would fail again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlflow.entities import Run

TAG = "tune_lt."
DAMAGED, DUPLICATE = "damaged", "duplicate"  # outcomes that `tune-lt doctor --fix` sets; such runs do not count


@dataclass(frozen=True)
class CellRecord:
    """A cell's run. Scores are fractions; ``params`` and ``tags`` (without our prefix) are MLflow's strings.

    ``started`` and ``ended`` are in milliseconds since 1970; ``ended`` is 0 while the cell runs. ``parent`` is the id
    of its parent run, or ""; ``experiment`` is the id of its experiment.
    """

    run_id: str
    status: str
    fingerprint: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    ended: int = 0
    parent: str = ""
    started: int = 0
    experiment: str = ""


def finished(complete: Iterable[CellRecord]) -> dict[str, CellRecord]:
    """The cells among complete runs, by fingerprint; of two with the same one, the cell that ended first."""
    cells: dict[str, CellRecord] = {}
    for record in sorted(complete, key=lambda record: record.ended):
        if record.tags.get("kind") == "cell":
            cells.setdefault(record.fingerprint, record)
    return cells


class Cells(tuple[CellRecord, ...]):
    """All runs of a study except its parent run, the oldest first: cells, and trials of several cells."""

    __slots__ = ()

    def failing(self) -> dict[str, str]:
        """Fingerprint -> reason, for the cells that failed and would fail again."""
        failed = (c for c in self if c.tags.get("outcome") == "failed" and c.tags.get("retry") == "no")
        return {cell.fingerprint: cell.tags.get("reason", "") for cell in failed}

    def trials(self, search: str | None = None) -> list[CellRecord]:
        """The trials with any outcome; only those of the search with this signature, if it is given.

        Duplicates are left out, and so are damaged trials that have been trained again.
        """
        every = (c for c in self if c.tags.get("row") == "search" and search in (None, c.tags.get("search")))
        records = [record for record in every if record.tags.get("outcome") != DUPLICATE]
        whole = {record.tags.get("key") for record in records if record.tags.get("outcome") != DAMAGED}
        return [r for r in records if r.tags.get("outcome") != DAMAGED or r.tags.get("key") not in whole]

    def runs_by_key(self) -> dict[str, str]:
        """Key of a cell -> id of its run; the older one, if there are two. Damaged runs and duplicates are left out."""
        keys: dict[str, str] = {}
        for record in self:
            if record.tags.get("outcome") not in (DAMAGED, DUPLICATE):
                keys.setdefault(record.tags.get("key", record.run_id), record.run_id)
        return keys


def own_tags(run: Run) -> dict[str, str]:
    """The tags of a run that begin with our prefix, without it."""
    return {key.removeprefix(TAG): value for key, value in run.data.tags.items() if key.startswith(TAG)}


def record_of(run: Run) -> CellRecord:
    """The record of a cell's run."""
    tags = own_tags(run)
    return CellRecord(
        run.info.run_id,
        run.info.status,
        tags.get("fingerprint", ""),
        _shared(run.data.params),
        {sys.intern(name): value for name, value in run.data.metrics.items()},
        _shared(tags),
        run.info.end_time or 0,
        run.data.tags.get("mlflow.parentRunId", ""),
        run.info.start_time or 0,
        sys.intern(str(run.info.experiment_id)),
    )


def _shared(texts: Mapping[str, str]) -> dict[str, str]:
    """A copy with interned strings, which saves memory: nearly all of them are the same in thousands of runs."""
    return {sys.intern(key): sys.intern(value) for key, value in texts.items()}


def reused_tag(signature: str, number: int | str) -> str:
    """The tag of the study's run that records a trial which needed no training, since its cells were finished."""
    return f"reused.{signature}.{number}"
