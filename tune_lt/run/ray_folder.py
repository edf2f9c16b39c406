"""The folder in which Ray works on this machine: its log files, its sockets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tune_lt.errors import InputError

SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # that the system allows for a Unix socket's path
SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # Ray's longest; a time, a process


def ray_folder() -> Path:
    """Where Ray 2.60 makes its own folder ``ray``."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def check_sockets(folder: Path) -> None:
    """Raise InputError if the paths of Ray's sockets in ``folder`` are too long."""
    found, most = len(os.fsencode(folder)), SOCKET_BYTES - len(f"/{SOCKET}")
    if found > most:
        name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
        raise InputError(
            f"{name}: found {folder}, {found} bytes, which is too long for the paths of Ray's sockets; valid: at most "
            f"{most} bytes; set {name}=/tmp"
        )
