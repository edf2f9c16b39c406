"""The arguments that several commands share, and what is meant by them: which study, which store, which folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tune_lt.errors import InputError

if TYPE_CHECKING:
    from tune_lt.store import Store
    from tune_lt.study import Study

StudyFile = Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or the name of a bundled one (digits).")]
SmallOption = Annotated[bool, typer.Option("--small", help="The study's small form, by the file's section `small`.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URI", help="MLflow tracking URI; else MLFLOW_TRACKING_URI, else ./mlflow.db."),
]
ReportsOption = Annotated[Path, typer.Option("--reports", help="Where the tables and figures go, in a folder a study.")]


def study_path(study: str) -> Path:
    """The study file meant: a path, or the name of one that comes with the package."""
    here = Path(study)
    package = Path(__file__).parents[1]
    folders = (package / "search_spaces", package.parent / "search_spaces")  # wheel, checkout
    bundled = {file.stem: file for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")}
    if here.exists():
        return here
    if study.removesuffix(".yaml") in bundled:
        return bundled[study.removesuffix(".yaml")]
    if here.suffix in (".yaml", ".yml"):
        return here
    raise InputError(f"{study}: no such file, and no bundled study of that name; bundled: {', '.join(sorted(bundled))}")


def read_study(study: str, small: bool = False) -> Study:
    """The study in a file or bundled, or its small form. Raises InputError for every mistake in it."""
    path = study_path(study)
    from tune_lt.study import reader

    return reader.read(path, small)


def study_name(study: str, small: bool = False) -> str:
    """The name in the store of a study or of its small form, from the study's name or file."""
    if study.endswith((".yaml", ".yml")):
        return read_study(study, small).name
    return f"{study}-small" if small else study


def existing_store(store: str | None, remedy: str = "") -> Store:
    """The store, which must be there: to look something up creates none. Raises InputError with the ``remedy``."""
    from tune_lt.store import Store, exists, store_uri

    if not exists(store):
        raise InputError(f"{store_uri(store)}: no store there yet" + (f"; {remedy}" if remedy else ""))
    return Store(store)


def check_reports(folder: Path) -> None:
    """Fail now rather than after the training where the reports could not be written."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"--reports {folder}: {existing} is not a folder that can be written to")
