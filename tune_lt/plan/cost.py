"""What a plan will cost: from comparable past runs of the store, else from a few timed training steps.

Everything is measured per training image, so that cells with and without a hold-out can be compared; intervals are
about 95 %, on a log scale. Nothing here writes to a store or a disk.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats

from tune_lt import data, training
from tune_lt.config import CellConfig, fold_of, long_tail, renamed
from tune_lt.errors import InputError
from tune_lt.run import planner
from tune_lt.run.search.past import past_trials
from tune_lt.run.search.schedulers import milestones
from tune_lt.store import CellRecord, Cells, Store, own_tags
from tune_lt.study import Resources, Study, flattened
from tune_lt.training import loop
from tune_lt.training.results import peak_memory
from tune_lt.training.step import WARM_UP, RecordedStep

EVALUATION_SHARE = 1 / 3  # of a training step: the forward pass without the backward one, which is twice as much
PRIOR_SPREAD, PRIOR_RUNS = 0.1, 3  # what is supposed of runs before any is seen: 10 %, as if from this many
LATEST_RUNS = 50
WHERE = ("data/root", "data/download")  # where the images lie costs nothing
WARM_UP_STEPS, PROBE_STEPS, LEAST_STEPS, PROBE_SECONDS = 2, 20, 3, 2.0
PROBE_FACTOR = 1.3  # what few steps on an idle machine can be off by at least
STARTUP_SECONDS = 15.0  # Ray, and the libraries in its workers: once a run, not a trial


@dataclass(frozen=True)
class Interval:
    """A positive quantity: what is expected, and the ends between which it should lie."""

    mean: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Multiplied by a known number."""
        return Interval(self.mean * factor, self.low * factor, self.high * factor)

    def __add__(self, other: Interval) -> Interval:
        """The sum where both are off together, as on one machine: the ends add up."""
        return Interval(self.mean + other.mean, self.low + other.low, self.high + other.high)

    def of(self, other: Interval) -> Interval:
        """The product where both are off independently: logarithms of the factors add as squares.

        Interval(2, 1, 4).of(Interval(3, 3, 3)) is 6 (3 to 12); doubts of a factor 2 twice give 2 ** sqrt(2) = 2.67.
        """
        mean = self.mean * other.mean
        if mean == 0:
            return Interval(0.0, 0.0, 0.0)
        down, up = (
            math.hypot(*(math.log(end / one.mean) for end, one in pairs))
            for pairs in (((self.low, self), (other.low, other)), ((self.high, self), (other.high, other)))
        )
        return Interval(mean, mean * math.exp(-down), mean * math.exp(up))


@dataclass(frozen=True)
class Pace:
    """How fast one kind of cell trains.

    ``image``: seconds a training image; ``share``: the part of that which scoring an image takes; ``memory`` in bytes,
    None if not known. Measured on ``runs`` past runs, or on ``steps`` steps of a probe here.
    """

    image: Interval
    share: float
    memory: int | None
    runs: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Work:
    """Cells of one kind that are to be trained: ``phase`` is search or tables, ``epochs`` those of all together."""

    phase: str
    cell: CellConfig
    cells: int
    epochs: Interval


@dataclass(frozen=True)
class Estimate:
    """The cost of what is to do. ``hours`` are those of trials; times ``cpus`` or ``gpus`` they are CPU- or GPU-hours.

    ``wall_seconds``: on this machine, with ``at_once`` trials at a time. ``memory_bytes``: the peak of one trial's
    process: with past runs the largest among them, else that of this process once it has trained and scored some of the
    cell's batches; it has the same images in it, and more libraries. ``seconds_per_epoch``: of the first kind of cell
    that is to be trained.
    """

    hours: Interval
    wall_seconds: Interval
    at_once: int
    cpus: float
    gpus: float
    seconds_per_epoch: Interval
    memory_bytes: int | None
    source: str


@dataclass(frozen=True)
class Outlook:
    """What is done of a study and what is not. ``found``: what its searches found, those missing that have not ended.

    ``cells`` are those of the tables (where nothing is found yet, with placeholders), ``cells_done`` how many of them
    are trained; ``trials_done`` how many trials of each search have ended. ``records``: past runs to estimate from.
    """

    found: dict[str, dict[str, Any]]
    trials_done: dict[str, int]
    cells: list[planner.PlannedCell]
    cells_done: int
    work: list[Work]
    records: list[CellRecord]


