"""Train a study's cells on a machine that has neither Ray nor MLflow, and take the results home.

    tune-lt cells STUDY > cells.json                                       # at home: what is to be trained
    python -m tune_lt.training.cells cells.json --results DIR              # on the other machine
    tune-lt import DIR --store URI                                         # at home: the results, into MLflow

The other machine needs this package's code, the images, torch, torchvision, numpy, Pillow, scipy and annotated-types.
Each cell that ends gives one file in DIR, whole or not at all; what is there already is not trained again, and a
training that was stopped goes on from the state it saved last. Two commands may share a DIR, one for each GPU, say.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tune_lt import data, provenance, training
from tune_lt.errors import InputError, TrainingFailed, printable
from tune_lt.plugins import load_plugins
from tune_lt.texts import first_line
from tune_lt.training import checkpoint, results
from tune_lt.training.exchange import LISTED, ListedCell, Listing, Record, TrainedCell, differences, result_file

SAVE_SECONDS = 60.0  # between two states of one training: a kill costs that much, and the epoch it was in


@dataclass(frozen=True)
class _Setting:
    """What every training of one call has; ``until``: when the last must have ended, by `time.time`, or None."""

    listing: Listing
    dataset: data.Dataset
    folder: Path
    plugins: Path
    device: str
    until: float | None

    def result(self, listed: ListedCell) -> Path:
        return result_file(self.folder, listed.fingerprint)


_setting: _Setting  # of this process
_seconds: dict[str, float] = {}  # an epoch of the last cell that was trained here, by network and images


def _prepare(setting: _Setting) -> None:
    """Set up a process of the pool, which ends with the process that began it."""
    global _setting
    _setting = setting
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that began this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(setting.listing.threads)
    load_plugins(setting.listing.plugins, setting.plugins)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _train(listed: ListedCell) -> str:
    """Train one cell in this process and write its result; a line about it, "" if it was not begun."""
    lock = _setting.folder / "states" / f"{listed.fingerprint}.lock"
    with _locked(lock) as ours:
        if not ours:
            return ""  # another command trains it
        try:
            return "" if _setting.result(listed).exists() else _Training(listed).run()
        except InputError as error:
            return str(error)
        except Exception as error:  # memory that runs out, a full disk, a mistake in a plugin: the other cells go on
            return f"{type(error).__name__}: {first_line(error)}"
        finally:
            # While the cell has no result its lock must stay one file: of two files each could be locked by a command.
            if _setting.result(listed).exists():
                lock.unlink(missing_ok=True)


@contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Lock ``file`` for the block. Yields whether that worked; the lock of a process that dies ends with it."""
    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class _Training:
    """One cell in training: its state, and the records of its epochs, which an earlier call may have left."""

    def __init__(self, listed: ListedCell) -> None:
        self.listed, self.began = listed, time.time()
        self.state = _setting.folder / "states" / f"{listed.fingerprint}.pt"
        self.notes = self.state.with_suffix(".jsonl")
        self.records = _epochs_in(self.notes)
        self.done = checkpoint.epoch(self.state)
        if not self.records.keys() >= set(range(1, self.done + 1)):  # a crash took some of them
            self.state.unlink()
            self.done = 0
        self.kind = json.dumps([listed.cell.model, listed.cell.data, listed.cell.fold], default=list)

    def run(self) -> str:
        """To its end, or until it is seen that there is no time for that."""
        needs = (self.listed.cell.recipe.epochs - self.done) * _seconds.get(self.kind, 0.0)
        if _setting.until is not None and time.time() + needs > _setting.until:
            return ""
        last: Mapping[str, Any] = {}
        seconds: list[float] = []
        times: list[float] = []
        epochs = training.run_epochs(
            self.listed.cell,
            dataset=_setting.dataset,
            device=_setting.device,
            loaders=_setting.listing.loaders,
            score_test=self.listed.cell.fold == "full",
            save_to=self.state,
            save_seconds=SAVE_SECONDS,
        )
        try:
            with open(self.notes, "w") as notes:
                notes.writelines(json.dumps(self.records[epoch]) + "\n" for epoch in range(1, self.done + 1))
                for result in epochs:
                    last = results.content(result)
                    seconds.append(result.seconds)
                    times.append(time.time())
                    record = self._record("epoch", epoch=result.epoch, metrics=results.metrics(last))
                    self.records[result.epoch] = record
                    notes.write(json.dumps(record) + "\n")
                    notes.flush()
                    if result.final:
                        break  # before its last state is saved: nobody will go on from it
                    if late := self._late(times, result.epochs - result.epoch):
                        _save_and_stop(epochs)
                        return late
        except TrainingFailed as error:
            tags = {"outcome": "failed", "reason": f"TrainingFailed: {error}", "retry": "no"}
            self._end({**tags, **results.tags({}, seconds)}, {})
            return str(error)
        except InputError as error:
            if str(self.state) not in str(error):
                raise
            self.state.unlink()  # it is damaged: the training begins anew
            return _Training(self.listed).run()
        tags = {"outcome": "complete", **results.tags(last, seconds)}
        self._end(tags, results.files(last, _setting.dataset.class_names))
        metric = next(name for name in ("test/balanced", "val/balanced", "train/loss") if name in last)
        return f"{metric} {last[metric]:.4f}, epochs of {tags['epoch_seconds']} s"

    def _late(self, times: Sequence[float], left: int) -> str:
        """Why the training must stop, "" if it need not: its second epoch tells how long it will take."""
        if len(times) > 1:  # the first one takes longer
            _seconds[self.kind] = (times[-1] - times[0]) / (len(times) - 1)
        if _setting.until is None:
            return ""
        if times[-1] > _setting.until:
            return f"the time is over, {left} epochs are left; it goes on from there"
        needs = left * _seconds.get(self.kind, 0.0)
        if len(times) == 2 and times[-1] + needs > _setting.until:
            return f"not enough time: it needs {needs / 60:.1f} minutes more"
        return ""

    def _record(self, op: str, **content: Any) -> Record:
        return {"op": op, "key": self.listed.fingerprint, "at": int(1000 * time.time()), **content}

    def _end(self, tags: Mapping[str, str], artifacts: Mapping[str, Any]) -> None:
        """Write the result: the lines that a driver's journal would have had of the cell."""
        listed, listing = self.listed, _setting.listing
        start = self._record("start", name=listed.name, params=dict(listed.params), tags=dict(listed.tags))
        start["at"] = min([int(1000 * self.began), *(record["at"] for record in self.records.values())])
        end = self._record("end", tags={**tags, **_origin()}, artifacts=dict(artifacts))
        records = (start, *(self.records[epoch] for epoch in sorted(self.records)), end)
        about = (listing.content_hash, listing.sources, listing.result_version)
        TrainedCell(listing.study, listed.fingerprint, listed.cell, *about, records).write(_setting.result(listed))
        for file in (self.state, self.notes):
            file.unlink(missing_ok=True)


