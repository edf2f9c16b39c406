"""Saves and loads the state of a training: one file, which is replaced atomically and loaded without running code."""

from __future__ import annotations

import copy
import os
import stat
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tune_lt.errors import InputError

FORMAT = 1


def save(path: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers and strings in dicts and lists) to ``path``, which is replaced atomically.

    ``identity`` names the training that the state belongs to; `load` refuses any other. Raises OSError (a full disk)
    and then leaves the old file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save({"format": FORMAT, "identity": identity, "state": dict(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Writer:
    """Writes the states of one training to one file, one at a time, in a thread beside the training.

    As a context manager it waits for the last write at the end of the block. If a write fails, the next call of `wait`
    or `save` raises its error, and so does the end of the block, unless the block raised another error itself.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, state: Mapping[str, Any]) -> None:
        """Wait for the write before, then begin to write ``state`` as it is now."""
        self.wait()
        # a daemon thread, so that a disk which does not answer cannot keep the process alive
        self._thread = threading.Thread(target=self._write, args=(snapshot(state),), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written. Raises the error of the last write."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, state: Mapping[str, Any]) -> None:
        try:
            save(self._path, self._identity, state)
        except Exception as error:
            self._error = error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:
                raise


def snapshot(state: Any) -> Any:
    """A deep copy of ``state`` with all tensors in the CPU's memory."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        copied = copy.copy(state)  # a module's state_dict also has an attribute with version numbers
        copied.update((key, snapshot(value)) for key, value in state.items())
        return copied
    return type(state)(map(snapshot, state)) if isinstance(state, (list, tuple)) else state


def load(path: Path, identity: str) -> dict[str, Any] | None:
    """The state saved at ``path``, on the CPU, or None if there is no file.

    Raises InputError if the file is damaged, has another format, belongs to another training than ``identity``, or may
    have been written by another user of this machine.
    """
    if not path.exists():
        return None
    try:
        with open(path, "rb") as file:
            _check_owner(path, os.fstat(file.fileno()))
            content = torch.load(file, map_location="cpu", weights_only=True)
        found, state = (content["format"], content["identity"]), dict(content["state"])
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); delete it to start anew"
        ) from None
    if found != (FORMAT, identity):
        raise InputError(f"{path}: found the checkpoint of another configuration; delete it or choose another file")
    return state


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Raise InputError if another user may have written the file. Checks nothing on systems other than POSIX.

    Any user may load a file of root's. Root may load anybody's: in a container, or on a network disk that gives files
    of root to another user, files that root wrote may have another owner. The owner of the folder does not matter,
    because whoever replaces a file there owns the new one.
    """
    if os.name != "posix":
        return
    user = os.geteuid()
    if user != 0 and status.st_uid not in (0, user):
        found = f"belongs to user {status.st_uid}, this is user {user}"
    elif status.st_mode & stat.S_IWOTH:
        found = f"can be written by every user (mode {stat.S_IMODE(status.st_mode):04o})"
    else:
        return
    raise InputError(f"{path}: {found}; another user may have written this state, so it is not loaded; delete the file")


def epoch(path: Path) -> int:
    """The epoch after which the state at ``path`` was saved, by any training; 0 if there is no readable file."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["state"]["epoch"])
    except Exception:
        return 0
