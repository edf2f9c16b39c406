"""Saving and restoring a training run: one file, replaced atomically, loaded without running pickled code."""

from __future__ import annotations

import copy
import os
import stat
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from tune_lt.errors import InputError

FORMAT = 1


def save(path: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings in dicts and lists) to ``path``: the old file or the new, never half.

    ``identity`` names the run the state belongs to; `load` refuses any other.
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
    """Writes the states of one run to one file while the run goes on: one at a time, in a thread beside it.

    As a context manager it leaves no state half written, however the block ends. An error of writing is raised by the
    next call of `wait` or `save`, and by the end of the block unless that ends with an error of its own.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, state: Mapping[str, Any]) -> None:
        """Begin to write ``state`` as it is now, once the state before it is on the disk."""
        self.wait()
        thread = threading.Thread(target=self._write, args=(snapshot(state),), daemon=True)  # a disk may hang
        thread.start()
        self._thread = thread

    def wait(self) -> None:
        """Until nothing is being written; raises what writing raised."""
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:
                raise


def snapshot(state: Any) -> Any:
    """A copy of ``state`` in the CPU's memory that nothing which happens to the original changes."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        copied = copy.copy(state)  # with the version numbers that a module's state_dict carries as an attribute
        copied.update((key, snapshot(value)) for key, value in state.items())
        return copied
    return type(state)(map(snapshot, state)) if isinstance(state, (list, tuple)) else state


def load(path: Path, identity: str) -> dict[str, Any] | None:
    """The state saved at ``path``, on the CPU, or None if there is no file.

    Raises InputError if the file is damaged, of another format, belongs to a run other than ``identity``, or could have
    been written by another user of this machine.
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
        raise InputError(f"{path}: the checkpoint of another configuration; delete it or choose another file")
    return state


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Raise InputError where somebody else may have written the file (POSIX).

    Root may own it for anyone, and reads anyone's: in a container, or on a disk that calls root nobody, the owner tells
    root nothing. Whose the folder is does not matter: who exchanges the file owns the new one.
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
    raise InputError(f"{path}: {found}; a state that somebody else may have written is not loaded: delete the file")


def epoch(path: Path) -> int:
    """The epoch of the state at ``path``, whichever run it is of; 0 where there is none that can be read."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["state"]["epoch"])
    except Exception:
        return 0
