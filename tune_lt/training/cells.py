"""Train a study's cells on a machine that has neither Ray nor MLflow, and take the results home.

    tune-lt cells STUDY > cells.json                                       # at home: list the cells to train
    python -m tune_lt.training.cells cells.json --results DIR              # on the other machine: train them
    tune-lt import DIR --store URI                                         # at home: record the results in MLflow

The other machine needs this package's code, the images, torch, torchvision, numpy, Pillow, scipy and annotated-types.
The command writes one file into DIR for each cell that has ended, completely or not at all, and does not train a cell
again whose file is there. It saves the state of a training in progress, from which the same command goes on. Two
commands may share a DIR, for example one for each GPU.
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
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tune_lt import data, provenance, training
from tune_lt.errors import InputError, TrainingFailed, printable
from tune_lt.plugins import load_plugins, sources
from tune_lt.process import run, stoppable
from tune_lt.texts import first_line
from tune_lt.training import checkpoint, results
from tune_lt.training.exchange import LISTED, ListedCell, Listing, Record, TrainedCell, result_file
from tune_lt.training.identity import used

SAVE_SECONDS = 60.0  # between two saved states of a training: at most this much and one epoch is lost if it is killed


@dataclass(frozen=True)
class _Setting:
    """What all trainings of one command share. ``until``: when the last must have ended, by `time.time`, or None."""

    listing: Listing
    dataset: data.Dataset
    folder: Path
    plugins: Path
    device: str
    until: float | None

    def result(self, listed: ListedCell) -> Path:
        return result_file(self.folder, listed.fingerprint)


_setting: _Setting  # set in each process of the pool
_seconds: dict[str, float] = {}  # network and images -> seconds of an epoch, of the last such training in this process


def _prepare(setting: _Setting) -> None:
    """Set up a process of the pool. It ends when the command that started it ends, however that happens."""
    global _setting
    _setting = setting
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command as well, which then ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(setting.listing.threads)
    load_plugins(setting.listing.plugins, setting.plugins)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _train(listed: ListedCell) -> str:
    """Train one cell in this process and write its result. Returns a line about it, "" if it did not begin."""
    lock = _setting.folder / "states" / f"{listed.fingerprint}.lock"
    with _locked(lock) as ours:
        if not ours:
            return ""  # another command trains this cell
        try:
            return "" if _setting.result(listed).exists() else _Training(listed).run()
        except InputError as error:
            return str(error)
        except Exception as error:  # no memory, a full disk, a mistake in a plugin: train the other cells
            return f"{type(error).__name__}: {first_line(error)}"
        finally:
            # Keep the lock file until there is a result: two commands could each lock a file of their own otherwise.
            if _setting.result(listed).exists():
                lock.unlink(missing_ok=True)


@contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Lock ``file`` for the block, unless another process has; yields whether it did. A lock ends with its process."""
    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class _Training:
    """One cell in training. The files of its state and of its epochs' records may come from an earlier command."""

    def __init__(self, listed: ListedCell) -> None:
        self.listed, self.began = listed, time.time()
        self.state = _setting.folder / "states" / f"{listed.fingerprint}.pt"
        self.notes = self.state.with_suffix(".jsonl")
        self.records = _epochs_in(self.notes)
        self.done = checkpoint.epoch(self.state)
        if not self.records.keys() >= set(range(1, self.done + 1)):  # a crash lost some of them
            self.state.unlink()
            self.done = 0
        self.kind = json.dumps([listed.cell.model, listed.cell.data, listed.cell.fold], default=list)

    def run(self) -> str:
        """Train to the end and write the result, or stop early for want of time. Returns a line about it."""
        needs = (self.listed.cell.recipe.epochs - self.done) * _seconds.get(self.kind, 0.0)
        if _setting.until is not None and time.time() + needs > _setting.until:
            return ""
        last: Mapping[str, Any] = {}
        seconds: list[float] = []
        ends: list[float] = []
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
                    ends.append(time.time())
                    record = self._record("epoch", epoch=result.epoch, metrics=results.metrics(last))
                    self.records[result.epoch] = record
                    notes.write(json.dumps(record) + "\n")
                    notes.flush()
                    if result.final:
                        break  # without a last state, which nothing would go on from
                    if late := self._late(ends, result.epochs - result.epoch):
                        with contextlib.suppress(StopIteration):
                            epochs.send(True)  # save the state and stop
                        return late
        except TrainingFailed as error:
            tags = {"outcome": "failed", "reason": f"TrainingFailed: {error}", "retry": "no"}
            self._end({**tags, **results.tags({}, seconds)}, {})
            return str(error)
        except InputError as error:
            if str(self.state) not in str(error):
                raise
            self.state.unlink()  # it cannot be used: begin anew
            return _Training(self.listed).run()
        tags = {"outcome": "complete", **results.tags(last, seconds)}
        self._end(tags, results.files(last, _setting.dataset.class_names))
        metric = next(name for name in ("test/balanced", "val/balanced", "train/loss") if name in last)
        return f"{metric} {last[metric]:.4f}, epochs of {tags['epoch_seconds']} s"

    def _late(self, ends: Sequence[float], left: int) -> str:
        """Why the training must stop with ``left`` epochs to go, or "". ``ends``: when its epochs ended so far.

        The second epoch decides whether there is enough time, because the first one takes longer than the others.
        """
        if len(ends) > 1:
            _seconds[self.kind] = (ends[-1] - ends[0]) / (len(ends) - 1)
        if _setting.until is None:
            return ""
        if ends[-1] > _setting.until:
            return f"the time is over, {left} epochs are left; the same command goes on with them"
        needs = left * _seconds.get(self.kind, 0.0)
        if len(ends) == 2 and ends[-1] + needs > _setting.until:
            return f"not enough time: it needs {needs / 60:.1f} minutes more"
        return ""

    def _record(self, op: str, **content: Any) -> Record:
        return {"op": op, "key": self.listed.fingerprint, "at": int(1000 * time.time()), **content}

    def _end(self, tags: Mapping[str, str], artifacts: Mapping[str, Any]) -> None:
        """Write the result, with the records that a driver's journal would have, and remove the state."""
        listed, listing = self.listed, _setting.listing
        start = self._record("start", name=listed.name, params=dict(listed.params), tags=dict(listed.tags))
        start["at"] = min([int(1000 * self.began), *(record["at"] for record in self.records.values())])
        end = self._record("end", tags={**tags, **_origin()}, artifacts=dict(artifacts))
        records = (start, *(self.records[epoch] for epoch in sorted(self.records)), end)
        about = (listing.images, listing.sources, listing.result_version)
        TrainedCell(listing.study, listed.fingerprint, listed.cell, *about, records).write(_setting.result(listed))
        for file in (self.state, self.notes):
            file.unlink(missing_ok=True)


