"""The journal: what is recorded reaches the store in order and once, whatever dies or is away in between."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow.cli import gc
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from tune_lt.errors import InputError
from tune_lt.store import Store, sqlite
from tune_lt.store import journal as journal_module
from tune_lt.store.journal import Journal

pytestmark = pytest.mark.long


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
    journal.end(
        key, outcome, {"epochs": "3"}, {"per_class.json": {"class_counts": [3, 1]}} if outcome == "complete" else None
    )


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


Calls = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What is asked of MLflow, in order: the method's name and its named arguments."""
    made: Calls = []
    for name in ("create_run", "log_batch", "set_terminated", "update_run", "get_run", "log_dict"):
        real = getattr(MlflowClient, name)

        def noted(self: MlflowClient, *args: Any, _name: str = name, _real: Any = real, **kwargs: Any) -> Any:
            made.append((_name, kwargs))
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(MlflowClient, name, noted)
    return made


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is sent until it is set, so that all of a test's records are in one chunk (of at most CHUNK)."""
    go, real = threading.Event(), Journal._work

    def work(self: Journal) -> None:
        go.wait()
        real(self)

    monkeypatch.setattr(Journal, "_work", work)
    return go


def test_a_short_cell_takes_three_calls(store: Store, tmp_path: Path, held: threading.Event, calls: Calls) -> None:
    journal = _open(store, tmp_path / "j")
    _cell(journal, "f1")
    journal.note({"first": "1"})
    _cell(journal, "f2", "pruned")
    journal.note({"second": "2"})
    calls.clear()
    held.set()
    journal.close()
    assert [name for name, _ in calls] == [
        *("create_run", "log_batch", "set_terminated"),
        *("create_run", "log_batch", "set_terminated"),
        "log_batch",  # both notes
    ]
    assert [len(calls[1][1][what]) for what in ("params", "metrics", "tags")] == [2, 3, 2]
    one, two = sorted(store.cells("s"), key=lambda cell: cell.fingerprint)
    assert _history(store, one.run_id) == _history(store, two.run_id) == CURVE
    assert (one.tags["outcome"], two.tags["outcome"]) == ("complete", "pruned")
    assert store.read_json(one.run_id, "per_class.json") == {"class_counts": [3, 1]}
    parent = store.parent("s")
    assert parent is not None
    assert (parent.data.tags["tune_lt.first"], parent.data.tags["tune_lt.second"]) == ("1", "2")


