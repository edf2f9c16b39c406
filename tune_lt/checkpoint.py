"""Saving and restoring a training run: one file, replaced atomically, loaded without running pickled code."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
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


def load(path: Path, identity: str) -> dict[str, Any] | None:
    """The state saved at ``path``, on the CPU, or None if there is no file.

    Raises InputError if the file is damaged, of another format, or belongs to a run other than ``identity``.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found, state = (content["format"], content["identity"]), content["state"]
    except Exception as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); delete it to start anew"
        ) from None
    if found != (FORMAT, identity):
        raise InputError(f"{path}: the checkpoint of another configuration; delete it or choose another file")
    return dict(state)
