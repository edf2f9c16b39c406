"""Importing the user's own modules, which a study file names, and hashing their code."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

from tune_lt.errors import InputError


def load_plugins(names: tuple[str, ...], folder: Path) -> dict[str, str]:
    """Import the user's modules, from ``folder`` first; module -> hash of its source, which fingerprints include.

    The modules of the folder that they import are hashed too, since a change there may change results as well. Raises
    InputError for a module that cannot be imported, or that has the name of a module of Python or of a library.
    """
    if not names:
        return {}
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise InputError(f"plugins: importing {name!r} failed: {type(error).__name__}: {error}") from None
        file = getattr(module, "__file__", None)
        own = folder / f"{name.replace('.', '/')}.py"
        if file is None or (own.exists() and not own.samefile(file)):
            raise InputError(
                f"plugins: {name!r} is also a module of Python or of a library ({file}); rename {own.name}"
            )
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for name, file in files.items()
        if file and (name in names or _belongs(Path(file), folder)) and Path(file).is_file()
    }


def _belongs(file: Path, folder: Path) -> bool:
    """Whether a module's file is the user's own: inside the study's folder, but not of a library installed there."""
    inside = file.is_relative_to(folder) and "site-packages" not in file.parts
    return inside and not file.is_relative_to(Path(__file__).parent)
