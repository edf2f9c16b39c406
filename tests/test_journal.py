"""The journal: what is recorded reaches the store in order and once, whatever dies or is away in between."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tune_lt.errors import InputError
from tune_lt.journal import Journal
from tune_lt.tracking import Store


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path / 'mlflow.db'}")


def _open(store: Store, folder: Path, study: str = "s", **options: Any) -> Journal:
    return Journal(store, study, store.ensure_parent(study), folder, **options)


def _start(journal: Journal, key: str, row: str = "softmax") -> None:
    tags = {"kind": "cell", "row": row, "fingerprint": key}
    journal.start(key, f"name of {key}", {"loss/name": "softmax", "recipe/clip_norm": None}, tags)


def _cell(journal: Journal, key: str, outcome: str = "complete", row: str = "softmax") -> None:
    _start(journal, key, row)
    for epoch in (1, 2, 3):
        journal.epoch(key, epoch, {"train/loss": 1.0 / epoch})
    journal.end(key, outcome, {"epochs": "3"}, {"class_counts": [3, 1]} if outcome == "complete" else None)


def _history(store: Store, run_id: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.client.get_metric_history(run_id, "train/loss")]


CURVE = [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_a_cell_is_read_back_as_recorded(store: Store, tmp_path: Path) -> None:
    journal = _open(store, tmp_path / "j")
    _cell(journal, "f1")
    journal.close()
    record = store.finished_cells()["f1"]
    assert record.params == {"loss/name": "softmax", "recipe/clip_norm": "None"}
    assert record.metrics == {"train/loss": pytest.approx(1 / 3)}
    assert (record.tags["row"], record.tags["outcome"], record.tags["epochs"]) == ("softmax", "complete", "3")
    assert _history(store, record.run_id) == CURVE
    assert store.read_json(record.run_id, "per_class.json") == {"class_counts": [3, 1]}
    assert store.read_json(record.run_id, "absent.json") is None
    assert list((tmp_path / "j").iterdir()) == []


@pytest.mark.parametrize(
    ("outcome", "status"), [("pruned", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_only_complete_cells_count_as_finished(store: Store, tmp_path: Path, outcome: str, status: str) -> None:
    journal = _open(store, tmp_path / "j")
    _cell(journal, "f1", outcome)
    journal.close()
    assert store.finished_cells() == {}
    (record,) = store.cells("s")
    assert (record.status, record.tags["outcome"]) == (status, outcome)


def test_a_cell_finished_in_another_study_counts_and_of_two_the_first(store: Store, tmp_path: Path) -> None:
    for study in ("one", "two"):
        journal = _open(store, tmp_path / study, study)
        _cell(journal, "same", row=study)
        journal.close()
    assert store.finished_cells()["same"].tags["row"] == "one"
    assert store.studies() == ["two", "one"]


def test_more_metrics_and_parameters_than_one_batch_takes(store: Store, tmp_path: Path) -> None:
    journal = _open(store, tmp_path / "j")
    tags = {"kind": "cell", "fingerprint": "f"}
    journal.start("f", "name", {f"p{number}": number for number in range(230)}, tags)
    for epoch in range(1, 2301):
        journal.epoch("f", epoch, {"train/loss": float(epoch)})
    journal.end("f", "complete", {})
    journal.close()
    record = store.finished_cells()["f"]
    assert len(record.params) == 230
    assert _history(store, record.run_id) == [(epoch, float(epoch)) for epoch in range(1, 2301)]


def _dies_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """From the given call on, every write to the store fails as it does when the server is away."""
    counted = {"calls": 0}
    for name in ("create_run", "log_batch", "set_terminated", "update_run"):
        real = getattr(MlflowClient, name)

        def failing(self: MlflowClient, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            counted["calls"] += 1
            if counted["calls"] > calls:
                raise MlflowException("connection refused")
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(MlflowClient, name, failing)


@pytest.mark.parametrize("calls", range(5))  # a cell takes five writes
def test_a_driver_that_dies_at_any_write_leaves_all_to_the_next_one(store: Store, tmp_path: Path, calls: int) -> None:
    """Whatever the first of two drivers managed to send, the store ends up the same: one run, one curve, one end."""
    parent = store.ensure_parent("s")
    with pytest.MonkeyPatch.context() as patch:
        _dies_after(patch, calls)
        journal = Journal(store, "s", parent, tmp_path / "j", say=lambda text: None)
        _cell(journal, "f1")
        time.sleep(0.3)
        with pytest.raises(InputError, match="could not be sent"):
            journal.close(patience=0.1)
    journal = Journal(store, "s", parent, tmp_path / "j")
    journal.close()
    (record,) = store.cells("s")
    assert (record.status, record.tags["outcome"]) == ("FINISHED", "complete")
    assert _history(store, record.run_id) == CURVE
    assert record.params == {"loss/name": "softmax", "recipe/clip_norm": "None"}


def test_a_store_that_is_away_for_a_while_costs_nothing(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    journal = _open(store, tmp_path / "j", say=said.append)
    journal.drain()
    with pytest.MonkeyPatch.context() as patch:
        _dies_after(patch, 2)
        _cell(journal, "f1")
        _start(journal, "f2")
        time.sleep(1.0)
    journal.epoch("f2", 1, {"train/loss": 1.0})
    journal.close()
    assert "does not answer" in said[0]
    assert "answers again" in said[-1]
    assert _history(store, store.finished_cells()["f1"].run_id) == CURVE
    assert len(store.cells("s")) == 2


def test_a_store_that_is_slow_is_not_one_that_is_away(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sending takes longer than the patience in all, but never longer without anything arriving."""
    real = MlflowClient.create_run

    def slow(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return real(self, *args, **kwargs)

    journal = _open(store, tmp_path / "j")
    monkeypatch.setattr(MlflowClient, "create_run", slow)
    monkeypatch.setattr("tune_lt.journal.CHUNK", 5)  # one cell
    for number in range(8):
        _cell(journal, f"f{number}")
    journal.close(patience=2.0)
    assert len(store.finished_cells()) == 8


def test_epochs_that_a_resumed_trial_repeats_are_sent_once(store: Store, tmp_path: Path) -> None:
    journal = _open(store, tmp_path / "j")
    _start(journal, "f1")
    journal.epoch("f1", 1, {"train/loss": 1.0})
    journal.epoch("f1", 2, {"train/loss": 0.5})
    journal.close()
    assert store.interrupt_running("s") == 1
    assert store.cells("s")[0].status == "KILLED"
    journal = _open(store, tmp_path / "j")
    _cell(journal, "f1")
    journal.close()
    (record,) = store.cells("s")
    assert record.status == "FINISHED"
    assert _history(store, record.run_id) == CURVE


def test_a_line_cut_short_by_a_crash_is_dropped(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "j"
    folder.mkdir()
    note = {"op": "note", "key": "p", "tags": {"hello": "world"}, "at": 0}
    (folder / "journal.jsonl").write_text("\0\0\0\n" + json.dumps(note) + '\n{"op": "sta')
    said: list[str] = []
    journal = _open(store, folder, say=said.append)
    journal.note({"second": "note"})
    journal.close()
    parent = store.parent("s")
    assert parent is not None
    assert parent.data.tags["tune_lt.hello"] == "world"
    assert parent.data.tags["tune_lt.second"] == "note"
    assert said == [f"a damaged record in {folder / 'journal.jsonl'} is left out"]


def test_a_record_the_store_refuses_is_told_and_does_not_hold_up_the_others(store: Store, tmp_path: Path) -> None:
    journal = _open(store, tmp_path / "j")
    journal.start("bad", "name", {"a name that MLflow refuses!": 1}, {"kind": "cell", "fingerprint": "bad"})
    _cell(journal, "good")
    with pytest.raises(InputError, match="refused a record"):
        journal.close()
    assert list(store.finished_cells()) == ["good"]


def test_a_full_disk_is_an_error_at_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = _open(store, tmp_path / "j")

    class Full:
        def write(self, line: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    real, journal._file = journal._file, Full()  # type: ignore[assignment]
    with pytest.raises(InputError, match="No space left on device; run the study again once there is room"):
        _start(journal, "f1")
    journal._file = real
    journal.close()


def test_two_threads_may_record_at_once(store: Store, tmp_path: Path) -> None:
    journal = _open(store, tmp_path / "j")
    keys = [f"f{number}" for number in range(8)]
    threads = [threading.Thread(target=_cell, args=(journal, key)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    finished = store.finished_cells()
    assert sorted(finished) == keys
    assert all(_history(store, record.run_id) == CURVE for record in finished.values())