def _save_and_stop(epochs: Generator[training.EpochResult, bool | None, None]) -> None:
    with contextlib.suppress(StopIteration):
        epochs.send(True)


def _epochs_in(notes: Path) -> dict[int, Record]:
    """The records of the epochs that an earlier call trained."""
    found: dict[int, Record] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # the last line may be cut short
        for line in notes.read_text().splitlines():
            record = json.loads(line)
            found[record["epoch"]] = record
    return found


def _origin() -> dict[str, str]:
    """Tags that say where a cell was trained."""
    place = training.pick_device(_setting.device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
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
    """Train what has no result in ``folder`` yet, ``at_once`` cells at a time, in as many processes.

    ``root`` takes the place of the data section's, ``plugins`` is the folder of the study's plugins. With ``minutes``
    a training starts only if it will end in that time, as far as is known. One that turns out to need longer (its
    second epoch tells) stops, and so does one that still runs when the time is over; both save their state. Prints a
    line for each training. Returns whether every cell of the list has a result and none diverged. Raises InputError
    before anything is trained if the images, the plugins or the device cannot be used.
    """
    setting = _checked(listing, folder, root, plugins, device, minutes)
    if setting is not None:
        left = [one for one in listing.cells if not setting.result(one).exists()]
        context = torch.multiprocessing.get_context("spawn")  # the images are passed as shared memory
        workers = min(at_once, len(left))
        with ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(setting,)) as pool:
            _follow({pool.submit(_train, one): one.name for one in left})
    files = [result_file(folder, one.fingerprint) for one in listing.cells]
    missing = sum(not file.exists() for file in files)
    if missing:
        print(f"{missing} of {len(files)} cells have no result yet; the same command goes on with them")
    return not missing and not any(TrainedCell.read(file).failed for file in files)


