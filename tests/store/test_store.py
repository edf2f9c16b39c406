"""The store: what is written is what is read back, in order, off the caller's thread, with its errors told."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, RESOURCE_DOES_NOT_EXIST
from mlflow.tracking import MlflowClient

from tune_lt.errors import InputError
from tune_lt.store import DAMAGED, DUPLICATE, Store, refused, sqlite, store_uri

pytestmark = pytest.mark.long


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_study_has_one_parent_run_however_often_it_is_opened(store: Store) -> None:
    first = store.ensure_parent("s")
    store.begin(first, "old", {})
    store.finish(first)
    second = store.ensure_parent("s")
    store.begin(second, "new", {"tune_lt.git": "later"})
    assert first == second
    parent = store.parent("s")
    assert parent is not None
    assert parent.info.status == "RUNNING"
    assert parent.data.tags["tune_lt.git"] == "later"
    text = Path(store.client.download_artifacts(parent.info.run_id, "study.yaml")).read_text()
    assert text == "new"


def test_artifacts_lie_beside_the_sqlite_file(store: Store, tmp_path: Path) -> None:
    store.begin(store.ensure_parent("s"), "text", {})
    assert list((tmp_path / "mlartifacts" / "s").rglob("study.yaml"))


def test_a_store_that_cannot_be_used_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder .* does not exist"):
        Store(f"sqlite:///{tmp_path / 'nowhere' / 'mlflow.db'}")


def test_a_password_in_the_uri_is_not_printed() -> None:
    with pytest.raises(InputError) as caught:
        Store("nonsense://user:secret@host/db")
    assert "secret" not in str(caught.value)
    assert "user:***@host" in str(caught.value)


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The option before the environment, that before the working directory."""
    monkeypatch.chdir(tmp_path)
    assert store_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert store_uri() == "http://somewhere:5000"
    assert store_uri("sqlite:////x.db") == "sqlite:////x.db"


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(store: Store) -> None:
    store.ensure_parent("s")
    experiment = store.experiment("s")
    store.client.delete_experiment(experiment)
    restore = f"MLFLOW_TRACKING_URI={store.uri} mlflow experiments restore --experiment-id {experiment} restores it"
    with pytest.raises(InputError, match=f"'s' was deleted from the store .*; {restore}"):
        store.ensure_parent("s")


@pytest.mark.parametrize("tagged", [True, False])
def test_a_renamed_experiment_is_its_studys_still(store: Store, tagged: bool) -> None:
    """Older versions put no tag on it: there the study's own run tells."""
    parent, experiment = store.ensure_parent("s"), store.experiment("s")
    store.client.rename_experiment(experiment, "t")
    if not tagged:
        store.client.raw._tracking_client.store.delete_experiment_tag(experiment, "tune_lt.study")
    assert store.studies() == ["s"]
    assert store.ensure_parent("s") == parent
    assert store.experiment("s") == experiment
    run = store.client.create_run(experiment, tags={"tune_lt.kind": "cell"}).info.run_id
    assert [cell.run_id for cell in store.cells("s")] == [run]
    store.show("s", [], "val/balanced")
    with pytest.raises(InputError, match="the experiment 't' is that of another study, 's'; valid: another name"):
        store.ensure_parent("t")
    store.client.create_experiment("s")  # by somebody else
    assert store.experiment("s") == experiment
    store.client.delete_experiment(experiment)
    with pytest.raises(InputError, match="'s' was deleted from the store"):
        store.ensure_parent("s")


@pytest.mark.parametrize(
    ("patience", "after"), [(0.0, ""), (0.01, "; once it can, the same command goes on, and noth")]
)
def test_a_store_that_goes_away_is_one_message(
    store: Store, monkeypatch: pytest.MonkeyPatch, patience: float, after: str
) -> None:
    parent, calls = store.ensure_parent("s"), []
    store.client.patience = patience

    def away(self: MlflowClient, *arguments: Any, **named: Any) -> None:
        calls.append(arguments)
        raise MlflowException("connection refused by postgresql://ada:secret@db/mlflow\nand more")

    monkeypatch.setattr(MlflowClient, "log_dict", away)
    with pytest.raises(InputError) as caught:
        store.log_json(parent, "cells.json", {})
    assert str(caught.value).startswith(f"tracking store {store.uri} cannot be used: connection refused by ")
    assert after in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "more" not in str(caught.value)
    assert len(calls) == (2 if patience else 1)