def outlook(study: Study, store: Store | None, content_hash: str) -> Outlook:
    """Look up what ``store`` has of the study; None is a store that is not there yet."""
    parent = store.parent(study.name) if store else None
    have, before = store.snapshot(study.name) if store else ({}, Cells())
    hopeless = before.hopeless()
    found: dict[str, dict[str, Any]] = {}
    ended: dict[str, int] = {}
    work: list[Work] = []
    for name, space in study.searches.items():
        search = space.search
        concluded = None
        if store and parent:
            concluded = planner.recorded_search(study, space, store, parent.info.run_id, content_hash)
            signature = study.search_signature(space, content_hash)
            past = past_trials(store, before, own_tags(parent), signature, search.objectives[0])
            ended[name] = sum(trial.outcome != "running" and trial.number < search.budget for trial in past)
        if concluded is not None:
            found |= planner.found_by(concluded)
            ended[name] = search.budget
            continue
        units = planner.trial_cells(study, space, planner.at_end(space, 0))
        left = search.budget - ended.setdefault(name, 0)
        epochs = search_epochs(left, study.recipe.epochs, milestones(search, study.recipe.epochs))
        further = float(left * study.recipe.epochs * (len(units) - 1))  # of the units after the first
        least = further if search.scheduler == "none" else 0.0
        epochs += Interval(max(least, further * (epochs.mean / epochs.high if left else 1)), least, further)
        work.append(Work("search", units[0], left, epochs))
        if search.constraints:
            reference = planner.Planner(study, content_hash, {}).reference(space)
            missing_ones = [planned.cell for planned in reference if planned.fingerprint not in have]
            exact = Interval(*[float(len(missing_ones) * study.recipe.epochs)] * 3)
            work += [Work("search", missing_ones[0], len(missing_ones), exact)] if missing_ones else []
    pairs = planner.cells_at_both_ends(study, found, content_hash)
    known = {cell.fingerprint for cell, other in pairs if cell.fingerprint == other.fingerprint}
    settled = known & (have.keys() | hopeless.keys())
    missing = {
        (cell.fingerprint, other.fingerprint): cell.cell for cell, other in pairs if cell.fingerprint not in settled
    }
    alike: dict[tuple[str, int], list[CellConfig]] = {}
    for cell in missing.values():
        alike.setdefault((_kind(cell), cell.recipe.epochs), []).append(cell)
    for (_, length), group in alike.items():
        work.append(Work("tables", group[0], len(group), Interval(*[float(length * len(group))] * 3)))
    cells = [cell for cell, _ in pairs]
    done = sum(cell.fingerprint in known & have.keys() for cell in cells)
    return Outlook(found, ended, cells, done, work, [*have.values()])


def estimate(study: Study, dataset: data.Dataset, seen: Outlook) -> Estimate | None:
    """The cost of what is to do; None where it needs a GPU, no past run tells, and there is none here to try.

    Raises InputError for a cell that cannot be trained.
    """
    gpus = study.resources.gpus if study.resources.gpus is not None else float(torch.cuda.is_available())
    device, at_once = "cuda" if gpus else "cpu", slots(study.resources, gpus)
    paces: dict[str, Pace] = {}
    first = seconds = wall = Interval(0.0, 0.0, 0.0)
    for item in seen.work:
        kind = _kind(item.cell)
        if kind not in paces:
            records = comparable(seen.records, item.cell, device)
            if not records and gpus and not torch.cuda.is_available():
                return None
            threads = max(1, int(study.resources.cpus))
            paces[kind] = (
                from_runs(records, item.cell, dataset)
                if records
                else probe(item.cell, dataset, threads=threads, device=device, loaders=study.resources.readers)
            )
        trained, scored = images(item.cell, dataset)
        epoch = paces[kind].image.times(trained + paces[kind].share * scored)
        first = first if first.mean else epoch
        cost = epoch.of(item.epochs)
        if item.cell.fold == "full":  # after its last epoch: the sealed test, and the gradient norms of what it saw
            test = len(data.test_index(dataset, item.cell.data.get("sealed")))
            last = paces[kind].share * (test + trained) * item.cells
            cost += paces[kind].image.times(last)
        cells = sum(other.cells for other in seen.work if other.phase == item.phase)
        seconds, wall = seconds + cost, wall + cost.times(1 / min(at_once, cells))
    if paces:
        wall += Interval(*[STARTUP_SECONDS] * 3)
    memory = [pace.memory for pace in paces.values() if pace.memory is not None]
    runs, steps = (sum(getattr(pace, what) for pace in paces.values()) for what in ("runs", "steps"))
    sources = [f"{runs} past run{'s' if runs > 1 else ''} on this store"] * (runs > 0)
    sources += [f"a timed probe of {steps} steps on this machine"] * (steps > 0)
    return Estimate(
        seconds.times(1 / 3600), wall, at_once, study.resources.cpus * study.resources.workers,
        gpus * study.resources.workers, first, max(memory, default=None),
        " and ".join(sources) or "nothing: all is done",
    )  # fmt: skip


