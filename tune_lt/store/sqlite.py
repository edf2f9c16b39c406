"""While a driver works on an SQLite store on a local disk, SQLite writes to a log beside its file (WAL) first.

The functions take the engine of MLflow's own connections, None where the store is a server: they then do nothing.
"""

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
)  # Linux's names of file systems that no other machine can write to at the same time


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
