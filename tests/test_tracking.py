"""The store: what is written is what is read back, in order, off the caller's thread, with its errors told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tune_lt.errors import InputError
from tune_lt.tracking import Store, Writer, exists, store_uri


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path / 'mlflow.db'}")


def _cell(writer: Writer, key: str, fingerprint: str, outcome: str = "complete", row: str = "softmax") -> None:
    tags = {"kind": "cell", "row": row, "fingerprint": fingerprint}
    writer.start(key, f"name of {key}", {"loss/name": "softmax", "recipe/clip_norm": None}, tags)
    for epoch in (1, 2, 3):
        writer.epochs(key, [(epoch, {"train/loss": 1.0 / epoch})])
    writer.end(key, outcome, artifact={"class_counts": [3, 1]} if outcome == "complete" else None)


def test_a_cell_is_read_back_as_written(store: Store) -> None:
    parent = store.open_parent("s", "name: s\n", {"tune_lt.git": "abc"})
    writer = Writer(store, "s", parent.info.run_id)
    _cell(writer, "a", "f1")
    writer.close()
    record = store.finished_cells()["f1"]
    assert record.params == {"loss/name": "softmax", "recipe/clip_norm": "None"}
    assert record.metrics == {"train/loss": pytest.approx(1 / 3)}
    assert record.tags["row"] == "softmax"
    history = store.client.get_metric_history(record.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert store.read_json(record.run_id, "per_class.json") == {"class_counts": [3, 1]}
    assert store.read_json(record.run_id, "absent.json") is None


@pytest.mark.parametrize(
    ("outcome", "status"), [("pruned", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_only_complete_cells_count_as_finished(store: Store, outcome: str, status: str) -> None:
    parent = store.open_parent("s", "", {})
    writer = Writer(store, "s", parent.info.run_id)
    _cell(writer, "a", "f1", outcome)
    writer.close()
    assert store.finished_cells() == {}
    runs = store.client.search_runs([store.experiment("s")], "tags.`tune_lt.kind` = 'cell'")
    assert [run.info.status for run in runs] == [status]
    assert runs[0].data.tags["tune_lt.outcome"] == outcome


def test_a_cell_finished_in_another_study_counts_and_of_two_the_first(store: Store) -> None:
    for study in ("one", "two"):
        parent = store.open_parent(study, "", {})
        writer = Writer(store, study, parent.info.run_id)
        _cell(writer, "a", "same", row=study)
        writer.close()
    assert store.finished_cells()["same"].tags["row"] == "one"
    assert store.studies() == ["two", "one"]


def test_a_study_has_one_parent_run_however_often_it_is_opened(store: Store) -> None:
    first = store.open_parent("s", "old", {})
    store.finish(first.info.run_id)
    second = store.open_parent("s", "new", {"tune_lt.git": "later"})
    assert first.info.run_id == second.info.run_id
    parent = store.parent("s")
    assert parent is not None
    assert parent.info.status == "RUNNING"
    assert parent.data.tags["tune_lt.git"] == "later"
    text = Path(store.client.download_artifacts(parent.info.run_id, "study.yaml")).read_text()
    assert text == "new"


def test_artifacts_lie_beside_the_sqlite_file(store: Store, tmp_path: Path) -> None:
    store.open_parent("s", "text", {})
    assert list((tmp_path / "mlartifacts" / "s").rglob("study.yaml"))


def test_the_writer_returns_at_once_and_tells_its_first_error_at_the_end(store: Store) -> None:
    parent = store.open_parent("s", "", {})
    writer = Writer(store, "s", parent.info.run_id)
    writer.start("a", "name", {"a name that MLflow refuses!": 1}, {})
    writer.epochs("a", [(1, {"train/loss": 1.0})])
    with pytest.raises(InputError, match=r"writing failed"):
        writer.close()


def test_more_metrics_and_parameters_than_one_batch_takes(store: Store) -> None:
    parent = store.open_parent("s", "", {})
    writer = Writer(store, "s", parent.info.run_id)
    writer.start("a", "name", {f"p{number}": number for number in range(230)}, {"kind": "cell", "fingerprint": "f"})
    writer.epochs("a", [(epoch, {"train/loss": float(epoch)}) for epoch in range(2300)])
    writer.end("a", "complete")
    writer.close()
    record = store.finished_cells()["f"]
    assert len(record.params) == 230
    assert len(store.client.get_metric_history(record.run_id, "train/loss")) == 2300


def test_a_store_that_cannot_be_used_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder .* does not exist"):
        Store(f"sqlite:///{tmp_path / 'nowhere' / 'mlflow.db'}")
    (tmp_path / "not.db").write_text("this is no database, whatever its name says")
    with pytest.raises(InputError, match="cannot be used"):
        Store(f"sqlite:///{tmp_path / 'not.db'}")
    with pytest.raises(InputError, match="cannot be used"):
        Store("nonsense://somewhere")


def test_a_password_in_the_uri_is_not_printed() -> None:
    with pytest.raises(InputError) as caught:
        Store("nonsense://user:secret@host/db")
    assert "secret" not in str(caught.value)
    assert "user:***@host" in str(caught.value)


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The option before the environment, that before the working directory."""
    monkeypatch.chdir(tmp_path)
    assert store_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert not exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert store_uri() == "http://somewhere:5000"
    assert store_uri("sqlite:////x.db") == "sqlite:////x.db"


def test_a_deleted_experiment_is_named(store: Store) -> None:
    store.open_parent("s", "", {})
    store.client.delete_experiment(store.experiment("s"))
    with pytest.raises(InputError, match="'s' was deleted"):
        store.open_parent("s", "", {})