def _kind(cell: CellConfig) -> str:
    return json.dumps([dict(cell.data), dict(cell.model), cell.recipe.batch_size, cell.recipe.precision])


def slots(resources: Resources, gpus: float) -> int:
    """How many trials run at once on this machine: as many as fit, at least one, at most what the study wants."""
    rooms = [(os.cpu_count() or 1) / resources.cpus] + ([torch.cuda.device_count() / gpus] if gpus else [])
    rooms = [room / resources.workers for room in rooms]
    room = max(1, int(min(rooms)))
    return min(room, resources.concurrent or room)


def search_epochs(trials: int, epochs: int, judged_at: Sequence[int]) -> Interval:
    """The epochs of a search whose scheduler stops the worse half of the trials after each epoch in ``judged_at``.

    16 trials of at most 40 epochs, judged at 10 and 20: 16 * 10 + 8 * 10 + 4 * 20 = 320 if half are stopped each time,
    160 if all are stopped at the first, 640 if none ever is.
    """
    ends = [*judged_at, epochs]
    halving = sum((end - begin) / 2**k for k, (begin, end) in enumerate(itertools.pairwise([0, *ends])))
    return Interval(trials * halving, float(trials * ends[0]), float(trials * epochs))


def spread(values: Sequence[float]) -> Interval:
    """The geometric mean of positive ``values`` with the 95 % prediction interval of another one.

    The standard deviation of their logarithms is pooled with a prior of 0.1 worth 3 runs, so that a single value has
    an interval (times and over exp(3.18 * 0.1 * sqrt(2)) = 1.57) and two that happen to agree do not pretend too much.
    """
    logs = [math.log(value) for value in values]
    freedom = len(logs) - 1 + PRIOR_RUNS
    squares = statistics.variance(logs) * (len(logs) - 1) if len(logs) > 1 else 0.0
    deviation = math.sqrt((squares + PRIOR_RUNS * PRIOR_SPREAD**2) / freedom)
    off = float(stats.t.ppf(0.975, freedom)) * deviation * math.sqrt(1 + 1 / len(logs))
    mean = math.exp(statistics.fmean(logs))
    return Interval(mean, mean * math.exp(-off), mean * math.exp(off))


def images(cell: CellConfig, dataset: data.Dataset, *, fold: str | None = None) -> tuple[int, int]:
    """How many images an epoch of the cell trains on, and how many it then scores; ``fold`` instead of its own."""
    fold = fold or cell.fold
    split = data.cell_data(
        dataset,
        **long_tail(cell.data),
        data_seed=cell.data_seed,
        holdout=cell.holdout if fold == "holdout" else None,
        fold=fold_of(fold),
    )
    return len(split.train_index), 0 if split.val_index is None else len(split.val_index)


