"""Runs as they are read back, and what follows from them: which cells are done, hopeless, to be carried on with."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlflow.entities import Run

TAG = "tune_lt."
DAMAGED, DUPLICATE = "damaged", "duplicate"  # outcomes that `tune-lt doctor --fix` gives: such runs count no longer


@dataclass(frozen=True)
class CellRecord:
    """A cell as the store has it. Scores are fractions; ``params`` and ``tags`` (no prefix) are MLflow's strings.

    ``started`` and ``ended`` are in milliseconds since 1970, ``ended`` is 0 while it runs; ``parent`` is the id of the
    run it hangs on, or ""; ``experiment`` is the id of the one it was recorded in.
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
    """The cells among complete runs, by fingerprint; of two, the one finished first."""
    cells: dict[str, CellRecord] = {}
    for record in sorted(complete, key=lambda record: record.ended):
        if record.tags.get("kind") == "cell":
            cells.setdefault(record.fingerprint, record)
    return cells


class Cells(tuple[CellRecord, ...]):
    """Every run of a study but its own, finished or not, the oldest first; those of trials with several cells too."""

    __slots__ = ()

    def hopeless(self) -> dict[str, str]:
        """Fingerprint -> reason of the cells that failed and would only fail again."""
        failed = (c for c in self if c.tags.get("outcome") == "failed" and c.tags.get("retry") == "no")
        return {cell.fingerprint: cell.tags.get("reason", "") for cell in failed}

    def trials(self, search: str | None = None) -> list[CellRecord]:
        """The trials (of the search with this signature, if given), whatever became of them.

        Duplicates are left out, and damaged ones that have been trained again since.
        """
        every = (c for c in self if c.tags.get("row") == "search" and search in (None, c.tags.get("search")))
        records = [record for record in every if record.tags.get("outcome") != DUPLICATE]
        whole = {record.tags.get("key") for record in records if record.tags.get("outcome") != DAMAGED}
        return [r for r in records if r.tags.get("outcome") != DAMAGED or r.tags.get("key") not in whole]

    def runs_by_key(self) -> dict[str, str]:
        """Key of a cell -> id of its run; of two, the older. None that is damaged or a duplicate."""
        keys: dict[str, str] = {}
        for record in self:
            if record.tags.get("outcome") not in (DAMAGED, DUPLICATE):
                keys.setdefault(record.tags.get("key", record.run_id), record.run_id)
        return keys


def own_tags(run: Run) -> dict[str, str]:
    """The tags of a run that are ours, without their prefix."""
    return {key.removeprefix(TAG): value for key, value in run.data.tags.items() if key.startswith(TAG)}


def record_of(run: Run) -> CellRecord:
    """A cell's run as the rest of the package sees it."""
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
    """A copy that shares its texts with other records': nearly all of them are the same in thousands of runs."""
    return {sys.intern(key): sys.intern(value) for key, value in texts.items()}


def reused_tag(signature: str, number: int | str) -> str:
    """The tag of the study's run that remembers a trial which needed no training: its cells were known already."""
    return f"reused.{signature}.{number}"
