"""Running a whole study in one process and one Ray session: the searches first, then the cells of the tables."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from tune_lt import provenance
from tune_lt.documents import BASIS
from tune_lt.errors import InputError
from tune_lt.run.basis import basis_of, changes, recorded_basis
from tune_lt.run.display import Display
from tune_lt.run.failures import Failure
from tune_lt.run.planner import Model, found_by, parent_tags
from tune_lt.run.ray_session import address, ray_session
from tune_lt.run.rehearsal import check_memory, load_data, rehearse
from tune_lt.run.room import check_folders
from tune_lt.run.runner import Runner
from tune_lt.run.shared_folder import checkpoint_folder
from tune_lt.store import TAG, Store, own_tags
from tune_lt.store.journal import PATIENCE_SECONDS, Journal
from tune_lt.store.lease import Lease
from tune_lt.study import Search, Study

STOP_SECONDS = 3.0  # for the last records of a study that is stopped


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
    at = address()
    folder = store.state_folder(study.name)
    checkpoints = checkpoint_folder(study, store)
    check_folders(folder, checkpoints)
    store.client.patience = PATIENCE_SECONDS
    dataset = load_data(study)
    _check_images(study, store, dataset.content_hash)
    for line in rehearse(study, dataset):
        display.say(line)
    check_memory(study, dataset)
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
            journal.deleted.clear()  # what was deleted before is trained and recorded anew
            orphans = store.interrupt_running(study.name)
            # of a killed driver's trials: scores of units, which the store has by now, and half-written states
            for file in {file for left in ("*.json", "*.[0-9]*", ".*.pt.*") for file in checkpoints.glob(left)}:
                file.unlink(missing_ok=True)
            if journal.inherited or orphans:
                finished, before = store.snapshot(study.name)
            if orphans:
                display.say(f"{orphans} runs of a driver that died; those that the study still needs are continued")
            store.begin(parent, study.text, {**parent_tags(study, dataset.content_hash), **_where(checkpoints)})
            basis, earlier = basis_of(study, dataset), recorded_basis(store, study.name)
            for line in changes(earlier, basis):
                display.say(line)
            if earlier is None:
                store.log_json(parent, BASIS, basis.content())
            _show(store, study)
            display.say("starting Ray ..." if at == "local" else f"connecting to Ray at {at} ...")
            images = dataset.train_images.nbytes + dataset.test_images.nbytes
            with ray_session(at, images, checkpoints):
                runner = Runner(study, store, display, dataset, parent, journal, lease, finished, before)
                searched = {name: runner.search(space) for name, space in study.searches.items()}
                results = {name: result for name, result in searched.items() if result is not None}
                found = found_by(*results.values())
                cells, missing = runner.plan.settled(found)
                chosen = runner.plan.recommended(results, cells)
                runner.train(cells, runner.plan.contents(cells, found, chosen, missing))
                if chosen:
                    model = runner.model(next(cell for cell in cells if cell.fingerprint == chosen.fingerprint))
            runner.clear()
            journal.close()
            if basis != earlier:
                store.log_json(parent, BASIS, basis.content())
            if journal.deleted:
                text = f"{len(journal.deleted)} runs were deleted in MLflow while the study ran"
                runner.failures.append(Failure(text, again=True))
            outcome = Outcome(tuple(runner.failures), model, bool(results or cells))
            status = "FINISHED" if outcome.whole else "FAILED"
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            _close(store, journal, display)
            raise
    finally:
        if not lease.lost:
            _leave(store, parent, status, lease)
    return outcome


def _close(store: Store, journal: Journal, display: Display) -> None:
    """Send what the journal of a study that stops still has, without waiting long: the next run sends the rest."""
    store.client.patience = STOP_SECONDS
    try:
        journal.close(STOP_SECONDS)
    except InputError as unsent:
        display.say(str(unsent))


def _check_images(study: Study, store: Store, content_hash: str) -> None:
    """Raise InputError if the store has a study of this name on another data set.

    That is one with another name, or from another folder and with other images: a folder may be moved, and its images
    may change, but not both at once.
    """
    recorded = store.parent(study.name)
    if recorded is None or study.replace:
        return
    now = {tag.removeprefix(TAG): value for tag, value in parent_tags(study, content_hash).items()}
    before = own_tags(recorded)
    differs = {tag for tag in ("dataset", "root", "images") if before.get(tag, now.get(tag)) != now.get(tag)}
    if "dataset" in differs or {"root", "images"} <= differs:
        found, there = (" ".join(filter(None, (tags["dataset"], tags.get("root")))) for tags in (now, before))
        raise InputError(
            f"data: found {found}; the store {store.shown} has a study {study.name!r} of another data set, {there}; "
            "valid: another name for this study, or replace: true if it is to take over that one's reports and model"
        )


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
