"""The arguments that several commands share, and how they are read: the study, the store, the folder for reports."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from tune_lt.errors import InputError

if TYPE_CHECKING:
    from tune_lt.store import Store
    from tune_lt.study import Study

StudyFile = Annotated[str, Argument(metavar="STUDY", help="A study file, or the name of a bundled one such as digits.")]
SmallOption = Annotated[bool, Option("--small", help="Use the small form, which the file's section `small` defines.")]
StoreOption = Annotated[
    str | None,
    Option("--store", metavar="URI", help="MLflow tracking URI. Default: MLFLOW_TRACKING_URI, or else ./mlflow.db."),
]
ReportsOption = Annotated[
    Path, Option("--reports", help="The folder for reports; each study has its own folder in it.")
]


def study_path(study: str) -> Path:
    """The file of a study, given by its path or by the name of a bundled one. Raises InputError for neither."""
    here = Path(study)
    package = Path(__file__).parents[1]
    folders = (package, package.parent)  # of a wheel, of a checkout
    bundled = {file.stem: file for folder in folders for file in folder.glob("search_spaces/*.yaml")}
    name = study.removesuffix(".yaml")
    if name in bundled and not here.is_file():
        return bundled[name]
    if here.exists() or here.suffix in (".yaml", ".yml"):
        return here
    raise InputError(f"{study}: no such file and no bundled study; bundled: {', '.join(sorted(bundled))}")


def read_study(study: str, small: bool = False) -> Study:
    """The study in a file, or a bundled one, or the small form of either. Raises InputError for a mistake in it."""
    path = study_path(study)
    from tune_lt.study import reader

    return reader.read(path, small)


def study_name(study: str, small: bool = False) -> str:
    """The name under which the store has a study, or its small form, that is given by its name or file."""
    if study.endswith((".yaml", ".yml")):
        return read_study(study, small).name
    return f"{study}-small" if small else study


def existing_store(store: str | None) -> Store:
    """The store of the option, for a command that only reads. Raises InputError where there is none."""
    from tune_lt.store import Store

    opened = Store(store, write=False)
    if opened.note:
        print(f"note: {opened.note}", file=sys.stderr)
    return opened


def store_if_any(store: str | None) -> Store | None:
    """The store of the option, for a command that only reads and needs none; None where there is none."""
    from tune_lt.store import NoStore

    try:
        return existing_store(store)
    except NoStore:
        return None


def check_reports(folder: Path) -> None:
    """Raise InputError where reports could not be written, before anything is trained."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"--reports {folder}: {existing} is no folder that you can write to; valid: one that is")
