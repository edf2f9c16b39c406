"""How an SQLite store is written: ahead of its file, in a log, while a driver is at work on a local disk."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

LOCAL_FILE_SYSTEMS = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs")
)  # Linux's names of those that no other machine can write to at the same time


def write_ahead(engine: Engine) -> bool:
    """As `Store.write_ahead`, for the engine of MLflow's own connections."""
    if not on_local_disk(Path(str(engine.url.database))):
        return False
    if not event.contains(engine, "connect", _sync_less):
        event.listen(engine, "connect", _sync_less)
    return _journal_mode(engine, "WAL")


def sync(engine: Engine) -> None:
    """As `Store.sync`."""
    log = Path(f"{engine.url.database}-wal")
    if log.exists():
        with log.open("rb") as file:
            os.fsync(file.fileno())


def write_through(engine: Engine) -> None:
    """As `Store.write_through`."""
    _journal_mode(engine, "DELETE")


def on_local_disk(file: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a file is on a disk of this machine; False where that cannot be told, as on anything but Linux."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    path, found, kind = file.resolve(), Path(), ""
    for _, place, name, *_ in map(str.split, lines):
        mounted = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place))
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(found.parts):  # of two, the later hides the other
            found, kind = mounted, name
    return kind in LOCAL_FILE_SYSTEMS


def _journal_mode(engine: Engine, mode: str) -> bool:
    """Ask SQLite for a journal mode; whether the file has it then. Nobody is waited for."""
    engine.dispose()  # MLflow's idle connections: they were set up for the mode until now, and would stand in the way
    try:
        with closing(sqlite3.connect(str(engine.url.database), timeout=0)) as connection:
            return str(connection.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]) == mode.lower()
    except sqlite3.Error:
        return False  # locked: someone else has it open


def _sync_less(connection: sqlite3.Connection, record: Any) -> None:
    """For a new connection: with a write-ahead log SQLite stays whole without waiting for the disk at each commit."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        connection.execute("PRAGMA synchronous=NORMAL")