def _epochs_in(notes: Path) -> dict[int, Record]:
    """Epoch -> record, of the epochs that earlier commands trained."""
    found: dict[int, Record] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # a crash may have cut the last line short
        for line in notes.read_text().splitlines():
            record = json.loads(line)
            found[record["epoch"]] = record
    return found


def _origin() -> dict[str, str]:
    """Tags that tell with which code and on which device a cell was trained."""
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
    """Train the cells that have no result in ``folder`` yet, ``at_once`` at a time in as many processes.

    ``root``: where the images are, if not where the study says; ``plugins``: the folder of the study's plugins.
    ``minutes``: a training begins only if it will end in this time, as far as is known. One that turns out to need more
    time (after its second epoch), or that still runs when the time is over, saves its state and stops. Prints a line
    for each training.

    Returns whether every cell of the list has a result and none diverged. Raises InputError before it trains anything
    if the images, the plugins or the device cannot be used, BrokenProcessPool if a process dies.
    """
    until = None if minutes is None else time.time() + 60 * minutes
    if (folder / LISTED).exists() and (before := Listing.read(folder / LISTED).study) != listing.study:
        raise InputError(f"{folder}: found results of the study {before}; give those of {listing.study} another folder")
    _check_plugins(listing, plugins)
    files = [result_file(folder, one.fingerprint) for one in listing.cells]
    left = [one for one, file in zip(listing.cells, files, strict=True) if not file.exists()]
    print(f"{listing.study}: {len(files)} cells, {len(files) - len(left)} have a result in {folder}", flush=True)
    if left:
        training.pick_device(device)
        dataset = _images(listing, root)
        (folder / "states").mkdir(parents=True, exist_ok=True)
        listing.write(folder / LISTED)
        _train_all(left, _Setting(listing, dataset, folder, plugins.resolve(), device, until), at_once)
    missing = sum(not file.exists() for file in files)
    if missing:
        print(f"{missing} of {len(files)} cells have no result yet; the same command goes on with them")
    return not missing and not any(TrainedCell.read(file).failed for file in files)


