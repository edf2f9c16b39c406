"""The user's own modules, which a study file names: importing them, and finding everything that they consist of."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path, PurePosixPath

from tune_lt.errors import InputError


def load_plugins(names: Sequence[str], folder: Path) -> None:
    """Import the user's modules, from ``folder`` first. What they print goes to stderr.

    Raises InputError for a module that cannot be imported, or that has the name of a module of Python or of a library.
    """
    if names and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for name in names:
        if name.endswith(".py"):
            module = ".".join(PurePosixPath(name).with_suffix("").parts)
            raise InputError(f"plugins: found {name!r}; valid: the name of a module, not of its file: {module}")
        try:
            with contextlib.redirect_stdout(sys.stderr):
                file = getattr(importlib.import_module(name), "__file__", None)
        except (Exception, SystemExit) as error:
            raise InputError(f"plugins: importing {name!r} failed: {type(error).__name__}: {error}") from None
        own = folder / f"{name.replace('.', '/')}.py"
        if file is None or (own.exists() and not own.samefile(file)):
            raise InputError(
                f"plugins: {name!r} is also a module of Python or of a library ({file}); rename {own.name}"
            )


def sources(names: Sequence[str], files: Sequence[str], folder: Path) -> dict[str, str]:
    """The hash of each of the `members`, which fingerprints include."""
    found = members(names, files, folder)
    try:
        return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in found.items()}
    except OSError as error:
        raise InputError(f"plugins: {error.filename}: cannot be read: {error.strerror}") from None


def members(names: Sequence[str], files: Sequence[str], folder: Path) -> dict[str, Path]:
    """All files that the plugins ``names`` consist of: module -> its file, ``file:`` and a path -> the file.

    They are the modules of ``folder`` that can be reached through import statements, wherever these stand, beginning
    with the plugins; those of a plugin's own package that lies elsewhere; and ``files``, given by their paths in
    ``folder``. Nothing is imported, so the result depends on these files alone; a module whose name is computed while
    the plugin runs has to be among ``files``. Raises InputError for a file that is missing, or outside of ``folder``.
    """
    importlib.invalidate_caches()
    tops = {name.partition(".")[0] for name in names}
    found: dict[str, Path] = {}
    seen: set[str] = set()
    left = [*names]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        left += [name.rpartition(".")[0]] if "." in name else []  # whose package is imported first
        if (file := _file(name, folder, tops)) is not None:
            found[name] = file
            left += _imports(file, name)
    for path in files:
        inside = not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
        if not inside or not (folder / path).is_file():
            raise InputError(f"plugin_files: found {path!r}; valid: the path of a file in {folder}")
        found[f"file:{path}"] = folder / path
    return dict(sorted(found.items()))


def _file(name: str, folder: Path, tops: set[str]) -> Path | None:
    """The file of a module in ``folder``, or in one of the top-level packages ``tops`` elsewhere; None for others."""
    top, *rest = name.split(".")
    if top == __name__.partition(".")[0]:
        return None
    # for a plugin elsewhere all finders are asked: an editable installation has one of its own
    spec = PathFinder.find_spec(top, [str(folder)]) or (importlib.util.find_spec(top) if top in tops else None)
    for part in rest:
        folders = list(spec.submodule_search_locations or ()) if spec else []
        spec = PathFinder.find_spec(part, folders)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _imports(file: Path, name: str) -> Iterator[str]:
    """The names of all modules that the module ``name`` may import, and of what may be one."""
    if file.suffix != ".py":
        return
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # importing it would fail
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names)) if base else ()
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))  # importlib.import_module("helper")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield _absolute(node.args[0].value, package)


def _absolute(name: str, package: str) -> str:
    """A module's name without leading dots; "" where they lead out of the package."""
    try:
        return importlib.util.resolve_name(name, package or None)
    except ImportError:
        return ""
