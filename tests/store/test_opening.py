"""Opening a store: looking changes nothing, what is no store is left alone, a copy does not write to its original."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config, _upgrade_db
from mlflow.store.tracking.dbmodels.initial_models import Base
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from sqlalchemy import create_engine

from tune_lt.errors import InputError
from tune_lt.store import NoStore, Store, store_uri
from tune_lt.store.repair import examine_study, fix

pytestmark = pytest.mark.long
Call = Callable[..., tuple[int, str, str]]


def _uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def _all(folder: Path) -> dict[str, bytes]:
    """Every file and folder below a folder, with its content."""
    return {str(one.relative_to(folder)): one.read_bytes() if one.is_file() else b"" for one in folder.rglob("*")}


def _run(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """A folder with a store that has the study s with one artifact, a checkpoint, and a model; its name is odd."""
    made = tmp_path / "C# 100%25 é"
    made.mkdir()
    shutil.copy(empty_store, made / "mlflow.db")
    store = Store(store_uri(f"sqlite:///{str(made).replace('%', '%25')}/mlflow.db"))
    assert store.folder == made
    parent = store.ensure_parent("s")
    checkpoints = store.state_folder("s") / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "a.pt").write_text("state")
    store.begin(parent, "text", {"tune_lt.checkpoints": str(checkpoints)})
    store.finish(parent)
    store.client.create_registered_model("s")
    artifacts = store.client.get_run(parent).info.artifact_uri
    store.client.create_model_version("s", f"{artifacts}/model", parent)
    engine = store.engine
    assert engine is not None
    engine.dispose()
    assert sorted(one.name for one in made.iterdir()) == [".tune_lt", "mlartifacts", "mlflow.db"]
    assert [one.name for one in tmp_path.iterdir()] == [made.name]  # MLflow made no folder with the name escaped
    return made


def _store(folder: Path, *, write: bool = True) -> Store:
    _artifact_repos_cache.clear()  # by run, and a copy has the same runs
    return Store(f"sqlite:///{str(folder).replace('%', '%25')}/mlflow.db", write=write)


def _killed(folder: Path, tmp_path: Path) -> Path:
    """As a driver leaves it that is killed: the last change is in the log alone."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("UPDATE experiments SET name = 'renamed' WHERE name = 's'")
        connection.commit()
        return Path(shutil.copytree(folder, tmp_path / "killed"))


def _without_index(folder: Path, tmp_path: Path) -> Path:
    (_killed(folder, tmp_path) / "mlflow.db-shm").unlink()
    return tmp_path / "killed"


def _log_written(folder: Path, tmp_path: Path) -> Path:
    """The log is in the file, which stays in the mode for it."""
    _run(_killed(folder, tmp_path) / "mlflow.db", "PRAGMA wal_checkpoint")
    assert not list((tmp_path / "killed").glob("mlflow.db-*"))
    return tmp_path / "killed"


def _half_written(folder: Path, tmp_path: Path) -> Path:
    """Killed within a transaction: the file has a part of it, and the journal what is to be put back."""
    _run(folder / "mlflow.db", "UPDATE experiments SET name = 'renamed' WHERE name = 's'")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA cache_size=1")
        connection.execute("UPDATE experiments SET name = 'undone' WHERE name = 'renamed'")
        tags = ((f"{number}", "x" * 1000, "0") for number in range(1000))
        connection.executemany("INSERT INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)", tags)
        return Path(shutil.copytree(folder, tmp_path / "killed"))


@pytest.mark.parametrize("state", [_killed, _without_index, _log_written, _half_written])
def test_what_a_process_that_died_left_is_read_whole_and_stays(
    folder: Path, tmp_path: Path, state: Callable[[Path, Path], Path]
) -> None:
    place = state(folder, tmp_path)
    (place / "mlartifacts").rename(tmp_path / "away")
    shutil.rmtree(folder)
    folder.symlink_to(place)  # what it names lies beside it, so that it is no copy
    (tmp_path / "away").rename(place / "mlartifacts")
    before = _all(place)
    store = _store(place, write=False)
    assert store.note == ""
    assert store.client.get_experiment_by_name("renamed").experiment_id == "1"
    assert _all(place) == before


