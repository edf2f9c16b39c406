"""The two kinds of file that go to a machine without Ray and MLflow and back: a list of cells, and a result for each.

A file may have been damaged or edited on its way. Reading it raises InputError if something is missing, or if a
fingerprint is not that of the cell, the images and the plugins that stand beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tune_lt.config import RESULT_VERSION, STUDY_NAME, CellConfig, ImageHashes, cell_of
from tune_lt.documents import Contents
from tune_lt.errors import InputError
from tune_lt.training import results
from tune_lt.training.identity import fingerprint

LISTED = "study.json"  # the name of the list in the folder of the results
FORMAT = 2  # of both kinds of file
Record = dict[str, Any]  # a line of a driver's journal (`tune_lt.store.journal`)
T = TypeVar("T")


@dataclass(frozen=True)
class ListedCell:
    """A cell to train, with the name, the parameters and the tags that its run in MLflow will have."""

    fingerprint: str
    cell: CellConfig
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Listing:
    """The cells of one study in the order in which to train them, and everything that their fingerprints depend on.

    ``text``: the study file. ``tags``, ``contents``: those of the study's own run, without the rows that are
    ``waiting`` for a search to end. ``images``: their hashes (`tune_lt.data.Dataset`). ``plugins``: the names of the
    study's modules; ``plugin_files``: what they read. ``sources``: module, file or pretrained weights -> the hash of
    its content. ``threads``: how many CPU threads a training uses; ``loaders``: how many processes read its images.
    """

    study: str
    text: str
    tags: Mapping[str, str]
    contents: Contents
    waiting: tuple[str, ...]
    images: ImageHashes
    plugins: tuple[str, ...]
    plugin_files: tuple[str, ...]
    sources: Mapping[str, str]
    threads: int
    loaders: int
    cells: tuple[ListedCell, ...]
    result_version: int = RESULT_VERSION

    def json(self) -> str:
        """The text of its file."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)

    def write(self, file: Path) -> None:
        """Write the list, either completely or not at all."""
        _write(file, self.json())

    @classmethod
    def read(cls, file: Path) -> Listing:
        """The list in ``file``. Raises InputError for any other file, and for a list of another version."""
        return _read(file, cls._of, "a file written by tune-lt cells")

    @classmethod
    def _of(cls, raw: dict[str, Any]) -> Listing:
        raw |= {"contents": Contents.of(raw["contents"]), "images": ImageHashes(**raw["images"])}
        raw |= {name: tuple(raw[name]) for name in ("plugins", "plugin_files")}
        cells = tuple(ListedCell(**{**one, "cell": cell_of(one["cell"])}) for one in raw["cells"])
        listing = cls(**{**raw, "waiting": tuple(raw["waiting"]), "cells": cells})
        if not re.fullmatch(STUDY_NAME, listing.study):
            raise InputError(f"found a study called {listing.study!r}; valid: a name as in a study file")
        for one in cells:
            _check(one, listing)
        return listing


@dataclass(frozen=True)
class TrainedCell:
    """The result of one cell: everything its fingerprint depends on, and the records that a driver would have written.

    ``records``: one for the start, one for each epoch, one for the end.
    """

    study: str
    fingerprint: str
    cell: CellConfig
    images: ImageHashes
    sources: Mapping[str, str]
    result_version: int
    records: tuple[Record, ...]

    @property
    def failed(self) -> bool:
        """Whether the training diverged."""
        return bool(self.records[-1]["tags"]["outcome"] == "failed")

    def write(self, file: Path) -> None:
        """Write the result, either completely or not at all."""
        _write(file, json.dumps({"format": FORMAT, **dataclasses.asdict(self)}))

    @classmethod
    def read(cls, file: Path) -> TrainedCell:
        """The result in ``file``. Raises InputError for any other file, and for one of another version."""
        return _read(file, cls._of, "a file written by python -m tune_lt.training.cells; remove it and train it again")

    @classmethod
    def _of(cls, raw: dict[str, Any]) -> TrainedCell:
        raw |= {"cell": cell_of(raw["cell"]), "images": ImageHashes(**raw["images"])}
        trained = cls(**{**raw, "records": tuple(raw["records"])})
        _check(trained, trained)
        if not trained._is_whole():
            raise InputError("found records that are not those of one whole training; remove it and train it again")
        return trained

    def _is_whole(self) -> bool:
        """Whether the records are the start, every epoch and the end of this cell, with no file of another name."""
        if len(self.records) < 2:
            return False
        start, *epochs, end = self.records
        count = len(epochs) if self.failed else self.cell.recipe.epochs
        return (
            all(record["key"] == self.fingerprint and isinstance(record["at"], int) for record in self.records)
            and [record["op"] for record in self.records] == ["start", *["epoch"] * count, "end"]
            and {"name", "params", "tags"} <= start.keys()
            and [record["epoch"] for record in epochs if record["metrics"].keys()] == list(range(1, count + 1))
            and end["artifacts"].keys() <= set(results.FILES)
        )


def result_file(folder: Path, fingerprint: str) -> Path:
    """The result file of a cell."""
    return folder / f"{fingerprint}.json"


def result_files(folder: Path) -> list[Path]:
    """All result files in a folder; their names are fingerprints."""
    return sorted(file for file in folder.glob("*.json") if re.fullmatch(r"[0-9a-f]{24}", file.stem))


def _check(one: ListedCell | TrainedCell, origin: Listing | TrainedCell) -> None:
    """Raise InputError unless the cell, with the images and plugins of ``origin``, has the fingerprint that it says."""
    if (found := origin.result_version) != RESULT_VERSION:
        valid = f"{RESULT_VERSION}; use the version of tune-lt that wrote the list of cells"
        raise InputError(f"found version {found} of the results; valid: {valid}")
    if (own := fingerprint(one.cell, origin.images, origin.sources)) != one.fingerprint:
        raise InputError(f"found the fingerprint {one.fingerprint} for a cell whose fingerprint is {own}: altered?")


def _read(file: Path, of: Callable[[dict[str, Any]], T], valid: str) -> T:
    """What ``of`` makes of the JSON in ``file``. If that fails it raises InputError that names the file."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if raw.pop("format", None) != FORMAT:
            raise ValueError("it has another format")
        return of(raw)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not readable ({type(error).__name__}: {error}); valid: {valid}") from None


def _write(file: Path, text: str) -> None:
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with open(fresh, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
