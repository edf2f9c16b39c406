"""Copies of an SQLite store: MLflow records artifacts under absolute paths, so a copy names those of its original."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, text

from tune_lt.store.records import TAG

ARTIFACTS, STATE = "mlartifacts", ".tune_lt"  # the folders beside an SQLite file: artifacts, and a driver's own files
CHECKPOINTS = f"{TAG}checkpoints"  # the tag in which a driver records the folder of the checkpoints
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)


@dataclass(frozen=True)
class Moved:
    """A study whose artifacts lie in ``folder``, which is not that of the store, below mlartifacts/``last``.

    ``root``: the same folder's URI.
    """

    study: str
    experiment: int
    root: str
    folder: Path
    last: str


def moved(connection: Connection, file: Path) -> list[Moved]:
    """The studies whose artifacts were put beside another SQLite file than ``file``, or beside it at an earlier place.

    A location that tune_lt did not choose, such as a server's, is left out: it does not end in mlartifacts/STUDY.
    """
    found = []
    for experiment, name, location in connection.execute(
        text("SELECT experiment_id, name, artifact_location FROM experiments")
    ):
        root, mark, last = (location or "").rpartition(f"/{ARTIFACTS}/")
        if not mark or "/" in last or last == str(experiment) or urlsplit(root).scheme not in ("", "file"):
            continue
        folder = Path(unquote(urlsplit(root).path)) if root.startswith("file:") else Path(root)
        if not _beside(folder, file):
            found.append(Moved(name, experiment, root, folder, unquote(last)))
    return found


def adopt(connection: Connection, studies: Iterable[Moved], folder: Path) -> None:
    """Let the store name the artifacts and the checkpoints in ``folder`` in place of those in the studies' folders."""
    for study in studies:
        new = folder.as_uri() if study.root.startswith("file:") else str(folder)
        for table, column in COLUMNS:
            connection.execute(
                text(
                    f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                    f"WHERE substr({column}, 1, length(:old)) = :old"
                ),
                {"old": f"{study.root}/{ARTIFACTS}/", "new": f"{new}/{ARTIFACTS}/"},
            )
        runs = "SELECT run_uuid FROM runs WHERE experiment_id = :experiment"
        where = f"key = '{CHECKPOINTS}' AND run_uuid IN ({runs})"
        for run, value in connection.execute(
            text(f"SELECT run_uuid, value FROM tags WHERE {where}"), {"experiment": study.experiment}
        ).all():
            _, mark, rest = value.rpartition(f"/{STATE}/")  # otherwise it is the study's resources.storage
            if mark:
                connection.execute(
                    text(f"UPDATE tags SET value = :value WHERE key = '{CHECKPOINTS}' AND run_uuid = :run"),
                    {"value": str(folder / STATE / rest), "run": run},
                )


def _beside(folder: Path, file: Path) -> bool:
    """Whether a folder is the file's own, also by way of links and mounts."""
    try:
        return folder.samefile(file.parent) or (folder / file.name).samefile(file)
    except OSError:
        return False
