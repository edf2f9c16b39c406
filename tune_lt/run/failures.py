"""What failed of a study, whether it would fail again, and how that is said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from ray.exceptions import RayActorError, RayError

from tune_lt.documents import Trial
from tune_lt.errors import TrainingFailed
from tune_lt.texts import some

if TYPE_CHECKING:
    from tune_lt.run.planner import PlannedCell  # brings MLflow, which a trial's process does without

REASON_CHARACTERS = 400
MOST_REASONS = 3
OUT_OF_MEMORY = "out of memory: "
# errors of the machine, not of what is trained; PyTorch raises most of them as plain RuntimeErrors
_MACHINE = (RayError, MemoryError, OSError, ImportError, torch.OutOfMemoryError)
_MEMORY = re.compile(r"out of memory|(?:can't|cannot|unable to) allocate memory", re.IGNORECASE)
_DEVICE = re.compile(r"CUDA|CUDNN|CUBLAS|MPS backend|NCCL|gloo|connection|timed out|DataLoader worker", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """What failed in one part of a study: ``what``, in words.

    ``again``: the next run of the study tries it again. ``harmless``: the study has all its results without it.
    """

    what: str
    again: bool = False
    harmless: bool = False


def may_pass(error: Exception) -> bool:
    """Whether the cause of an error lies with the machine, so that another attempt may succeed."""
    told = isinstance(error, RuntimeError) and any(kind.search(str(error)) for kind in (_MEMORY, _DEVICE))
    return isinstance(error, _MACHINE) or told


def reason(error: BaseException) -> str:
    """The error in one line: its class and its text."""
    text = " ".join(str(error).split())
    if isinstance(error, RayActorError) and not text.startswith(OUT_OF_MEMORY):  # Ray writes a page of ids and guesses
        text = "the worker process died; the system may have killed it for want of memory"
    memory = isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(text))
    return (OUT_OF_MEMORY if memory else "") + f"{type(error).__name__}: {text}"[:REASON_CHARACTERS]


def of_search(label: str, ended: Sequence[Trial], chosen: bool) -> list[Failure]:
    """The failed trials of a search that has ended. ``chosen``: whether it found a trial to choose."""
    if not chosen:
        counts = Counter(trial.outcome for trial in ended)
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        more = "; more search.trials may help" if counts["pruned"] else ""
        text = f"{label}: no trial is left to choose from ({outcomes}): {_reasons(ended)}{more}"
        return [Failure(text, any(trial.again for trial in ended))]
    found = []
    for again in (False, True):
        failed = [trial for trial in ended if trial.outcome == "failed" and trial.again == again]
        if failed:
            # a setting with which the loss diverges is a result of the search, like any bad one
            harmless = all(trial.reason.startswith(TrainingFailed.__name__) for trial in failed)
            text = f"{label}: {len(failed)} of {len(ended)} trials failed: {_reasons(failed)}"
            found.append(Failure(text, again, harmless))
    return found


def of_reference(label: str, failed: Sequence[Trial]) -> Failure:
    """A search that cannot be run, because cells of the reference of its constraints failed."""
    text = f"{label}: not run, since the reference of its constraints failed: {_reasons(failed)}"
    return Failure(text, any(trial.again for trial in failed))


def of_rows(cells: Sequence[PlannedCell], ended: Sequence[Trial]) -> list[Failure]:
    """The rows some of whose cells are among the trials ``ended``, which failed."""
    failed = {trial.fingerprint: trial for trial in ended}
    found = []
    for row in dict.fromkeys(cell.row for cell in cells):
        own = [cell.fingerprint for cell in cells if cell.row == row]
        ends = [failed[name] for name in own if name in failed]
        for again in (False, True):
            some_ends = [end for end in ends if end.again == again]
            if some_ends:
                text = f"row {row}: {len(some_ends)} of {len(own)} cells failed: {_reasons(some_ends)}"
                found.append(Failure(text, again))
    return found


def _reasons(ended: Sequence[Trial]) -> str:
    """The different reasons of failed trials in one text, the most frequent first."""
    counts = Counter(trial.reason for trial in ended if trial.reason).most_common()
    texts = [f"{text} ({count} times)" if len(counts) > 1 else text for text, count in counts]
    return some(texts, MOST_REASONS, separator="; ") or "none ran to its end"


def summary(failures: Sequence[Failure]) -> list[str]:
    """Lines about all that failed, and how it can be tried again; none where nothing failed."""
    lines = [f"  {failure.what}" for failure in failures]
    if any(not failure.again for failure in failures):
        lines.append(
            "  What failed by its settings, images or code fails again: it is not trained again until one of these "
            "changes, or its run is deleted in MLflow."
        )
    if any(failure.again for failure in failures):
        lines.append("  What may have been the machine's fault is tried again by the same command.")
    return ["failed:", *lines] if failures else []
