"""Train a study's cells on a machine that has neither Ray nor MLflow, and take the results home.

    tune-lt cells STUDY > cells.json                                       # at home: what is to be trained
    python -m tune_lt.training.cells cells.json --results DIR              # on the other machine
    tune-lt import DIR --store URI                                         # at home: the results, into MLflow

The other machine needs this package's code, the images, torch, torchvision, numpy, Pillow, scipy and annotated-types.
Each cell that ends gives one file in DIR, whole or not at all; what is there already is not trained again, and a
training that was stopped goes on from the state it saved last.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tune_lt import data, provenance, training
from tune_lt.config import RESULT_VERSION, STUDY_NAME, CellConfig, cell_of, fingerprint
from tune_lt.errors import InputError, TrainingFailed, printable
from tune_lt.plugins import load_plugins
from tune_lt.training import results

LISTED = "study.json"  # the list, beside the results
FORMAT = 1  # of both kinds of file
SAVE_SECONDS = 60.0  # between two states of one training: what a stop costs at most
Record = dict[str, Any]  # a line of the journal: what happened to a cell, see `tune_lt.journal`


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

    ``text`` is the study's file; ``tags`` and ``contents`` are those of its own run (its rows, and their cells).
    ``content_hash`` is that of the images (`tune_lt.data.Dataset`), ``sources`` are the hashes of the plugins' modules;
    ``threads`` a training computes with on the CPU, and ``loaders`` are its processes that read images.
    """

    study: str
    text: str
    tags: Mapping[str, str]
    contents: Mapping[str, Any]
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

    @classmethod
    def read(cls, file: Path) -> Listing:
        """A listing from its file. Raises InputError for a file that is none, or of another version of the code."""
        raw = _read(file, "written by tune-lt cells")
        try:
            cells = tuple(ListedCell(**{**one, "cell": cell_of(one["cell"])}) for one in raw.pop("cells"))
            listing = cls(**{**raw, "plugins": tuple(raw["plugins"])}, cells=cells)
        except (KeyError, TypeError) as error:
            raise InputError(f"{file}: no list of cells ({error}); valid: a file written by tune-lt cells") from None
        if not re.fullmatch(STUDY_NAME, str(listing.study)):
            raise InputError(f"{file}: found a study called {listing.study!r}; valid: a name as a study file has it")
        for one in cells:
            check(file, one.cell, one.fingerprint, listing.content_hash, listing.sources, listing.result_version)
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
        fresh = file.with_name(f"{file.name}.{os.getpid()}")
        fresh.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}))
        fresh.replace(file)

    @classmethod
    def read(cls, file: Path) -> TrainedCell:
        """A result from its file. Raises InputError for a file that is none, or whose fingerprint is not its own."""
        raw = _read(file, "written by python -m tune_lt.training.cells")
        try:
            trained = cls(**{**raw, "cell": cell_of(raw["cell"]), "records": tuple(raw["records"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"{file}: no result of a cell ({error}); remove it from the folder") from None
        check(file, trained.cell, trained.fingerprint, trained.content_hash, trained.sources, trained.result_version)
        if not _whole(trained.records, trained.fingerprint):
            raise InputError(
                f"{file}: its records are not those of one whole training; remove it, train the cell again"
            )
        return trained


def _whole(records: Sequence[Record], name: str) -> bool:
    """Whether these are the start, the epochs and the end of the cell ``name``, with no file that a cell has not."""
    try:
        operations = [record["op"] for record in records]
        expected = ["start", *["epoch"] * (len(records) - 2), "end"]
        ours = all(record["key"] == name for record in records)
        return operations == expected and ours and records[-1]["artifacts"].keys() <= set(results.FILES)
    except (KeyError, TypeError, AttributeError):
        return False


def check(file: Path, cell: CellConfig, name: str, content_hash: str, sources: Mapping[str, str], version: int) -> None:
    """Raise InputError unless this version of the code calls the cell, on these images, by this fingerprint."""
    if version != RESULT_VERSION:
        raise InputError(
            f"{file}: found results of version {version}; valid: {RESULT_VERSION}, that of this code; train with the "
            "version of tune-lt that wrote the list of cells"
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
        raise InputError(f"{file}: found another format; valid: a file {valid}, by this version of tune-lt")
    return raw


@dataclass(frozen=True)
class _Setting:
    """What every training of one call has; ``until``: when the last must have ended, by `time.time`, or None."""

    listing: Listing
    dataset: data.Dataset
    folder: Path
    plugins: Path
    device: str
    threads: int
    until: float | None


@dataclass(frozen=True)
class _Ended:
    """How a training ended: a line about it ("": it was not begun), whether it has a result, whether it failed."""

    line: str
    done: bool = True
    failed: bool = False


_setting: _Setting  # of this process
_seconds: dict[str, float] = {}  # an epoch of the last cell that was trained here, by network and images


def _prepare(setting: _Setting) -> None:
    global _setting
    _setting = setting
    torch.set_num_threads(setting.threads)
    load_plugins(setting.listing.plugins, setting.plugins)


def _train(listed: ListedCell) -> _Ended:
    """Train one cell in this process and write its result."""
    kind = json.dumps([listed.cell.model, listed.cell.data, listed.cell.fold], default=list)
    expected = listed.cell.recipe.epochs * _seconds.get(kind, 0.0)
    if _setting.until and time.time() + expected > _setting.until:
        return _Ended("", done=False)
    states = _setting.folder / "states"
    state, notes = states / f"{listed.fingerprint}.pt", states / f"{listed.fingerprint}.jsonl"
    records, seconds, times, last = _earlier(notes), [], [], {}
    try:
        for result in _epochs(listed, state):
            last = results.content(result)
            seconds.append(result.seconds)
            times.append(time.time())
            records[result.epoch] = _record("epoch", listed, epoch=result.epoch, metrics=results.metrics(last))
            with open(notes, "a") as lines:
                lines.write(json.dumps(records[result.epoch]) + "\n")
            if result.final:
                break  # before its last state is saved: nobody will go on from it
            if len(times) > 1:  # the first epoch takes longer
                _seconds[kind] = (times[-1] - times[0]) / (len(times) - 1)
            if _setting.until and _late(times, result.epochs - result.epoch, _setting.until):
                pace = 1000 * _seconds.get(kind, 0.0)
                return _Ended(f"given up after epoch {result.epoch}: epochs of {pace:.0f} ms are too many", done=False)
    except TrainingFailed as error:
        tags = {"outcome": "failed", "reason": f"TrainingFailed: {error}", "retry": "no", "epochs": str(len(records))}
        _write(listed, records, tags, {})
        ended = _Ended(str(error), failed=True)
    except InputError as error:
        if str(state) in str(error):  # a damaged state: the training begins anew
            state.unlink()
            return _train(listed)
        return _Ended(str(error), done=False, failed=True)
    except Exception as error:  # memory that runs out, a mistake in a plugin: the other cells go on
        reason = str(error).strip().splitlines() or [""]
        return _Ended(f"{type(error).__name__}: {reason[0]}", done=False, failed=True)
    else:
        tags = {"outcome": "complete", **results.tags(last, seconds)}
        _write(listed, records, tags, results.files(last, _setting.dataset.class_names))
        metric = next(name for name in ("test/balanced", "val/balanced", "train/loss") if name in last)
        ended = _Ended(f"{metric} {last[metric]:.4f}, epochs of {tags['epoch_seconds']} s")
    for file in (state, notes):
        file.unlink(missing_ok=True)
    return ended


def _late(times: Sequence[float], left: int, until: float) -> bool:
    """Whether a training must stop: the time is over, or its second epoch showed that it will be before the end."""
    return times[-1] > until or (len(times) == 2 and times[1] + left * (times[1] - times[0]) > until)


def _write(
    listed: ListedCell, epochs: Mapping[int, Record], tags: Mapping[str, str], artifacts: Mapping[str, Any]
) -> None:
    """Write a cell's result: the lines that a driver's journal would have had of it."""
    listing = _setting.listing
    start = _record("start", listed, name=listed.name, params=dict(listed.params), tags=dict(listed.tags))
    start["at"] = min((record["at"] for record in epochs.values()), default=start["at"])
    end = _record("end", listed, tags={**tags, **_origin()}, artifacts=dict(artifacts))
    trained = TrainedCell(
        listing.study,
        listed.fingerprint,
        listed.cell,
        listing.content_hash,
        listing.sources,
        listing.result_version,
        (start, *(epochs[epoch] for epoch in sorted(epochs)), end),
    )
    trained.write(_setting.folder / f"{listed.fingerprint}.json")


def _epochs(listed: ListedCell, state: Path) -> Iterator[training.EpochResult]:
    setting = _setting
    options: dict[str, Any] = {"device": setting.device, "loaders": setting.listing.loaders}
    options |= {"save_to": state, "save_seconds": SAVE_SECONDS}
    return training.run_epochs(listed.cell, dataset=setting.dataset, score_test=listed.cell.fold == "full", **options)


def _record(op: str, listed: ListedCell, **content: Any) -> Record:
    return {"op": op, "key": listed.fingerprint, "at": int(1000 * time.time()), **content}


def _earlier(notes: Path) -> dict[int, Record]:
    """The records of the epochs that an earlier call trained; those after its saved state are trained anew."""
    found: dict[int, Record] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # a last line may be cut short
        for line in notes.read_text().splitlines():
            record = json.loads(line)
            found[record["epoch"]] = record
    return found


def _origin() -> dict[str, str]:
    """Tags that say where a cell was trained."""
    place = training.pick_device(_setting.device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else f"{place.type}"
    return {
        "git": provenance.git_commit(),
        "versions": json.dumps(provenance.versions()),
        "device": str(place),
        "workers": "1",
        "elsewhere": f"{name}, torch {torch.__version__}",
    }


def train(
    listing: Listing,
    folder: Path,
    *,
    root: str | None = None,
    plugins: Path = Path(),
    device: str = "auto",
    at_once: int = 1,
    minutes: float | None = None,
) -> bool:
    """Train what has no result in ``folder`` yet, ``at_once`` cells at a time, each in a process of its own.

    ``root`` takes the place of the data section's, ``plugins`` is the folder of the study's plugins. With ``minutes``
    no training is begun, or goes on after its second epoch, that would not end in that time, and none goes on after it.
    Prints a line for each. Returns whether every cell has a result, and none failed. Raises InputError before anything
    is trained if the images or plugins are not those of the list.
    """
    until = None if minutes is None else time.time() + 60 * minutes
    sources = load_plugins(listing.plugins, plugins.resolve())
    if changed := [name for name in {**sources, **listing.sources} if sources.get(name) != listing.sources.get(name)]:
        raise InputError(
            f"plugins: {', '.join(sorted(changed))}: found other code than the list of cells was made with; copy the "
            "study's plugins here, and name their folder with --plugins"
        )
    (folder / "states").mkdir(parents=True, exist_ok=True)
    (folder / LISTED).write_text(listing.json())
    left = [one for one in listing.cells if not (folder / f"{one.fingerprint}.json").exists()]
    print(f"{listing.study}: {len(listing.cells)} cells, {len(listing.cells) - len(left)} have a result in {folder}")
    if not left:
        return True
    dataset = _images(listing, root)
    threads = listing.threads
    setting = _Setting(listing, dataset, folder, plugins.resolve(), device, threads, until)
    context = torch.multiprocessing.get_context("spawn")  # the images are passed as shared memory
    ended: list[_Ended] = []
    with ProcessPoolExecutor(min(at_once, len(left)), context, initializer=_prepare, initargs=(setting,)) as pool:
        futures = {pool.submit(_train, one): one for one in left}
        try:
            for future in as_completed(futures):
                one = future.result()
                ended.append(one)
                if one.line:
                    print(f"{len(ended)}/{len(left)}  {futures[future].name}: {printable(one.line)}", flush=True)
        except BrokenProcessPool:
            raise InputError(
                "a training's process died, perhaps for want of memory; what has ended is kept. Begin again, with a "
                "smaller --at-once if need be"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    done = sum(one.done for one in ended)
    if done < len(left):
        print(f"{len(left) - done} of {len(left)} have no result yet; the same command goes on with them")
    return done == len(left) and not any(one.failed for one in ended)


def _images(listing: Listing, root: str | None) -> data.Dataset:
    """The study's images, which must be those that the list was made with."""
    cell = listing.cells[0].cell
    if root is not None:
        cell = dataclasses.replace(cell, data={**cell.data, "root": root})
    dataset = training.load_dataset(cell)
    if dataset.content_hash != listing.content_hash:
        hashes = f"{dataset.content_hash[:12]} here, {listing.content_hash[:12]} there"
        raise InputError(
            f"{cell.data.get('root', cell.data['name'])}: found other images than those of the list of cells (hashes: "
            f"{hashes}); copy the same files here; where they are the same, Pillow decodes them differently"
        )
    return dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code: 0 if every cell has a result, 1 if not, 2 for a mistake of the user."""
    parser = argparse.ArgumentParser("python -m tune_lt.training.cells", description=__doc__.splitlines()[0])
    parser.add_argument("cells", type=Path, help="the list that tune-lt cells wrote")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="a file for each cell goes here")
    parser.add_argument("--data", metavar="ROOT", help="where the images are here; else where the study has them")
    parser.add_argument("--plugins", type=Path, default=Path(), metavar="DIR", help="where the study's plugins are")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--at-once", type=_count, default=1, metavar="N", help="trainings at the same time")
    parser.add_argument("--minutes", type=float, help="begin no training that would not end in this time")
    options = parser.parse_args(arguments)
    try:
        whole = train(
            Listing.read(options.cells),
            options.results,
            root=options.data,
            plugins=options.plugins,
            device=options.device,
            at_once=options.at_once,
            minutes=options.minutes,
        )
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what has ended is kept, the same command goes on", file=sys.stderr)
        return 130
    return 0 if whole else 1


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("valid: 1 or more")
    return value


if __name__ == "__main__":
    from tune_lt.training.cells import main as imported  # so that processes find the functions by this name

    sys.exit(imported())