def test_a_proxys_404_is_a_server_that_is_away() -> None:
    assert not refused(MlflowException("default backend - 404", ENDPOINT_NOT_FOUND))
    assert refused(MlflowException("no such run", RESOURCE_DOES_NOT_EXIST))


def _cell(store: Store, study: str, key: str, status: str = "FINISHED", end: int = 1000, **tags: str) -> str:
    texts = {
        "kind": "cell",
        "row": "softmax",
        "fingerprint": key.split(".")[0],
        "key": key,
        "outcome": "complete",
    } | tags
    named = {f"tune_lt.{tag}": value for tag, value in texts.items()}
    run_id = str(store.client.create_run(store.experiment(study), start_time=end - 500, tags=named).info.run_id)
    if status != "RUNNING":
        store.client.set_terminated(run_id, status, end_time=end)
    return run_id


def _filled(store: Store) -> None:
    """Two studies with every kind of cell, and a third that was deleted."""
    store.ensure_parent("s")
    _cell(store, "s", "a", end=3000)
    _cell(store, "other", "a", end=2000)
    _cell(store, "other", "b", end=4000)
    _cell(store, "other", "c", outcome="pruned")
    _cell(store, "gone", "d")
    store.client.delete_experiment(store.experiment("gone"))
    trial: dict[str, Any] = {"row": "search", "search": "sig"}
    _cell(store, "s", "t0.sig", end=1100, trial="0", **trial)
    _cell(store, "s", "t1.sig", end=1200, trial="1", outcome="pruned", **trial)
    _cell(store, "s", "t2.sig", "FAILED", end=1300, trial="2", outcome="failed", retry="no", reason="nan", **trial)
    _cell(store, "s", "t3.sig", "RUNNING", end=1400, trial="3", outcome="running", **trial)
    _cell(store, "s", "t0.old", end=1500, trial="0", row="search", search="old")
    _cell(store, "s", "t4.sig", end=1600, trial="4", **trial | {"outcome": DAMAGED})
    _cell(store, "s", "t4.sig", end=1700, trial="4", **trial)
    _cell(store, "s", "t5.sig", end=1800, trial="5", **trial | {"outcome": DUPLICATE})