@contextmanager
def _nobody() -> Iterator[None]:
    """Whoever runs the tests, root too, may only do what the files' rights say."""
    root = os.geteuid() == 0
    try:
        os.seteuid(65534 if root else os.geteuid())
        yield
    finally:
        os.seteuid(0 if root else os.geteuid())


def test_a_folder_and_a_file_that_are_read_only_can_be_looked_at(empty_store: Path) -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        shutil.copy(empty_store, folder / "mlflow.db")
        (folder / "mlflow.db").chmod(0o444)
        folder.chmod(0o555)
        with _nobody():
            assert Store(_uri(folder), write=False).studies() == []
            with pytest.raises(InputError, match="attempt to write a readonly database"):
                Store(_uri(folder)).ensure_parent("s")
        assert [one.name for one in folder.iterdir()] == ["mlflow.db"]
        (folder / "mlflow.db").chmod(0)
        with _nobody(), pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
            Store(_uri(folder), write=False)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def _head() -> str:
    return str(ScriptDirectory.from_config(_get_alembic_config("")).get_current_head())


def _optuna(file: Path) -> None:
    _run(file, "CREATE TABLE studies (name)", "CREATE TABLE alembic_version (version_num)")
    _run(file, "INSERT INTO alembic_version VALUES ('v3.2.0.a')")


