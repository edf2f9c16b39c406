"""Running a whole study in one process and one Ray session: the searches first, then the cells of the tables."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from tune_lt import data, provenance
from tune_lt.errors import InputError
from tune_lt.run.display import Display
from tune_lt.run.failures import Failure
from tune_lt.run.planner import Model, found_by, parent_tags
from tune_lt.run.rehearsal import load_data, rehearse
from tune_lt.run.runner import Runner
from tune_lt.run.shared_folder import check_shared, checkpoint_folder
from tune_lt.store import TAG, Store
from tune_lt.store.journal import PATIENCE_SECONDS, Journal
from tune_lt.store.lease import Lease
from tune_lt.study import Search, Study

OBJECT_STORE_BYTES = 200 * 2**20  # of Ray, in addition to the images
ROOM_BYTES = 200 * 2**20  # that must be free on the disk for the store, the journal and checkpoints


@dataclass(frozen=True)
class Outcome:
    """How a study ended: what failed, the network of the row it recommends, and whether there is anything to report."""

    failures: tuple[Failure, ...]
    model: Model | None
    reported: bool

    @property
    def whole(self) -> bool:
        """Whether every search found something and every row has all its cells."""
        return all(failure.harmless for failure in self.failures)


def run_study(study: Study, store: Store, display: Display) -> Outcome:
    """Carry out the searches, train the missing cells of the tables, and record everything in the store.

    Trials and cells that an earlier run finished are not trained again. Raises InputError if the study cannot be
    carried out, KeyboardInterrupt if the user stopped it.
    """
    if not study.searches and not study.rows:
        raise InputError(
            f"the study {study.name!r} has neither a search nor rows; train its one network with tune-lt train"
        )
    folder = store.state_folder(study.name)
    checkpoints = checkpoint_folder(study, store)
    _check_room(folder)
    _check_room(checkpoints)
    store.client.patience = PATIENCE_SECONDS
    dataset = load_data(study)
    for line in rehearse(study, dataset):
        display.say(line)
    parent = store.ensure_parent(study.name)
    lease = Lease(store, parent)
    status = "FAILED"
    model = None
    try:
        finished, before = store.snapshot(study.name)
        runs = before.runs_by_key()
        journal = Journal(store, study.name, parent, folder, say=display.say, beat=lease.renew, runs=runs)
        try:
            journal.drain()  # send what a killed driver had not sent yet
            orphans = store.interrupt_running(study.name)
            for file in (*checkpoints.glob("*.json"), *checkpoints.glob("*.[0-9]*")):
                file.unlink()  # scores of units of a killed driver's trials: the store has them by now
            if journal.inherited or orphans:
                finished, before = store.snapshot(study.name)
            if orphans:
                display.say(f"{orphans} runs of a driver that died; those that the study still needs are continued")
            store.begin(parent, study.text, {**parent_tags(study), **_where(checkpoints)})
            _show(store, study)
            with _ray_session(display, dataset, checkpoints):
                runner = Runner(study, store, display, dataset, parent, journal, lease, finished, before)
                searched = {name: runner.search(space) for name, space in study.searches.items()}
                results = {name: result for name, result in searched.items() if result is not None}
                found = found_by(*results.values())
                cells, missing = runner.plan.settled(found)
                chosen = runner.plan.recommended(results, cells)
                runner.train(cells, runner.plan.contents(cells, found, chosen, missing))
                if chosen:
                    model = runner.model(next(cell for cell in cells if cell.fingerprint == chosen.fingerprint))
            outcome = Outcome(tuple(runner.failures), model, bool(results or cells))
            status = "FINISHED" if outcome.whole else "FAILED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            journal.close()
    finally:
        if not lease.lost:
            _leave(store, parent, status, lease)
    return outcome


def _leave(store: Store, parent: str, status: str, lease: Lease) -> None:
    """Mark the study's run as ended and release the lease. An error of the store must not hide the study's own."""
    try:
        store.finish(parent, status)
        lease.release()
    except Exception:
        logging.getLogger(__name__).debug("the store did not take the study's end", exc_info=True)


def _where(checkpoints: Path) -> dict[str, str]:
    return {f"{TAG}git": provenance.git_commit(), f"{TAG}checkpoints": str(checkpoints)}


def _show(store: Store, study: Study) -> None:
    """Make the searched parameters columns in MLflow's UI, and sort trials by the first search's objective."""
    spaces = list(study.searches.values())
    search = spaces[0].search if spaces else Search()
    searched = dict.fromkeys(path for space in spaces for path in space.space)
    store.show(study.name, list(searched), search.objectives[0])


def _check_room(folder: Path) -> None:
    """Raise InputError if the folder cannot be written to or its disk is nearly full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}); the study's journal and checkpoints go there"
        ) from None
    for place in (folder, Path(tempfile.gettempdir())):
        free = shutil.disk_usage(place).free
        if free < ROOM_BYTES:
            raise InputError(f"{place}: {free / 2**20:.0f} MiB free on the disk; {ROOM_BYTES / 2**20:.0f} are needed")


@contextmanager
def _ray_session(display: Display, dataset: data.Dataset, checkpoints: Path) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine; end the session after the block.

    Raises InputError if Ray cannot be used, or if a node of the cluster does not see the folder ``checkpoints``.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"RAY_ADDRESS: found {address}, a dashboard; valid: the cluster's own address, host:6379 or auto on one of "
            f"its hosts; from elsewhere: tune-lt submit STUDY --address {address}"
        )
    display.say("starting Ray ..." if address == "local" else f"connecting to Ray at {address} ...")
    images = dataset.train_images.nbytes + dataset.test_images.nbytes
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES + 2 * images}
    for noisy in ("ray.tune", "ray.tune.tuner", "ray._private", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(own if address == "local" else {}))
    except Exception as error:
        raise InputError(f"Ray cannot be used at {address}: {type(error).__name__}: {error}") from None
    try:
        check_shared(checkpoints)
        yield
    finally:
        ray.shutdown()
