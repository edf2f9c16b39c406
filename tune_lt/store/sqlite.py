"""Reads an SQLite store without changing anything, and has SQLite write to a log beside its file (WAL) first.

The log is for a driver on a local disk. The functions for it take the engine of MLflow's own connections, None where
the store is a server: they then do nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Engine, event

from tune_lt.errors import InputError

LOCAL_FILE_SYSTEMS = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs")
)  # Linux's names of file systems that no other machine can write to at the same time


HEADER = b"SQLite format 3\0"
LOG, INDEX, ROLLBACK = "-wal", "-shm", "-journal"  # the endings of the files that SQLite puts beside its own
READ_ONLY = {"mode": "ro", "readonly_shm": "1"}  # the second is for the log's index, which SQLite would rebuild


def is_empty(file: Path) -> bool:
    """Whether a file has no content yet. Raises InputError if it cannot be read, or is not SQLite's."""
    try:
        with file.open("rb") as opened:
            content = opened.read(len(HEADER)) if file.is_file() else HEADER[:1]
    except OSError as error:
        raise InputError(f"tracking store {file}: cannot be read ({error.strerror})") from None
    if content not in (b"", HEADER):
        raise InputError(f"tracking store {file}: found no SQLite file; valid: one, or a file that does not exist yet")
    return not content


def read_only(file: Path) -> str | None:
    """The URI with which SQLite reads a file and writes nothing, not even a file beside it.

    None where it cannot: with a log that has no index, or with changes to undo that a process which died had begun.
    Raises InputError if the file is damaged, or if another process locks it.
    """
    with file.open("rb") as opened:
        logged = opened.read(19)[18:] == b"\2"
    if logged and not all(Path(f"{file}{end}").exists() for end in (LOG, INDEX)):
        return None
    path = f"file:{quote(str(file))}"
    try:
        with closing(sqlite3.connect(f"{path}?{'&'.join(map('='.join, READ_ONLY.items()))}", uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            return None
        raise InputError(f"tracking store {file}: cannot be read ({error})") from None
    return str(URL.create("sqlite+pysqlite", database=path, query=READ_ONLY | {"uri": "true"}))


def copied(file: Path, folder: Path) -> Path:
    """A copy of the file in a folder, which SQLite may change: with the log, or with what is to be undone."""
    for end in ("", LOG, ROLLBACK):
        if (beside := Path(f"{file}{end}")).exists():
            shutil.copyfile(beside, folder / beside.name)
    return folder / file.name


def write_ahead(engine: Engine | None) -> bool:
    """Switch to the write-ahead log, with which a commit need not wait for the disk; return whether SQLite did.

    What is committed survives the death of every process; it survives a power failure only after `sync`. The log is not
    used where the file may be on another machine's disk, since processes share it through memory.
    """
    if engine is None or not on_local_disk(Path(str(engine.url.database))):
        return False
    if not event.contains(engine, "connect", _sync_less):
        event.listen(engine, "connect", _sync_less)
    return _journal_mode(engine, "WAL")


def sync(engine: Engine | None) -> None:
    """Write all that is committed to the disk. Without `write_ahead` each commit does this itself."""
    log = Path(f"{engine.url.database}-wal") if engine else None
    if log and log.exists():
        with log.open("rb") as file:
            os.fsync(file.fileno())


def write_through(engine: Engine | None) -> None:
    """End `write_ahead`, so that the store is one file again, which can be copied.

    Nothing happens while another process has the store open; the next driver that ends tries again.
    """
    if engine is not None:
        _journal_mode(engine, "DELETE")


def on_local_disk(file: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a file is on a disk of this machine; False where that is not known, as on anything but Linux."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    path, found, kind = file.resolve(), Path(), ""
    for _, place, name, *_ in map(str.split, lines):
        mounted = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place))
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(
            found.parts
        ):  # a later mount hides an earlier one
            found, kind = mounted, name
    return kind in LOCAL_FILE_SYSTEMS


def _journal_mode(engine: Engine, mode: str) -> bool:
    """Ask SQLite for a journal mode, without waiting for other processes; return whether the file has it now."""
    engine.dispose()  # closes MLflow's idle connections, which keep the old mode and would lock the file
    try:
        with closing(sqlite3.connect(str(engine.url.database), timeout=0)) as connection:
            return str(connection.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]) == mode.lower()
    except sqlite3.Error:
        return False  # locked by another process


def _sync_less(connection: sqlite3.Connection, record: Any) -> None:
    """Set up a new connection: with a write-ahead log SQLite stays consistent without a sync at each commit."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        connection.execute("PRAGMA synchronous=NORMAL")