def _older(file: Path) -> None:
    """As the first MLflow with migrations made it: with few of today's tables."""
    engine, config = create_engine(f"sqlite:///{file}"), _get_alembic_config(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    with engine.begin() as config.attributes["connection"]:
        command.upgrade(config, ScriptDirectory.from_config(config).get_base())
    engine.dispose()


def _text(file: Path) -> None:
    file.write_text("images: 3\n" * 100)


WRONG = {"another program": _optuna, "no SQLite file": _text, "an older MLflow made it": _older}


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_store_is_told_apart_and_left_as_it_is(message: str, write: bool, tmp_path: Path) -> None:
    WRONG[message](tmp_path / "mlflow.db")
    before = _all(tmp_path)
    with pytest.raises(InputError, match=message):
        Store(_uri(tmp_path), write=write)
    assert _all(tmp_path) == before


@pytest.mark.parametrize("write", [False, True])
def test_the_schema_of_a_newer_mlflow_is_left_alone(write: bool, tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    _run(tmp_path / "mlflow.db", "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    before = _all(tmp_path)
    with pytest.raises(InputError, match=f"ffffffffffff, MLflow .* needs {_head()}; a newer MLflow made it"):
        Store(_uri(tmp_path), write=write)
    assert _all(tmp_path) == before


def test_an_older_store_is_one_of_ours_after_what_the_message_says(tmp_path: Path) -> None:
    _older(tmp_path / "mlflow.db")
    with pytest.raises(InputError, match=f"mlflow db upgrade {_uri(tmp_path)}"):
        Store(_uri(tmp_path))
    _upgrade_db(create_engine(_uri(tmp_path)))  # what that command calls
    assert Store(_uri(tmp_path), write=False).studies() == []


def test_no_store_yet_is_only_created_by_who_writes(tmp_path: Path) -> None:
    with pytest.raises(NoStore, match="no store there yet; tune-lt run STUDY creates one"):
        Store(_uri(tmp_path), write=False)
    (tmp_path / "empty.db").touch()
    with pytest.raises(NoStore):
        Store(f"sqlite:///{tmp_path / 'empty.db'}", write=False)
    assert (tmp_path / "empty.db").read_bytes() == b""
    (tmp_path / "empty.db").unlink()
    Store(_uri(tmp_path))
    assert [one.name for one in tmp_path.iterdir()] == ["mlflow.db"]
    _run(tmp_path / "mlflow.db", "DELETE FROM experiments")  # MLflow would make its experiment 0 again
    before = _all(tmp_path)
    assert Store(_uri(tmp_path), write=False).studies() == []
    assert _all(tmp_path) == before


LOOKS = ("status", "report tiny", "plan tiny.yaml", "best tiny.yaml", "cells tiny.yaml --missing", "doctor tiny.yaml")


def test_every_command_that_looks_leaves_the_store_as_it_is(
    cli: Call, tmp_path: Path, empty_store: Path, tiny_text: str
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "tiny.yaml").write_text(tiny_text)
    Store(_uri(tmp_path)).ensure_parent("tiny")
    before = _all(tmp_path)
    codes = [cli(*look.split(), cwd=tmp_path)[0] for look in LOOKS]
    assert codes == [0, 2, 0, 2, 0, 1]  # no report, nothing found by a search; the study's run is RUNNING
    assert _all(tmp_path) == before
    (tmp_path / "mlflow.db").unlink()
    _optuna(tmp_path / "mlflow.db")
    before = _all(tmp_path)
    for look in (*LOOKS, "ui", "run tiny.yaml"):
        code, out, err = cli(*look.split(), cwd=tmp_path)
        assert (code, "another program (tables: alembic_version, studies)" in out + err) == (1 + (look[0] != "d"), True)
    assert _all(tmp_path) == before


def _artifact(store: Store) -> str | None:
    parent = store.parent("s")
    assert parent is not None
    return store.read_text(parent.info.run_id, "study.yaml")


@pytest.mark.parametrize("original", ["stays", "is gone"])
def test_a_copy_is_read_from_its_own_folder_and_written_to_once_it_is_adopted(
    folder: Path, tmp_path: Path, original: str, cli: Call
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (text,) = (copy / "mlartifacts").rglob("study.yaml")
    text.write_text("of the copy")
    if original == "is gone":
        shutil.rmtree(folder)
    kept, before = _all(folder), _all(copy)
    looked = _store(copy, write=False)
    assert _artifact(looked) == "of the copy"
    assert f"was copied or moved: it names artifacts in {folder}, not in" in looked.note
    assert looked.state_folder("s") == copy / ".tune_lt" / "s"
    for writes in ("ui", "doctor s --fix"):
        code, out, err = cli(*writes.split(), cwd=copy)
        assert (code > 0, f"doctor --adopt --store {_uri(copy)} makes" in out + err) == (True, True)
    code, out, err = cli("status", cwd=copy)
    assert (code, "s: finished" in out, err.startswith("note: ")) == (0, True, True)
    assert (_all(folder), _all(copy)) == (kept, before)

    code, out, _ = cli("doctor", "--adopt", cwd=copy)
    assert f"adopted: s: its artifacts are those in {copy}, no longer those in {folder}" in out
    assert code == 0
    store = _store(copy)
    assert (store.note, _artifact(store)) == ("", "of the copy")
    (version,) = store.client.search_model_versions("name = 's'")
    assert version.source.startswith((copy / "mlartifacts" / "s").as_uri())
    parent = store.ensure_parent("s")
    store.client.log_text(parent, "changed", "study.yaml")
    with closing(sqlite3.connect(copy / "mlflow.db")) as connection:
        assert str(folder) not in "".join(connection.iterdump())
        assert folder.as_uri() not in "".join(connection.iterdump())
    for name in (".a.pt.1", ".b.pt.2"):  # half-written checkpoints, which are deleted
        (copy / ".tune_lt" / "s" / "checkpoints" / name).touch()
    assert [finding.kind for finding in examine_study(store, "s")] == ["checkpoint"]
    fix(store, "s", examine_study(store, "s"))
    assert [one.name for one in (copy / ".tune_lt" / "s" / "checkpoints").iterdir()] == ["a.pt"]
    assert _all(folder) == kept
    assert "adopted: nothing" in cli("doctor", "--adopt", cwd=copy)[1]


def test_a_copy_without_its_artifacts_is_not_adopted(folder: Path, tmp_path: Path, cli: Call) -> None:
    shutil.copy(folder / "mlflow.db", tmp_path)
    before = (tmp_path / "mlflow.db").read_bytes()
    for _ in range(2):
        code, _, err = cli("doctor", "--adopt", cwd=tmp_path)
        assert (code, f"copy {folder / 'mlartifacts' / 's'} there first" in err) == (2, True)
        (tmp_path / "mlartifacts" / "another").mkdir(parents=True, exist_ok=True)  # of another store
    assert (tmp_path / "mlflow.db").read_bytes() == before
    code, _, err = cli("doctor", "--adopt", "--store", "http://localhost:1", cwd=tmp_path)
    assert (code, "a server; valid: an SQLite file" in err) == (2, True)


def test_a_link_to_a_store_is_the_store_and_a_place_that_others_chose_is_none_of_ours(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mlflow.db").symlink_to(folder / "mlflow.db")
    for place in ("link", "other"):
        assert _artifact(_store(tmp_path / place)) == "text"
    store = _store(folder)
    for name, location in {
        "bucket": "s3://bucket/mlartifacts/bucket",
        "root": "file:///data/artifacts/root",
        "server": "file:///data/mlartifacts/4",  # as `mlflow server --no-serve-artifacts` would number it
    }.items():
        created = store.client.create_experiment(name, artifact_location=location)
    assert created == "4"
    assert _store(folder).note == ""


MISTAKES = {
    "FOLDER": "sqlite:///FOLDER/mlflow.db",
    "sqlite:///FOLDER": "sqlite:///FOLDER/mlflow.db",
    "file:FOLDER": "sqlite:///FOLDER/mlflow.db",
    "file:///data/a%20b": "sqlite:////data/a b/mlflow.db",
    "FOLDER/mlflow.db": "sqlite:///FOLDER/mlflow.db",
    "./runs": "sqlite:///runs/mlflow.db",
    "sqlite://mlflow.db": "sqlite:///mlflow.db here, or sqlite:////FOLDER/mlflow.db",
    "sqlite:mlflow.db": "sqlite:///mlflow.db here",
    "sqlite:///": "sqlite:/// and the path of a file",
    "sqlite:///:memory:": "sqlite:/// and the path of a file",
    "sqlite:///mlflow.db?mode=ro": "sqlite:/// and the path of a file",
    "localhost:5000": "http://localhost:5000",
    "http://": "http://HOST:PORT",
    "https://:5000": "https://HOST:PORT",
    "http://localhost:70000": "http://HOST:PORT",
    "gopher://host": "of no kind that MLflow knows; valid: sqlite:///FILE",
    "postgres://u:secret@host/db": "of no kind that MLflow knows; valid: .* postgresql://USER@HOST/DATABASE",
}


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("uri", MISTAKES)
def test_a_uri_that_is_written_wrongly_is_refused_before_anything_is_tried(
    uri: str, write: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "mlflow.db").touch()
    with pytest.raises(InputError, match=MISTAKES[uri]) as refused:
        Store(uri, write=write)
    assert "secret" not in str(refused.value)
    if "of no kind" not in MISTAKES[uri]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(InputError, match=f"MLFLOW_TRACKING_URI: found {uri}".replace("?", "[?]")):
            store_uri()
    assert sorted(_all(tmp_path)) == ["FOLDER", "FOLDER/mlflow.db"]


@pytest.mark.parametrize(
    ("scheme", "module", "packages"),
    [
        ("postgresql+psycopg", "psycopg", r"'psycopg\[binary\]', or psycopg2-binary for postgresql\+psycopg2://"),
        ("postgresql+psycopg2", "psycopg2", "psycopg2-binary$"),
        ("mysql", "MySQLdb", r"mysqlclient, or pymysql for mysql\+pymysql://"),
        ("mysql+pymysql", "pymysql", "pymysql$"),
        ("mssql", "pyodbc", "pyodbc$"),
    ],
)
def test_a_package_that_a_database_needs_is_named(
    scheme: str, module: str, packages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # import then fails as where it is not installed
    with pytest.raises(InputError, match=f"package {module}, which is not installed; valid: pip install {packages}"):
        Store(f"{scheme}://ada:secret@localhost:1/db")