def _follow(futures: Mapping[Future[str], str]) -> None:
    """Print what becomes of the trainings, by name, until all have ended."""
    try:
        for count, future in enumerate(as_completed(futures), 1):
            if line := future.result():
                print(f"{count}/{len(futures)}  {futures[future]}: {printable(line)}", flush=True)
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise _Died(
                "a training's process died, perhaps for want of memory; what has ended is kept. Begin again, with a "
                "smaller --at-once if need be"
            ) from None
        raise


class _Died(Exception):
    """A process of the pool ended without a word."""


def _checked(
    listing: Listing, folder: Path, root: str | None, plugins: Path, device: str, minutes: float | None
) -> _Setting | None:
    """What the trainings need, checked; None if every cell has a result."""
    until = None if minutes is None else time.time() + 60 * minutes
    if (folder / LISTED).exists() and (before := Listing.read(folder / LISTED).study) != listing.study:
        raise InputError(f"{folder}: found results of the study {before}; give those of {listing.study} another folder")
    try:
        sources = load_plugins(listing.plugins, plugins.resolve())
    except InputError as error:
        raise InputError(f"{error}; --plugins names the folder of the study's plugins") from None
    if changed := differences(sources, listing.sources):
        raise InputError(
            f"plugins: {', '.join(changed)}: found other code than the list of cells was made with; copy the study's "
            "plugins here, and name their folder with --plugins"
        )
    have = sum(result_file(folder, one.fingerprint).exists() for one in listing.cells)
    print(f"{listing.study}: {len(listing.cells)} cells, {have} have a result in {folder}", flush=True)
    if have == len(listing.cells):
        return None
    training.pick_device(device)
    dataset = _images(listing, root)
    (folder / "states").mkdir(parents=True, exist_ok=True)
    listing.write(folder / LISTED)
    return _Setting(listing, dataset, folder, plugins.resolve(), device, until)


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
    """The command line; its exit code.

    0: every cell has a result, and none diverged. 1: not so. 2: a mistake of the user. 130: Ctrl-C.
    """
    parser = argparse.ArgumentParser("python -m tune_lt.training.cells", description=__doc__.splitlines()[0])
    parser.add_argument("cells", type=Path, help="the list that tune-lt cells wrote")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="a file for each cell goes here")
    parser.add_argument("--data", metavar="ROOT", help="where the images are here; else where the study has them")
    parser.add_argument("--plugins", type=Path, default=Path(), metavar="DIR", help="where the study's plugins are")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--at-once", type=_count, default=1, metavar="N", help="trainings at the same time")
    parser.add_argument("--minutes", type=_minutes, help="start only what will end in this time")
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
    except OSError as error:
        place = error.filename or options.results  # a full disk names no file
        print(f"error: {printable(str(place))}: {error.strerror}", file=sys.stderr)
        return 2
    except _Died as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what has ended is kept, the same command goes on", file=sys.stderr)
        return 130
    return 0 if whole else 1


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}; valid: 1 or more")
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"found {text}; valid: above 0")
    return value


if __name__ == "__main__":
    from tune_lt.training.cells import main as imported  # so that processes find the functions by this name

    sys.exit(imported())