def comparable(records: Iterable[CellRecord], cell: CellConfig, device: str) -> list[CellRecord]:
    """The latest past runs that trained on the same images with the same network, batches and type of device.

    Losses and learning rates may differ: beside the network they cost little. Any kind of fold will do.
    """
    recipe = {"batch_size": cell.recipe.batch_size, "precision": cell.recipe.precision}
    content = flattened({"data": dict(cell.data), "model": dict(cell.model), "recipe": recipe})
    wanted = {path: str(value) for path, value in content.items() if path not in WHERE}

    def fits(record: CellRecord) -> bool:
        params = renamed(record.params, "data/")
        own = {path: value for path, value in params.items() if path in wanted or path[:5] in ("data/", "model")}
        own = {path: value for path, value in own.items() if path not in WHERE}
        kind = record.tags.get("device", "").split(":")[0]
        return own == wanted and kind == device and _is_fold(record.tags.get("fold", ""))

    found = [record for record in records if float(record.tags.get("epoch_seconds", 0)) > 0 and fits(record)]
    return sorted(found, key=lambda record: record.ended)[-LATEST_RUNS:]


def _is_fold(tag: str) -> bool:
    try:
        fold_of(tag)
    except InputError:
        return False
    return True


def from_runs(records: Sequence[CellRecord], cell: CellConfig, dataset: data.Dataset) -> Pace:
    """The pace of `comparable` runs, at least one. Their ``epoch_seconds`` are those of training, without scoring."""
    sizes = {fold: images(cell, dataset, fold=fold)[0] for fold in {record.tags["fold"] for record in records}}
    paces = [float(record.tags["epoch_seconds"]) / sizes[record.tags["fold"]] for record in records]
    memory = [int(record.tags["memory"]) for record in records if "memory" in record.tags]
    return Pace(spread(paces), EVALUATION_SHARE, max(memory, default=None), runs=len(records))


def probe(cell: CellConfig, dataset: data.Dataset, *, threads: int, device: str, loaders: int = 0) -> Pace:
    """Train some steps of the cell here, after a warm-up, and time them. Torch's random state stays as it was.

    The interval is what the steps spread, at least a factor of 1.3 either way. Raises InputError where the cell cannot
    be trained.
    """
    place, before = training.pick_device(device), torch.get_num_threads()
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        try:
            torch.set_num_threads(threads)
            run = loop._Run(cell, dataset, place, score_test=cell.fold == "full", loaders=loaders)
            steps = list(_steps(run, place))
            score = _scoring(run, place)
        finally:
            torch.set_num_threads(before)
    image = sum(seconds for seconds, _ in steps) / sum(count for _, count in steps)
    factor = max(PROBE_FACTOR, math.exp(2 * statistics.stdev(math.log(seconds / count) for seconds, count in steps)))
    return Pace(Interval(image, image / factor, image * factor), score / image, peak_memory(), steps=len(steps))


def _steps(run: loop._Run, place: torch.device) -> Iterator[tuple[float, int]]:
    """(seconds, images) of training steps. The histograms of the loss are in use, as from the second epoch on."""
    run.model.train()
    run.loss.train()
    batches = itertools.chain.from_iterable(run.train.epoch(epoch) for epoch in itertools.count(1))
    until = math.inf
    full = sum(images == run.train.sizes[0] for images in run.train.sizes) / len(run.train)
    recorded = isinstance(run.step, RecordedStep)  # after some full batches, which is slow
    warm_up = math.ceil((1 + WARM_UP) / full) if recorded else WARM_UP_STEPS
    for step in range(warm_up + PROBE_STEPS):
        began = _now(place)
        x, y = next(batches)
        run.step(x, y, len(y))
        ended = _now(place)
        if step < warm_up:
            run.loss.end_epoch()
            until = ended + PROBE_SECONDS
            continue
        yield ended - began, len(y)
        if ended > until and step >= warm_up + LEAST_STEPS - 1:
            return


@torch.no_grad()
def _scoring(run: loop._Run, place: torch.device) -> float:
    """Seconds that scoring an image takes, in the largest batch that a trial scores: it may need the most memory."""
    run.model.eval()
    scored = [batches for batches in (run.held_out, run.test, run.seen()) if batches]
    x, _ = next(max(scored, key=lambda batches: batches.sizes[0]).epoch(0))
    run.model(x)
    began = _now(place)
    run.model(x)
    return (_now(place) - began) / len(x)


def _now(place: torch.device) -> float:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter()
