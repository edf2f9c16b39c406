"""The store: what is written is what is read back, in order, off the caller's thread, with its errors told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tune_lt.errors import InputError
from tune_lt.tracking import Store, exists, store_uri


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
    store.ensure_parent("s")
    store.client.delete_experiment(store.experiment("s"))
    with pytest.raises(InputError, match="'s' was deleted"):
        store.ensure_parent("s")
