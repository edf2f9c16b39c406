"""Looks at a store before MLflow opens it: MLflow adds its tables to any database, and what it needs to any store."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.db.utils import create_sqlalchemy_engine
from mlflow.store.tracking.dbmodels.initial_models import Base
from mlflow.tracking import MlflowClient
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from tune_lt.errors import InputError, redacted
from tune_lt.store import copies, sqlite
from tune_lt.store.uri import URIS, sqlite_file, sqlite_uri
from tune_lt.texts import first_line, some

PACKAGES = {  # for pip, by the name of the module
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
}
OTHER = {"psycopg": "psycopg2", "MySQLdb": "pymysql"}  # another module for the same database


class NoStore(InputError):
    """There is no store yet, only the place for one."""


@dataclass(frozen=True)
class Place:
    """What MLflow opens. ``moved``: the folders that have the artifacts, where these lie not beside an SQLite file.

    ``scratch`` is the folder of a copy that is opened in place of the file; it is deleted with this object.
    """

    uri: str
    moved: tuple[Path, ...] = ()
    scratch: tempfile.TemporaryDirectory[str] | None = None


def place(uri: str, *, write: bool) -> Place:
    """What MLflow may open to read a store, or to ``write`` to it; a new SQLite file is created for that.

    Nothing else is changed, and with ``write`` false nothing at all. Raises InputError for what is no store of the
    installed MLflow's, and for writing to a copy of a store; NoStore where nothing is to be read yet.
    """
    file = sqlite_file(uri)
    if file is None:
        if _is_database(uri):
            with _connected(uri) as connection:
                if not _of_mlflow(connection, uri) and not write:
                    raise _none_yet(uri)
        return Place(uri)
    if not file.parent.is_dir():
        raise InputError(f"tracking store {uri}: the folder {file.parent} does not exist")
    if not file.exists() or sqlite.is_empty(file):
        if not write:
            raise _none_yet(uri)
        _create(file)
        return Place(_for_mlflow(uri))
    read, scratch = sqlite.read_only(file), None
    if read is None:
        read, scratch = _copied(file)
    with _connected(read) as connection:
        ours = _of_mlflow(connection, uri)
        moved = copies.moved(connection, file) if ours else []
        whole = ours and connection.execute(text("SELECT 1 FROM experiments WHERE experiment_id = 0")).first()
    folders = tuple(dict.fromkeys(one.folder for one in moved))
    if write and moved:
        raise InputError(f"{moved_text(uri, *folders)}; until then nothing is written to it")
    if write:
        return Place(_for_mlflow(uri))
    if not ours:
        raise _none_yet(uri)
    if scratch is None and (moved or not whole):  # MLflow makes an experiment 0 where there is none
        read, scratch = _copied(file)
    if moved:
        with _connected(read) as connection:
            copies.adopt(connection, moved, file.parent)
    return Place(read, folders, scratch)


def adopt(uri: str) -> list[str]:
    """Record the artifacts beside a copy of an SQLite store as its own; what was done, in lines.

    Raises InputError where the artifacts were not copied too, and for what `place` refuses.
    """
    file = sqlite_file(uri)
    if file is None:
        raise InputError(f"--adopt: found the store {redacted(uri)}, a server; valid: an SQLite file, sqlite:///FILE")
    place(uri, write=False)
    try:
        with _connected(uri) as connection:
            moved = copies.moved(connection, file)
            for one in moved:
                at = Path(copies.ARTIFACTS, one.last)
                if (one.folder / at).is_dir() and not (file.parent / at).is_dir():
                    raise InputError(f"--adopt: {file.parent} has no {at}; copy {one.folder / at} there first")
            copies.adopt(connection, moved, file.parent)
    except SQLAlchemyError as error:
        raise InputError(f"--adopt: {file} cannot be changed: {first_line(error)}") from None
    return [f"{one.study}: its artifacts are those in {file.parent}, no longer those in {one.folder}" for one in moved]


def moved_text(uri: str, *folders: Path) -> str:
    """What is to be known of a store that was copied or moved."""
    names = some([str(folder) for folder in folders])
    return (
        f"tracking store {uri} was copied or moved: it names artifacts in {names}, not in its own folder; "
        f"tune-lt doctor --adopt --store {shlex.quote(uri)} makes it name those in its own"
    )


def _none_yet(uri: str) -> NoStore:
    return NoStore(f"{redacted(uri)}: no store there yet; tune-lt run STUDY creates one")


def _for_mlflow(uri: str) -> str:
    """The same URI in a form of which MLflow makes no folder: it takes an escaped path for a folder's name."""
    return uri.replace("sqlite:", "sqlite+pysqlite:", 1) if "%" in uri else uri


def _is_database(uri: str) -> bool:
    return uri.split(":")[0].split("+")[0] in DATABASE_ENGINES


def _copied(file: Path) -> tuple[str, tempfile.TemporaryDirectory[str]]:
    """A copy of an SQLite file in a temporary folder: its URI, and the folder."""
    folder = tempfile.TemporaryDirectory(prefix="tune_lt_")
    return sqlite_uri(sqlite.copied(file, Path(folder.name))), folder


@contextmanager
def _connected(uri: str) -> Iterator[Connection]:
    """A transaction on a database. Raises InputError if the package for this database is missing."""
    kind, _, driver = uri.split(":")[0].partition("+")
    try:
        engine = create_sqlalchemy_engine(uri)
    except ModuleNotFoundError as error:
        module = error.name or ""
        other = f", or {PACKAGES[OTHER[module]]} for {kind}+{OTHER[module]}://…" if module in OTHER else ""
        raise InputError(
            f"tracking store {redacted(uri)} needs the Python package {module}, which is not installed; valid: "
            f"pip install {PACKAGES.get(module, module)}{other}"
        ) from None
    except NoSuchModuleError:
        raise InputError(f"tracking store {redacted(uri)}: SQLAlchemy knows no {driver} for {kind}; {URIS}") from None
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _of_mlflow(connection: Connection, uri: str) -> bool:
    """Whether a database holds the tables of the installed MLflow; False if it has no table yet.

    Raises InputError for a database of another program, and for one of an older or newer MLflow.
    """
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return False
    if not tables >= Base.metadata.tables.keys():
        raise InputError(
            f"tracking store {redacted(uri)}: found a database of another program (tables: {some(sorted(tables))}), "
            "which is left as it is; valid: a store of MLflow's, an empty database, a new file"
        )
    found = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    needed, known = scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}
    if found == needed:
        return True
    schema = f"tracking store {redacted(uri)}: its schema is {found}, MLflow {mlflow.__version__} needs {needed}"
    if found is None or found in known:
        upgrade = f"make a copy of it, then: mlflow db upgrade {shlex.quote(redacted(uri))}"
        raise InputError(f"{schema}; an older MLflow made it; {upgrade}")
    raise InputError(f"{schema}; a newer MLflow made it; valid: that version here too, pip install --upgrade mlflow")


def _create(file: Path) -> None:
    """Let MLflow make a new store, under another name until it is whole.

    Who is interrupted leaves no half-made store, and of several processes one makes it. Where the disk has no links,
    and for an empty file, MLflow makes the store in its place.
    """
    if file.exists():
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix=".tune_lt_", dir=file.parent)
    except OSError as error:
        raise InputError(f"{file}: a store cannot be created there ({error.strerror})") from None
    with folder as name:
        made = Path(name) / "mlflow.db"
        client = MlflowClient(_for_mlflow(sqlite_uri(made)))
        client._tracking_client.store.engine.dispose()
        with suppress(OSError):
            os.link(made, file)