@pytest.mark.parametrize("study", ["s", "other", "new"])
def test_a_snapshot_says_what_the_store_says_and_reads_each_run_once(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _filled(store)
    read: list[str] = []
    real = MlflowClient.search_runs

    def search_runs(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        page = real(self, *args, **kwargs)
        read.extend(run.info.run_id for run in page if run.data.tags["tune_lt.kind"] != "study")
        return page

    monkeypatch.setattr(MlflowClient, "search_runs", search_runs)
    finished, cells = store.snapshot(study)
    assert len(read) == len(set(read))
    assert finished == store.finished_cells()
    assert sorted(finished) == ["a", "b", "t0", "t4"]
    assert finished["a"].ended == 2000
    assert cells == store.cells(study)
    if study == "s":
        assert cells.failing() == {"t2": "nan"}
        assert [cell.tags["trial"] for cell in cells.trials("sig")] == ["0", "1", "2", "3", "4"]


def test_of_two_runs_of_a_cell_the_one_that_finished_first_counts(store: Store) -> None:
    """Not the one that began first: it may have ended long after others had used the result of the other."""
    late, early = (store.client.create_run(store.experiment("s"), start_time=at).info.run_id for at in (100, 200))
    for run_id, end in ((late, 900), (early, 800)):
        tags = {"kind": "cell", "fingerprint": "f", "outcome": "complete"}
        store.tag(run_id, {f"tune_lt.{tag}": text for tag, text in tags.items()})
        store.client.set_terminated(run_id, "FINISHED", end_time=end)
    assert store.finished_cells()["f"].run_id == store.snapshot("s")[0]["f"].run_id == early


def test_a_store_is_read_page_by_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _filled(store)
    whole = store.snapshot("s")
    monkeypatch.setattr("tune_lt.store.store.PAGE", 2)
    assert store.snapshot("s") == whole
    assert len(whole[1]) == 9


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_garbage_collector_is_as_it_was_after_reading(
    store: Store, enabled: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ensure_parent("s")
    during: list[bool] = []
    real = MlflowClient.search_runs

    def search_runs(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        during.append(gc.isenabled())
        if fails:
            raise ValueError("no")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "search_runs", search_runs)
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        if fails:
            with pytest.raises(ValueError, match="no"):
                store.cells("s")
        else:
            store.cells("s")
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert during == [False]


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
server:/export /home nfs4 rw,vers=4.2 0 0
//server/share /mnt/with\\040space cifs rw 0 0
/dev/sdb1 /home/local xfs rw 0 0
host /media fuse.sshfs rw 0 0
share /media 9p rw 0 0
/dev/sdc1 /media/disk btrfs rw 0 0
tmpfs /tmp tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("file", "local"),
    [
        ("/data/mlflow.db", True),
        ("/home/me/mlflow.db", False),
        ("/home/local/mlflow.db", True),
        ("/home/locality/mlflow.db", False),
        ("/mnt/with space/mlflow.db", False),
        ("/mnt/mlflow.db", True),
        ("/media/mlflow.db", False),
        ("/media/disk/mlflow.db", True),
        ("/tmp/mlflow.db", True),
    ],
)
def test_which_files_are_on_a_disk_of_this_machine(tmp_path: Path, file: str, local: bool) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert sqlite.on_local_disk(Path(file), mounts) == local
    assert not sqlite.on_local_disk(Path(file), tmp_path / "absent")  # not Linux: it cannot be told


def _modes(store: Store) -> tuple[str, int]:
    """Journal mode and level of syncing, as MLflow's own connections have them."""
    engine = store.engine
    assert engine is not None
    with engine.connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        return str(mode), int(connection.exec_driver_sql("PRAGMA synchronous").scalar() or 0)


FULL, NORMAL = 2, 1


def test_a_log_ahead_of_the_file_for_as_long_as_much_is_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "on_local_disk", lambda file: True)
    assert _modes(store) == ("delete", FULL)
    sqlite.sync(store.engine)  # there is nothing to do
    assert sqlite.write_ahead(store.engine)
    assert _modes(store) == ("wal", NORMAL)
    assert sqlite.write_ahead(store.engine)
    parent = store.ensure_parent("s")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    sqlite.sync(store.engine)
    assert len(synced) == 1
    sqlite.write_through(store.engine)
    assert _modes(store) == ("delete", FULL)
    assert store.ensure_parent("s") == parent
    assert store.folder is not None
    assert [file.name for file in store.folder.glob("mlflow.db*")] == ["mlflow.db"]


def test_no_such_log_where_the_disk_may_be_another_machines(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "on_local_disk", lambda file: False)
    assert not sqlite.write_ahead(store.engine)
    assert _modes(store) == ("delete", FULL)


def test_while_another_reads_the_file_the_log_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "on_local_disk", lambda file: True)
    assert sqlite.write_ahead(store.engine)
    parent = store.ensure_parent("s")
    assert store.folder is not None
    other = sqlite3.connect(store.folder / "mlflow.db")
    other.execute("SELECT count(*) FROM runs").fetchone()
    sqlite.write_through(store.engine)
    assert _modes(store) == ("wal", NORMAL)
    other.close()
    sqlite.write_through(store.engine)
    assert _modes(store) == ("delete", FULL)
    assert store.ensure_parent("s") == parent


def test_what_a_killed_driver_committed_is_there(store: Store) -> None:
    code = f"""
import os
from tune_lt.store import Store, sqlite
sqlite.on_local_disk = lambda file: True
store = Store({store.uri!r})
assert sqlite.write_ahead(store.engine)
store.ensure_parent("s")
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert store.parent("s") is not None
    sqlite.write_through(store.engine)
    assert store.parent("s") is not None


def test_a_server_decides_itself_how_it_writes(store: Store) -> None:
    elsewhere = object.__new__(Store)
    elsewhere.folder, elsewhere.client = None, store.client
    assert not sqlite.write_ahead(elsewhere.engine)
    sqlite.sync(elsewhere.engine)
    sqlite.write_through(elsewhere.engine)
    assert _modes(store) == ("delete", FULL)


def test_artifacts_go_where_the_server_keeps_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the server for its own URIs, as MLflow's client does it."""
    sent: list[tuple[str, str]] = []

    def log_artifact(self: Any, local_file: str, artifact_path: str | None = None) -> None:
        sent.append((self.artifact_uri, Path(local_file).read_text()))

    monkeypatch.setattr("mlflow.store.artifact.http_artifact_repo.HttpArtifactRepository.log_artifact", log_artifact)
    store.uri = "http://localhost:5000"
    store.put_json("mlflow-artifacts:/1/run/artifacts", "per_class.json", {"a": [1]})
    ((place, text),) = sent
    assert place == "http://localhost:5000/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts"
    assert json.loads(text) == {"a": [1]}
