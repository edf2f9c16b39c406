"""Which errors may pass and which would come again, and what a run says in its end of all that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayActorError

from tune_lt.config import CellConfig
from tune_lt.documents import Trial
from tune_lt.errors import DamagedImage, InputError, TrainingFailed
from tune_lt.run.failures import Failure, may_pass, of_reference, of_rows, of_search, reason, summary
from tune_lt.run.planner import PlannedCell
from tune_lt.run.trial_on_ray import _Memory, _retried

pytestmark = pytest.mark.long  # it imports Ray


def _raised(cause: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 whichever PyTorch or Python raises
        cause()
    return caught.value


def test_memory_that_is_not_there_may_be_there_the_next_time() -> None:
    too_much = _raised(lambda: torch.empty(2**60, dtype=torch.uint8))
    assert may_pass(too_much)
    assert reason(too_much).startswith("out of memory: RuntimeError: ")
    assert "1152921504606846976" in reason(too_much)
    assert reason(MemoryError()) == "out of memory: MemoryError: "
    assert may_pass(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert may_pass(OutOfMemoryError("Task was killed due to the node running low on memory."))


def test_what_the_machine_did_may_pass_and_what_the_code_did_does_not() -> None:
    died = RayActorError(error_msg="The actor died unexpectedly. actor_id: 4f2e pid: 12")
    assert may_pass(died)
    assert reason(died) == "RayActorError: the worker process died; the system may have killed it for want of memory"
    missing = _raised(lambda: Path("/no/such/file").read_text())
    for error in (missing, ImportError("No module named 'x'"), RuntimeError("CUDA error: uncorrectable ECC error")):
        assert may_pass(error)
    shapes = _raised(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))
    for error in (shapes, _raised(lambda: {}["x"]), _raised(lambda: 1 / 0), ValueError("two\nlines")):
        assert not may_pass(error)
    assert reason(ValueError("two\nlines")) == "ValueError: two lines"


def test_an_error_counts_as_lasting_once_two_attempts_have_ended_with_it(tmp_path: Path) -> None:
    """Each attempt is another process, so the first one leaves its error in a file."""
    state = tmp_path / "cell.pt"

    def attempt(error: Exception) -> str:
        return _retried(error, state, _Memory(tmp_path / "cell.json", several=False))

    for text in ("one", "another", "one"):
        with pytest.raises(ValueError, match=text):
            attempt(ValueError(text))
    assert attempt(ValueError("one")) == "no"
    for _ in range(4):  # a machine's error never does
        with pytest.raises(MemoryError):
            attempt(MemoryError())
    assert attempt(TrainingFailed("the training loss became nan")) == "no"
    assert attempt(DamagedImage("a.jpg: damaged")) == "no"
    assert attempt(InputError("resources.loaders: too many")) == "yes"
    state.touch()
    with pytest.raises(InputError):
        attempt(InputError(f"{state}: not a readable checkpoint"))
    assert not state.exists()


def test_a_second_attempt_has_the_scores_of_the_first_beside_its_error(tmp_path: Path) -> None:
    file = tmp_path / "trial.json"
    _Memory(file, several=True).add("unit", {"val/top1": 0.5})
    assert not _Memory(file, several=True).failed_before("ValueError: one")
    third = _Memory(file, several=True)
    assert third.known("unit") == {"val/top1": 0.5}
    assert third.failed_before("ValueError: one")
    file.write_text('[{"unit":')  # cut short by a crash
    assert _Memory(file, several=True).known("unit") is None


NAN, BOOM = "TrainingFailed: the loss became nan", "ValueError: boom"


def _failed(why: str, *, again: bool = False, name: str = "") -> Trial:
    return Trial({"loss/alpha": 0.5}, "failed", reason=why, again=again, fingerprint=name)


def test_trials_that_diverge_beside_others_are_a_result_and_other_failures_are_not() -> None:
    good = Trial({"loss/alpha": 0.5}, "complete", {"val/top1": 0.5})
    (only,) = of_search("search", [good, _failed(NAN), _failed(NAN)], chosen=True)
    assert only == Failure(f"search: 2 of 3 trials failed: {NAN}", harmless=True)
    (mixed,) = of_search("search", [good, _failed(BOOM), _failed(NAN), _failed(BOOM)], chosen=True)
    assert mixed == Failure(f"search: 3 of 4 trials failed: {BOOM} (2 times); {NAN} (1 times)")
    lasting, passing = of_search("search", [good, _failed(NAN), _failed("killed", again=True)], chosen=True)
    assert (lasting.harmless, lasting.again) == (True, False)
    assert (passing.harmless, passing.again) == (False, True)
    assert of_search("search", [good], chosen=True) == []


def test_a_search_without_a_choice_says_what_became_of_its_trials() -> None:
    stopped = Trial({"loss/alpha": 0.5}, "pruned")
    (failure,) = of_search("search", [_failed(NAN), _failed(NAN), stopped], chosen=False)
    assert not failure.harmless
    text = f"search: no trial is left to choose from (2 failed, 1 pruned): {NAN}; more search.trials may help"
    assert failure.what == text
    (failure,) = of_search("search", [_failed(str(number)) for number in range(5)], chosen=False)
    assert failure.what.endswith("(5 failed): 0 (1 times); 1 (1 times); 2 (1 times); and 2 more")
    assert of_reference("search", [_failed("killed", again=True)]).again


def test_a_row_that_failed_is_named_with_its_cells_and_shared_cells_count_for_each() -> None:
    cells = [PlannedCell(row, CellConfig({}, {}, {}), name) for row in ("a", "b") for name in ("shared", row)]
    failures = of_rows(cells, [_failed(NAN, name="shared"), _failed("killed", again=True, name="b")])
    assert [failure.what for failure in failures] == [
        f"row a: 1 of 2 cells failed: {NAN}",
        f"row b: 1 of 2 cells failed: {NAN}",
        "row b: 1 of 2 cells failed: killed",
    ]
    assert not any(failure.harmless for failure in failures)
    lines = summary(failures)
    assert lines[0] == "failed:"
    assert "is not trained again until" in lines[-2]
    assert "is tried again by the same command" in lines[-1]
    assert summary([]) == []