def _check_plugins(listing: Listing, folder: Path) -> None:
    """Import the study's plugins. Raises InputError if that fails, or if they are not those of the list."""
    try:
        load_plugins(listing.plugins, folder.resolve())
        here = sources(listing.plugins, listing.plugin_files, folder.resolve())
        for cell in (one.cell for one in listing.cells):
            here |= used(cell.data, cell.model, cell.loss, here)
    except InputError as error:
        raise InputError(f"{error}; --plugins names the folder of the study's plugins") from None
    if changed := {name for name, _ in here.items() ^ listing.sources.items()}:
        raise InputError(
            f"plugins: {', '.join(sorted(changed))}: found other code or weights than the list of cells was made with; "
            "copy the study's plugins here, and name their folder with --plugins"
        )


def _images(listing: Listing, root: str | None) -> data.Dataset:
    """The images of the study. Raises InputError if they are not those that the list was made with."""
    cell = listing.cells[0].cell
    if root is not None:
        cell = dataclasses.replace(cell, data={**cell.data, "root": root})
    dataset = training.load_dataset(cell)
    if dataset.hashes != listing.images:
        hashes = f"{dataset.content_hash[:12]} here, {listing.images.whole[:12]} there"
        raise InputError(
            f"{cell.data.get('root', cell.data['name'])}: found other images than those of the list of cells (hashes: "
            f"{hashes}); copy the same files here; where they are the same, Pillow decodes them differently"
        )
    return dataset


def _train_all(cells: Sequence[ListedCell], setting: _Setting, at_once: int) -> None:
    """Train the cells in a pool of processes, and print a line for each."""
    context = torch.multiprocessing.get_context("spawn")  # it passes the images as shared memory
    workers = min(at_once, len(cells))
    with ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(setting,)) as pool:
        futures = {pool.submit(_train, one): one.name for one in cells}
        try:
            for count, future in enumerate(as_completed(futures), 1):
                if line := future.result():
                    print(f"{count}/{len(futures)}  {futures[future]}: {printable(line)}", flush=True)
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit code: 0 if every cell has a result and none diverged, else 1.

    Raises InputError for a mistake of the user, TrainingFailed if a process died.
    """
    parser = argparse.ArgumentParser("python -m tune_lt.training.cells", description=__doc__.splitlines()[0])
    parser.add_argument("cells", type=Path, help="the list that tune-lt cells wrote")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="a file for each cell goes here")
    parser.add_argument("--data", metavar="ROOT", help="where the images are here; else where the study has them")
    parser.add_argument("--plugins", type=Path, default=Path(), metavar="DIR", help="where the study's plugins are")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="trainings at the same time")
    parser.add_argument("--minutes", type=float, help="begin only trainings that will end in this time")
    options = parser.parse_args(arguments)
    if options.at_once < 1:
        parser.error(f"--at-once: found {options.at_once}; valid: 1 or more")
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes: found {options.minutes}; valid: above 0")
    try:
        with stoppable("stopped; what has ended is kept, the same command goes on"):
            whole = train(
                Listing.read(options.cells),
                options.results,
                root=options.data,
                plugins=options.plugins,
                device=options.device,
                at_once=options.at_once,
                minutes=options.minutes,
            )
    except OSError as error:
        place = error.filename or options.results  # a full disk names no file
        raise InputError(f"{place}: {error.strerror}") from None
    except BrokenProcessPool:
        raise TrainingFailed(
            "a training's process died, perhaps for want of memory; the results so far are kept; give the command "
            "again, perhaps with a smaller --at-once"
        ) from None
    return 0 if whole else 1


if __name__ == "__main__":
    from tune_lt.training.cells import main as imported  # the pool's processes import the functions from there

    run(imported)
