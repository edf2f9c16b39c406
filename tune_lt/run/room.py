"""The room on the disks that a study writes to, looked at before it begins and while it runs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tune_lt.errors import InputError

BEGIN_BYTES = 200 * 2**20  # that must be free for the store, the journal, the checkpoints and Ray
LEFT_BYTES = 20 * 2**20  # with less a study stops, before the programs that share the disk fail one after the other


def check_folders(*folders: Path) -> None:
    """Make the folders. Raises InputError if one of them cannot be written to or has too little room to begin."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written to ({error.strerror}); the study's journal and checkpoints go there"
            ) from None
    check_room(*folders, needed=BEGIN_BYTES)


def check_room(*folders: Path, needed: int = LEFT_BYTES) -> None:
    """Raise InputError if the disk of a folder, or of temporary files, which Ray uses, has too little room."""
    for place in (*folders, Path(tempfile.gettempdir())):
        free = shutil.disk_usage(place).free
        if free < needed:
            raise InputError(
                f"{place}: {free / 2**20:.0f} MiB free on the disk; {needed / 2**20:.0f} are needed; make room and run "
                "the study again, nothing that is recorded is lost"
            )
