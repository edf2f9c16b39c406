"""The two kinds of file that a study and a machine without Ray and MLflow exchange: a list of cells, and their results.

No result file is trusted: `TrainedCell.read` refuses one that is not whole, or whose fingerprint is not its content's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_lt.config import RESULT_VERSION, STUDY_NAME, CellConfig, cell_of, fingerprint
from tune_lt.documents import Contents
from tune_lt.errors import InputError
from tune_lt.training import results

LISTED = "study.json"  # the list, beside the results
FORMAT = 1  # of both kinds of file
LIST = "written by tune-lt cells"  # which files are valid
RESULT = "written by python -m tune_lt.training.cells; remove it and train the cell again"
Record = dict[str, Any]  # a line of the journal: what happened to a cell, see `tune_lt.store.journal`


@dataclass(frozen=True)
class ListedCell:
    """A cell that is to be trained, and what is recorded at its start: a name, parameters and tags."""

    fingerprint: str
    cell: CellConfig
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Listing:
    """The cells of one study in the order they are to be trained, and what their fingerprints go by.

    ``text`` is the study's file; ``tags`` and ``contents`` are those of its own run (its rows, and their cells),
    without the rows that are ``waiting`` for a search to end. ``content_hash`` is that of the images
    (`tune_lt.data.Dataset`), ``sources`` are the hashes of the plugins' modules; ``threads`` a training computes with
    on the CPU, and ``loaders`` are its processes that read images.
    """

    study: str
    text: str
    tags: Mapping[str, str]
    contents: Contents
    waiting: tuple[str, ...]
    content_hash: str
    plugins: tuple[str, ...]
    sources: Mapping[str, str]
    threads: int
    loaders: int
    cells: tuple[ListedCell, ...]
    result_version: int = RESULT_VERSION

    def json(self) -> str:
        """As the text of its file."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)

    def write(self, file: Path) -> None:
        """Write it to a file that is whole or not there."""
        _write(file, self.json())

    @classmethod
    def read(cls, file: Path) -> Listing:
        """A list from its file. Raises InputError for a file that is none, or of another version of the code."""
        raw = _read(file, LIST)
        try:
            cells = tuple(ListedCell(**{**one, "cell": cell_of(one["cell"])}) for one in raw.pop("cells"))
            names = {name: tuple(raw[name]) for name in ("plugins", "waiting")}
            listing = cls(**{**raw, **names, "contents": Contents.of(raw["contents"])}, cells=cells)
            if not re.fullmatch(STUDY_NAME, listing.study):
                raise InputError(
                    f"{file}: found a study called {listing.study!r}; valid: a name as a study file has it"
                )
            for one in cells:
                _check(file, one.cell, one.fingerprint, listing.content_hash, listing.sources, listing.result_version)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: found no list of cells ({error}); valid: a file {LIST}") from None
        return listing


@dataclass(frozen=True)
class TrainedCell:
    """What a cell's training left behind: everything its fingerprint goes by, and the lines of its journal."""

    study: str
    fingerprint: str
    cell: CellConfig
    content_hash: str
    sources: Mapping[str, str]
    result_version: int
    records: tuple[Record, ...]

    @property
    def failed(self) -> bool:
        """Whether its loss was no longer finite."""
        return bool(self.records[-1]["tags"]["outcome"] == "failed")

    def write(self, file: Path) -> None:
        """Write it to a file that is whole or not there."""
        _write(file, json.dumps({"format": FORMAT, **dataclasses.asdict(self)}))

    @classmethod
    def read(cls, file: Path) -> TrainedCell:
        """A result from its file.

        Raises InputError for a file that is none, of another version of the code, not of a whole training, or whose
        fingerprint is not that of what it says.
        """
        raw = _read(file, RESULT)
        try:
            trained = cls(**{**raw, "cell": cell_of(raw["cell"]), "records": tuple(raw["records"])})
            about = (trained.content_hash, trained.sources, trained.result_version)
            _check(file, trained.cell, trained.fingerprint, *about)
            whole = _whole(trained)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: found no result of a cell ({error}); valid: a file {RESULT}") from None
        if not whole:
            raise InputError(f"{file}: found records that are not those of one whole training; valid: a file {RESULT}")
        return trained


def result_file(folder: Path, fingerprint: str) -> Path:
    """Where a cell's result lies."""
    return folder / f"{fingerprint}.json"


def result_files(folder: Path) -> list[Path]:
    """The result files in a folder, which are called by their fingerprints."""
    return sorted(file for file in folder.glob("*.json") if re.fullmatch(r"[0-9a-f]{24}", file.stem))


def _whole(trained: TrainedCell) -> bool:
    """Whether the records are the start, every epoch and the end of the cell, with no file that a cell has not."""
    if len(trained.records) < 2:
        return False
    start, *epochs, end = trained.records
    ours = all(record["key"] == trained.fingerprint and isinstance(record["at"], int) for record in trained.records)
    if not ours or start["op"] != "start" or end["op"] != "end" or not {"name", "params", "tags"} <= start.keys():
        return False
    numbers = [record["epoch"] for record in epochs if record["op"] == "epoch" and record["metrics"].keys()]
    wanted = range(1, (len(epochs) if trained.failed else trained.cell.recipe.epochs) + 1)
    return numbers == list(wanted) and end["artifacts"].keys() <= set(results.FILES)


def _check(
    file: Path, cell: CellConfig, name: str, content_hash: str, sources: Mapping[str, str], version: int
) -> None:
    """Raise InputError unless this version of the code calls the cell, on these images, by this fingerprint."""
    if version != RESULT_VERSION:
        raise InputError(
            f"{file}: found version {version} of the results; valid: {RESULT_VERSION}, that of this code; use the "
            "version of tune-lt that the list of cells was written with"
        )
    if (own := fingerprint(cell, content_hash, sources)) != name:
        raise InputError(f"{file}: found the fingerprint {name} for a cell whose fingerprint is {own}; it was altered")


def _read(file: Path, valid: str) -> dict[str, Any]:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{file}: found no JSON; valid: a file {valid}") from None
    if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
        raise InputError(f"{file}: found another format; valid: a file {valid}")
    return raw


def _write(file: Path, text: str) -> None:
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with open(fresh, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> Sequence[str]:
    """The plugins' modules whose code is not the same in both places."""
    return sorted(name for name in {**here, **there} if here.get(name) != there.get(name))