def test_more_than_one_call_takes(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's limits hold, the tags that say how it ended come last, and so does the training loss of an epoch."""
    monkeypatch.setattr(journal_module, "CHUNK", 10_000)
    sent: list[tuple[list[Any], list[Any], list[Any]]] = []

    def log_batch(self: SqlAlchemyStore, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        sent.append((list(metrics), list(params), list(tags)))
        real(self, run_id, metrics, params, tags)

    real = SqlAlchemyStore.log_batch
    monkeypatch.setattr(SqlAlchemyStore, "log_batch", log_batch)
    journal = _open(store, tmp_path / "j")
    journal.start("f", "name", {f"p{number}": number for number in range(250)}, {"kind": "cell", "fingerprint": "f"})
    names = ["train/loss", *(f"m{number}" for number in range(6))]
    for epoch in range(1, 431):  # 3,010 metrics
        journal.epoch("f", epoch, {"train/loss": float(epoch)} | dict.fromkeys(names[1:], 0.5))
    journal.end("f", "complete", {f"t{number}": "v" for number in range(140)})
    journal.close()
    for metrics, params, tags in sent:
        assert len(metrics) <= 1000
        assert max(len(params), len(tags)) <= 100
        assert len(metrics) + len(params) + len(tags) <= 1000
    order = [metric.key for metrics, _, _ in sent for metric in metrics]
    assert order == [*names[1:], "train/loss"] * 430
    assert [bool(tags) for _, _, tags in sent] == sorted(bool(tags) for _, _, tags in sent)
    record = store.finished_cells()["f"]
    assert len(record.params) == 250
    assert sum(tag.startswith("t") and tag[1:].isdigit() for tag in record.tags) == 140
    assert record.tags["outcome"] == "complete"
    assert _history(store, record.run_id) == [(epoch, float(epoch)) for epoch in range(1, 431)]
    assert len(store.client.get_metric_history(record.run_id, names[-1])) == 430


@pytest.mark.parametrize("calls", [1, 2])
def test_an_epoch_that_was_sent_in_part_is_sent_whole_by_the_next_driver(
    store: Store, tmp_path: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Of many epochs MLflow makes several calls, which may end in the middle of one."""
    monkeypatch.setattr(journal_module, "CHUNK", 10_000)
    names = ["train/loss", *(f"m{number}" for number in range(6))]
    real, made = SqlAlchemyStore.log_batch, []

    def log_batch(self: SqlAlchemyStore, *arguments: Any, **named: Any) -> None:
        made.append(arguments)
        if len(made) > calls:
            raise MlflowException("connection refused")
        real(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        told = threading.Event()
        journal = _open(store, tmp_path / "j", say=lambda text: told.set())
        _start(journal, "f1")
        for epoch in range(1, 401):  # 2,800 metrics
            journal.epoch("f1", epoch, dict.fromkeys(names, float(epoch)))
        patch.setattr(SqlAlchemyStore, "log_batch", log_batch)
        held.set()
        assert told.wait(60)
        with pytest.raises(InputError, match="could not be sent"):
            journal.close(patience=0.1)
    _open(store, tmp_path / "j").close()
    (record,) = store.cells("s")
    for name in names:
        points = store.client.get_metric_history(record.run_id, name)
        assert [point.step for point in points] == list(range(1, 401))


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7])
def test_where_a_chunk_ends_makes_no_difference(
    store: Store, tmp_path: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(journal_module, "CHUNK", chunk)
    journal = _open(store, tmp_path / "j")
    for key in ("f1", "f2"):
        _start(journal, key)
    for epoch in (1, 2, 3):
        for key in ("f1", "f2"):
            journal.epoch(key, epoch, {"train/loss": 1.0 / epoch})
        if epoch == 2:  # its worker died, and it goes on from the state after its first epoch
            _start(journal, "f2")
            journal.epoch("f2", 2, {"train/loss": 0.5})
    journal.end("f1", "complete", {"epochs": "3"}, {"per_class.json": {"class_counts": [3, 1]}})
    journal.end("f2", "failed", {"reason": "no reason"})
    _cell(journal, "f2")
    held.set()
    journal.close()
    finished = store.finished_cells()
    assert sorted(finished) == ["f1", "f2"]
    assert all(_history(store, record.run_id) == CURVE for record in finished.values())
    assert len(store.cells("s")) == 2


def test_an_adopted_run_gets_its_artifact(store: Store, tmp_path: Path) -> None:
    """Its place is not known from making it."""
    journal = _open(store, tmp_path / "first")
    _start(journal, "f1")
    journal.close()
    journal = _open(store, tmp_path / "second", runs=store.cells("s").runs_by_key())
    _cell(journal, "f1")
    journal.close()
    (record,) = store.cells("s")
    assert store.read_json(record.run_id, "per_class.json") == {"class_counts": [3, 1]}


def test_the_lease_is_kept_while_much_is_being_sent(
    store: Store, tmp_path: Path, held: threading.Event, calls: Calls
) -> None:
    journal = _open(store, tmp_path / "j", beat=lambda: calls.append(("beat", {})))
    for key in ("f1", "f2"):
        _cell(journal, key)
    calls.clear()
    held.set()
    journal.close()
    names = [name for name, _ in calls]
    made = [place for place, name in enumerate(names) if name == "create_run"]
    assert "beat" in names[made[0] : made[1]]


def _stops(journal: Journal) -> str:
    """What the journal says once it has ended because the store takes nothing more."""
    journal._thread.join(60)
    with pytest.raises(InputError):
        journal.check()
    with pytest.raises(InputError) as caught:
        journal.close()
    return str(caught.value)


@pytest.mark.parametrize("kind", ["experiment", "own run"])
def test_what_is_recorded_after_a_deletion_is_kept_and_sent_once_that_is_restored(
    store: Store, tmp_path: Path, kind: str
) -> None:
    parent, client = store.ensure_parent("s"), store.client
    journal = Journal(store, "s", parent, tmp_path / "j", beat=lambda: client.raw.set_tag(parent, "beat", "1"))
    _start(journal, "f1")
    journal.epoch("f1", 1, {"train/loss": 1.0})
    journal.drain()
    if kind == "experiment":
        key, command = store.experiment("s"), "mlflow experiments restore --experiment-id"
        client.delete_experiment(key)
    else:
        key, command = parent, "mlflow runs restore --run-id"
        client.delete_run(key)
    for epoch in (2, 3):
        journal.epoch("f1", epoch, {"train/loss": 1.0 / epoch})
    journal.end("f1", "complete", {}, {"per_class.json": {"class_counts": [3, 1]}})
    _cell(journal, "f2")
    said = _stops(journal)
    assert f"MLFLOW_TRACKING_URI={store.uri} {command} {key} restores it; " in said
    if kind == "experiment":
        assert f"8 records are kept in {tmp_path / 'j' / 'journal.jsonl'} and sent" in said
        assert not store.finished_cells()
    (client.restore_experiment if kind == "experiment" else client.restore_run)(key)
    _open(store, tmp_path / "j").close()
    finished = store.finished_cells()
    assert sorted(finished) == ["f1", "f2"]
    assert all(_history(store, record.run_id) == CURVE for record in finished.values())
    assert len(store.cells("s")) == 2


def test_a_run_that_is_deleted_is_named_once_and_costs_no_other_a_record(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    journal = _open(store, tmp_path / "j", say=said.append)
    _start(journal, "f1")
    journal.drain()
    (record,) = store.cells("s")
    store.client.delete_run(record.run_id)
    for epoch in (1, 2, 3):
        journal.epoch("f1", epoch, {"train/loss": 1.0})
        journal.drain()
    journal.end("f1", "complete", {}, {"per_class.json": {}})
    _cell(journal, "f2")
    journal.close()
    (line,) = said
    assert f"the run 'name of f1' ({record.run_id}) of the study 's' was deleted from the store" in line
    assert journal.deleted == {"f1"}
    assert list(store.finished_cells()) == ["f2"]


def test_what_is_recorded_after_a_deletion_for_good_begins_the_study_anew(store: Store, tmp_path: Path) -> None:
    journal, experiment = _open(store, tmp_path / "j"), store.experiment("s")
    _start(journal, "f1")
    journal.drain()
    store.client.delete_experiment(experiment)
    done = CliRunner().invoke(
        gc, ["--tracking-uri", store.uri, "--backend-store-uri", store.uri, "--experiment-ids", experiment]
    )
    assert done.exit_code == 0, done.output
    journal.epoch("f1", 1, {"train/loss": 1.0})
    _cell(journal, "f2")
    assert "the experiment of the study 's' was deleted for good from the store" in _stops(journal)
    said: list[str] = []
    _open(store, tmp_path / "j", say=said.append).close()
    assert list(store.finished_cells()) == ["f2"]
    (line,) = said
    assert "a run of the study 's' is no longer in the store; what is still recorded of it is left out" in line


def test_a_record_that_the_store_refuses_is_kept_with_all_that_follow(store: Store, tmp_path: Path) -> None:
    journal = _open(store, tmp_path / "j")
    _cell(journal, "f1")
    journal.drain()
    journal.start("f2", "name", {"no name?": 1}, {"kind": "cell"})
    _cell(journal, "f3")
    said = _stops(journal)
    assert "refused a record (" in said
    assert "6 records are kept in" in said
    assert "f1" in store.finished_cells()
    kept = (tmp_path / "j" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in kept[5:]] == ["f2", *["f3"] * 5]


def test_a_sending_thread_that_dies_takes_nothing_with_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = store.ensure_parent("s")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_work", lambda self: None)
        journal = Journal(store, "s", parent, tmp_path / "j")
        _cell(journal, "f1")
        with pytest.raises(InputError, match="5 records could not be sent"):
            journal.close()
    journal = Journal(store, "s", parent, tmp_path / "j")
    assert journal.inherited == 5
    journal.close()
    assert list(store.finished_cells()) == ["f1"]


@pytest.mark.parametrize("there", [True, False])
def test_a_mark_beyond_the_journal_hides_no_later_record(store: Store, tmp_path: Path, there: bool) -> None:
    """A power failure took records that were sent, or the file but not the mark; what comes next ends before it."""
    folder = tmp_path / "j"
    folder.mkdir()
    if there:
        (folder / "journal.jsonl").write_bytes(b"")
    (folder / "journal.sent").write_text("100000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_work", lambda self: None)  # killed before it sends
        journal = _open(store, folder)
        _cell(journal, "f1")
        with pytest.raises(InputError):
            journal.close()
    _open(store, folder).close()
    assert list(store.finished_cells()) == ["f1"]


def test_the_store_is_on_disk_before_the_mark_says_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks: list[bool] = []
    journal = _open(store, tmp_path / "j")
    monkeypatch.setattr(sqlite, "sync", lambda engine: marks.append(journal._sent_path.exists()))
    _cell(journal, "f1")
    journal.close()
    assert marks[0] is False


def _dies_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """From the given call on, every write to the store fails as it does when the server is away."""
    counted = {"calls": 0}
    for owner, name in (
        *((MlflowClient, n) for n in ("create_run", "log_batch", "set_terminated", "update_run")),
        (Store, "put_json"),
    ):
        real = getattr(owner, name)

        def failing(self: Any, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            counted["calls"] += 1
            if counted["calls"] > calls:
                raise MlflowException("connection refused")
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize("calls", range(4))  # a cell takes at least four writes
def test_a_driver_that_dies_at_any_write_leaves_all_to_the_next_one(store: Store, tmp_path: Path, calls: int) -> None:
    """Whatever the first of two drivers managed to send, the store ends up the same: one run, one curve, one end."""
    parent = store.ensure_parent("s")
    with pytest.MonkeyPatch.context() as patch:
        _dies_after(patch, calls)
        told = threading.Event()
        journal = Journal(store, "s", parent, tmp_path / "j", say=lambda text: told.set())
        _cell(journal, "f1")
        assert told.wait(60)  # that the store does not answer
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
    told = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        told.set()

    journal = _open(store, tmp_path / "j", say=say)
    journal.drain()
    with pytest.MonkeyPatch.context() as patch:
        _dies_after(patch, 2)
        _cell(journal, "f1")
        _start(journal, "f2")
        assert told.wait(60)
    journal.epoch("f2", 1, {"train/loss": 1.0})
    journal.close()
    assert "does not answer" in said[0]
    assert "answers again" in said[-1]
    assert _history(store, store.finished_cells()["f1"].run_id) == CURVE
    assert len(store.cells("s")) == 2


def test_a_store_that_is_slow_is_not_one_that_is_away(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sending takes longer than the patience in all, but never longer without anything arriving.

    By a clock that moves on when a run is made, and stands still otherwise.
    """
    real, clock = MlflowClient.create_run, [0.0]
    stopped = SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep, time=time.time)
    monkeypatch.setattr(journal_module, "time", stopped)

    def slow(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        clock[0] += 1.5
        return real(self, *args, **kwargs)

    journal = _open(store, tmp_path / "j")
    monkeypatch.setattr(MlflowClient, "create_run", slow)
    monkeypatch.setattr("tune_lt.store.journal.CHUNK", 5)  # one cell
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


def test_a_metric_has_the_time_at_which_it_was_recorded_however_late_it_is_sent(store: Store, tmp_path: Path) -> None:
    """Else what is sent twice would be two points of a curve, and what waited for the store would look instant."""
    (tmp_path / "j").mkdir()
    start = {"op": "start", "key": "f1", "name": "n", "params": {}, "tags": {"kind": "cell"}, "at": 1000}
    epochs = [
        {"op": "epoch", "key": "f1", "epoch": n, "metrics": {"train/loss": 1 / n}, "at": 2000 + n} for n in (1, 2)
    ]
    (tmp_path / "j" / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (start, *epochs)))
    _open(store, tmp_path / "j").close()
    (record,) = store.cells("s")
    points = store.client.get_metric_history(record.run_id, "train/loss")
    assert [(point.step, point.timestamp) for point in points] == [(1, 2001), (2, 2002)]


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


def test_what_is_recorded_after_a_torn_line_survives_another_crash(store: Store, tmp_path: Path) -> None:
    """The torn line is cut off the file too: else the next record would be written onto its end and be lost with it."""
    folder = tmp_path / "j"
    folder.mkdir()
    (folder / "journal.jsonl").write_text('{"op": "sta')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_work", lambda self: None)  # killed before it sends
        journal = _open(store, folder)
        _cell(journal, "f1")
        with pytest.raises(InputError, match="5 records could not be sent"):
            journal.close()
    said: list[str] = []
    _open(store, folder, say=said.append).close()
    assert said == []
    assert list(store.finished_cells()) == ["f1"]


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
