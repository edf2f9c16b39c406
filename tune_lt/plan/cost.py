"""What a study will cost: estimated from comparable past runs of the store, else from a few timed training steps.

Speed is measured in seconds per training image, so that cells with and without a hold-out can be compared. Every
estimate x has a factor f: in 19 of 20 cases the true value should lie between x / f and x * f. Nothing here writes to
a store or a disk.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tune_lt import data, training
from tune_lt.config import CellConfig, ImageHashes, renamed
from tune_lt.run import planner
from tune_lt.run.search.past import past_trials
from tune_lt.run.search.schedulers import milestones
from tune_lt.store import CellRecord, Cells, Store, own_tags
from tune_lt.study import Resources, Study, flattened
from tune_lt.training.results import peak_memory

EVALUATION_SHARE = 1 / 3  # of a training step: scoring has the forward pass, not the backward one of twice its cost
ONE_RUN_SPREAD = 0.2  # standard deviation of the logarithm of a single run's pace
PROBE_FACTOR = 1.3  # the least factor of a pace that was measured in a few steps on an idle machine
LATEST_RUNS = 50
STARTUP_SECONDS = 15.0  # Ray, and the libraries in its workers: once for all trials
# cells of one kind have the same values of the parameters below KIND, except for WHERE the images lie
KIND, WHERE = ("data/", "model/", "recipe/batch_size", "recipe/precision"), ("data/root", "data/download")
Kind = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Pace:
    """How fast one kind of cell trains: the seconds that an ``image`` takes, with the ``factor`` of that estimate.

    ``memory``: the peak in bytes, None if not known. Measured on ``runs`` past runs, or on ``steps`` steps here.
    """

    image: float
    factor: float
    memory: int | None
    runs: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Work:
    """``cells`` cells of the same kind as ``cell`` that are to be trained; ``phase`` is search or tables.

    ``epochs`` is the sum over all of them, ``factor`` that of this estimate.
    """

    phase: str
    cell: CellConfig
    cells: int
    epochs: float
    factor: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """The cost of what is left to train.

    ``hours`` is the sum over all trials; times ``cpus`` or ``gpus``, those of one trial, it is CPU- or GPU-hours.
    ``wall_seconds``: the time on this machine with ``at_once`` trials at a time. ``factor`` is that of both. Where
    this machine has no room for one trial (``fits`` is false), it is the time on one that has room for just one.
    ``memory_bytes``: the peak of one trial's process. With past runs it is the largest among them; else it is the peak
    of this process after it has trained and scored some batches, which holds the same images and more libraries.
    ``source``: what the estimate is from, in words.
    """

    hours: float
    factor: float
    wall_seconds: float
    at_once: int
    fits: bool
    cpus: float
    gpus: float
    memory_bytes: int | None
    source: str


@dataclass(frozen=True)
class Outlook:
    """What is done of a study and what is not.

    ``found``: the best values of each search that has ended. ``trials_done``: how many trials of each search have
    ended. ``cells``: those of the tables, with the lowest values of the ranges where a search has not ended;
    ``cells_done``: how many of them are trained. ``work``: what is left. ``records``: past runs to estimate from.
    """

    found: dict[str, dict[str, Any]]
    trials_done: dict[str, int]
    cells: list[planner.PlannedCell]
    cells_done: int
    work: list[Work]
    records: list[CellRecord]


def outlook(study: Study, store: Store | None, images: ImageHashes) -> Outlook:
    """Look up what ``store`` has of the study; None for a store that does not exist yet."""
    parent = store.parent(study.name) if store else None
    have, before = store.snapshot(study.name) if store else ({}, Cells())
    failing = before.failing()  # failed, and would fail again
    plan = planner.Plan(study, images)
    found: dict[str, dict[str, Any]] = {}
    ended: dict[str, int] = {}
    work: list[Work] = []
    length = study.recipe.epochs
    for name, space in study.searches.items():
        search, ended[name] = space.search, 0
        if store and parent:
            signature = plan.signatures[name]
            past = past_trials(store, before, own_tags(parent), signature, search.objectives[0])
            past = [trial for trial in past if trial.number < search.budget]
            ended[name] = sum(trial.outcome != "running" for trial in past)
            concluded = plan.recorded(space, store, parent.info.run_id)
            if concluded is not None and ended[name] == len(past):  # else a trial that failed is tried again
                found |= planner.found_by(concluded)
                ended[name] = search.budget
                continue
        if left := search.budget - ended[name]:
            units = plan.units(space, planner.at_end(space, 0))
            share = trained_share(length, milestones(search, length))
            if search.scheduler == "racing":  # from a single unit of every trial to all of them
                share = 1 / math.sqrt(len(units))
            work.append(Work("search", units[0].cell, left, left * len(units) * length * share, 1 / share))
        if search.constraints:
            reference = plan.reference(space)
            missing = [planned.cell for planned in reference if planned.fingerprint not in have]
            work += [Work("search", missing[0], len(missing), len(missing) * length)] if missing else []
    pairs = plan.cells_at_both_ends(found)
    wanted = {(low.fingerprint, high.fingerprint): low.cell for low, high in pairs}
    alike: dict[tuple[Kind, int], list[CellConfig]] = {}
    for (low, high), cell in wanted.items():
        if low != high or (low not in have and low not in failing):  # low != high: a search is yet to decide it
            alike.setdefault((_kind_of(cell), cell.recipe.epochs), []).append(cell)
    work += [Work("tables", group[0], len(group), epochs * len(group)) for (_, epochs), group in alike.items()]
    done = sum(low.fingerprint == high.fingerprint and low.fingerprint in have for low, high in pairs)
    return Outlook(found, ended, [low for low, _ in pairs], done, work, [*have.values()])


def trained_share(epochs: int, judged_at: Sequence[int]) -> float:
    """The part of its trials' epochs that a search trains if half of them are stopped after each in ``judged_at``.

    Of at most 40 epochs, judged at 10 and 20: (10 + 10 / 2 + 20 / 4) / 40 = 1/2; the whole if none is ever stopped.
    Only ASHA stops trials within a unit.
    """
    ends = itertools.pairwise([0, *judged_at, epochs])
    return sum((end - begin) / 2**k for k, (begin, end) in enumerate(ends)) / epochs


def estimate(study: Study, dataset: data.Dataset, seen: Outlook) -> Estimate | None:
    """The cost of what is left; None if it needs a GPU, there is none here, and no past run is comparable.

    Raises InputError for a cell that cannot be trained.
    """
    resources = study.resources
    gpus = resources.gpus if resources.gpus is not None else float(torch.cuda.is_available())
    device, room = "cuda" if gpus else "cpu", slots(resources, gpus)
    at_once = min(max(1, room), resources.concurrent or room or 1)
    paces: dict[Kind, Pace] = {}
    seconds = high = wall = 0.0
    for item in seen.work:
        cell, kind = item.cell, _kind_of(item.cell)
        if kind not in paces:
            if records := comparable(seen.records, cell, device):
                paces[kind] = from_runs(records, cell, dataset, study.validation.holdout)
            elif gpus and not torch.cuda.is_available():
                return None
            else:
                threads = max(1, int(resources.cpus))
                workers, loaders = resources.workers, resources.readers
                paces[kind] = probe(cell, dataset, threads=threads, device=device, workers=workers, loaders=loaders)
        pace, images = paces[kind], training.images_of(cell, dataset)
        trained, scored = len(images.train_index), 0 if images.val_index is None else len(images.val_index)
        passed = item.epochs * (trained + EVALUATION_SHARE * scored)
        if cell.fold == "full":  # after its last epoch: the sealed test, and the gradient norms of what it saw
            passed += item.cells * EVALUATION_SHARE * (len(images.test_index) + trained)
        cost = pace.image * passed
        seconds += cost
        # pace and epochs are independent, so the squares of their factors' logarithms add; items share their pace
        high += cost * math.exp(math.hypot(math.log(pace.factor), math.log(item.factor)))
        wall += cost / min(at_once, sum(other.cells for other in seen.work if other.phase == item.phase))
    memory = [pace.memory for pace in paces.values() if pace.memory is not None]
    runs, steps = sum(pace.runs for pace in paces.values()), sum(pace.steps for pace in paces.values())
    sources = [f"{runs} past run{'s' if runs > 1 else ''} on this store"] * (runs > 0)
    sources += [f"a timed probe of {steps} steps on this machine"] * (steps > 0)
    return Estimate(
        hours=seconds / 3600,
        factor=high / seconds if seconds else 1.0,
        wall_seconds=wall + STARTUP_SECONDS if paces else 0.0,
        at_once=at_once,
        fits=room > 0,
        cpus=resources.cpus * resources.workers,
        gpus=gpus * resources.workers,
        memory_bytes=max(memory, default=None),
        source=" and ".join(sources) or "nothing: all is done",
    )


def slots(resources: Resources, gpus: float) -> int:
    """How many trials this machine has room for at the same time."""
    needs = [(os.cpu_count() or 1, resources.cpus)] + ([(torch.cuda.device_count(), gpus)] if gpus else [])
    return min(math.floor(have / need + 1e-9) for have, need in needs) // resources.workers


def doubt(paces: Sequence[float]) -> float:
    """The factor by which another run's pace may differ from the mean of ``paces``.

    It is the exponential of two standard deviations of the logarithm: the spread of ``paces``, and `ONE_RUN_SPREAD`
    over the root of their number. A single pace has exp(2 * 0.2) = 1.49.
    """
    spread = statistics.stdev(map(math.log, paces)) if len(paces) > 1 else 0.0
    return math.exp(2 * math.hypot(spread, ONE_RUN_SPREAD / math.sqrt(len(paces))))


def comparable(records: Iterable[CellRecord], cell: CellConfig, device: str) -> list[CellRecord]:
    """The latest past runs with the same data section, network, batch size, precision and type of device.

    Losses, learning rates and folds may differ: they change the time of an image little. Trials of several units are
    left out, since their recorded time is not that of one cell.
    """
    kind = _kind_of(cell)

    def fits(record: CellRecord) -> bool:
        timed = float(record.tags.get("epoch_seconds", 0)) > 0 and record.tags.get("fold", "all") != "all"
        here = record.tags.get("device", "").split(":")[0] == device
        return timed and here and _kind(renamed(record.params, "data/")) == kind

    return sorted(filter(fits, records), key=lambda record: record.ended)[-LATEST_RUNS:]


def _kind(params: Mapping[str, Any]) -> Kind:
    return frozenset(
        (path, str(value)) for path, value in params.items() if path.startswith(KIND) and path not in WHERE
    )


def _kind_of(cell: CellConfig) -> Kind:
    return _kind(flattened(dataclasses.asdict(cell)))


def from_runs(
    records: Sequence[CellRecord], cell: CellConfig, dataset: data.Dataset, holdout: float | None = None
) -> Pace:
    """The pace of `comparable` runs, at least one, by their ``epoch_seconds``: training without scoring.

    ``holdout``: the fraction of the training images that runs with a hold-out did not train on.
    """
    sizes = {}
    for fold in {record.tags["fold"] for record in records}:
        other = dataclasses.replace(cell, fold=fold, holdout=holdout if fold == "holdout" else None)
        sizes[fold] = len(training.images_of(other, dataset).train_index)
    paces = [float(record.tags["epoch_seconds"]) / sizes[record.tags["fold"]] for record in records]
    memory = [int(record.tags["memory"]) for record in records if "memory" in record.tags]
    image, peak = statistics.geometric_mean(paces), max(memory, default=None)
    return Pace(image, doubt(paces), peak, runs=len(records))


def probe(
    cell: CellConfig, dataset: data.Dataset, *, threads: int, device: str, workers: int = 1, loaders: int = 0
) -> Pace:
    """The pace of some training steps on this machine. Raises InputError for a cell that cannot be trained.

    The steps are those of one worker, with no more ``threads`` and ``loaders`` than this machine has cores. With more
    the pace lies between the measured one and that of a machine on which every thread and worker helps equally.
    """
    cores = os.cpu_count() or 1
    steps = training.timed_steps(cell, dataset, device=device, threads=min(threads, cores), loaders=min(loaders, cores))
    speedup = math.sqrt(workers * (max(1, threads / cores) if device == "cpu" else 1))
    factor = max(PROBE_FACTOR, doubt(steps)) * speedup
    return Pace(statistics.fmean(steps) / speedup, factor, peak_memory(), steps=len(steps))
