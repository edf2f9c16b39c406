"""What a plan will cost: from comparable past runs of the store, else from a few timed training steps.

Everything is measured per training image, so that cells with and without a hold-out can be compared. Beside each
estimate stands a factor: the true value should lie between the estimate over it and the estimate times it, 19 times
out of 20. Nothing here writes to a store or a disk.
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
from tune_lt.config import CellConfig, renamed
from tune_lt.run import planner
from tune_lt.run.search.past import past_trials
from tune_lt.run.search.schedulers import milestones
from tune_lt.store import CellRecord, Cells, Store, own_tags
from tune_lt.study import Resources, Study, flattened
from tune_lt.training.results import peak_memory

EVALUATION_SHARE = 1 / 3  # of a training step: scoring is the forward pass without the backward one, twice as much
ONE_RUN_SPREAD = 0.2  # by how much, in logarithms, the pace of a single run may differ from what is to be expected
PROBE_FACTOR = 1.3  # what few steps on an idle machine can be off by at least
LATEST_RUNS = 50
STARTUP_SECONDS = 15.0  # Ray, and the libraries in its workers: once a run, not a trial
# what cells of one kind share, by the paths of their parameters; where the images lie costs nothing
KIND, WHERE = ("data/", "model/", "recipe/batch_size", "recipe/precision"), ("data/root", "data/download")
Kind = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Pace:
    """How fast one kind of cell trains: the seconds an ``image`` takes, which may be off by ``factor``.

    ``memory`` in bytes, None if not known. Measured on ``runs`` past runs, or on ``steps`` steps here.
    """

    image: float
    factor: float
    memory: int | None
    runs: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Work:
    """Cells of one kind that are to be trained: ``phase`` is search or tables, ``epochs`` those of all together.

    The epochs may be off by ``factor``.
    """

    phase: str
    cell: CellConfig
    cells: int
    epochs: float
    factor: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """The cost of what is to do. ``hours`` are those of trials; times ``cpus`` or ``gpus`` they are CPU- or GPU-hours.

    ``factor``: what the hours and ``wall_seconds`` may be off by. Those are on this machine, with ``at_once`` trials at
    a time. ``memory_bytes``: the peak of one trial's process: with past runs the largest among them, else that of this
    process once it has trained and scored some of the cell's batches; it has the same images in it, and more libraries.
    """

    hours: float
    factor: float
    wall_seconds: float
    at_once: int
    cpus: float
    gpus: float
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
    hopeless = before.failing()
    found: dict[str, dict[str, Any]] = {}
    ended: dict[str, int] = {}
    work: list[Work] = []
    length = study.recipe.epochs
    for name, space in study.searches.items():
        search, ended[name] = space.search, 0
        if store and parent:
            concluded = planner.recorded_search(study, space, store, parent.info.run_id, content_hash)
            if concluded is not None:
                found |= planner.found_by(concluded)
                ended[name] = search.budget
                continue
            signature = study.search_signature(space, content_hash)
            past = past_trials(store, before, own_tags(parent), signature, search.objectives[0])
            ended[name] = sum(trial.outcome != "running" and trial.number < search.budget for trial in past)
        if left := search.budget - ended[name]:
            units = planner.trial_cells(study, space, planner.at_end(space, 0))
            share = trained_share(length, milestones(search, length))
            work.append(Work("search", units[0], left, left * len(units) * length * share, 1 / share))
        if search.constraints:
            reference = planner.Planner(study, content_hash, {}).reference(space)
            missing = [planned.cell for planned in reference if planned.fingerprint not in have]
            work += [Work("search", missing[0], len(missing), len(missing) * length)] if missing else []
    pairs = planner.cells_at_both_ends(study, found, content_hash)
    known = {cell.fingerprint for cell, other in pairs if cell.fingerprint == other.fingerprint}
    settled = known & (have.keys() | hopeless.keys())
    wanted = {(cell.fingerprint, other.fingerprint): cell.cell for cell, other in pairs}
    alike: dict[tuple[Kind, int], list[CellConfig]] = {}
    for (fingerprint, _), cell in wanted.items():
        if fingerprint not in settled:
            alike.setdefault((_kind_of(cell), cell.recipe.epochs), []).append(cell)
    work += [Work("tables", group[0], len(group), epochs * len(group)) for (_, epochs), group in alike.items()]
    cells = [cell for cell, _ in pairs]
    done = sum(cell.fingerprint in known & have.keys() for cell in cells)
    return Outlook(found, ended, cells, done, work, [*have.values()])


def trained_share(epochs: int, judged_at: Sequence[int]) -> float:
    """The part of its trials' epochs that a search trains if half of them are stopped after each in ``judged_at``.

    Of at most 40 epochs, judged at 10 and 20: (10 + 10 / 2 + 20 / 4) / 40 = 1/2; the whole if none is ever stopped.
    """
    ends = itertools.pairwise([0, *judged_at, epochs])
    return sum((end - begin) / 2**k for k, (begin, end) in enumerate(ends)) / epochs


def estimate(study: Study, dataset: data.Dataset, seen: Outlook) -> Estimate | None:
    """The cost of what is to do; None where it needs a GPU, no past run tells, and there is none here to try.

    Raises InputError for a cell that cannot be trained.
    """
    resources = study.resources
    gpus = resources.gpus if resources.gpus is not None else float(torch.cuda.is_available())
    device, at_once = "cuda" if gpus else "cpu", slots(resources, gpus)
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
                paces[kind] = probe(cell, dataset, threads=threads, device=device, loaders=resources.readers)
        pace, images = paces[kind], training.images_of(cell, dataset)
        trained, scored = len(images.train_index), 0 if images.val_index is None else len(images.val_index)
        passed = item.epochs * (trained + EVALUATION_SHARE * scored)
        if cell.fold == "full":  # after its last epoch: the sealed test, and the gradient norms of what it saw
            passed += item.cells * EVALUATION_SHARE * (len(images.test_index) + trained)
        cost = pace.image * passed
        seconds += cost
        # the doubts of pace and epochs are independent: their logarithms add as squares; those of items add in full
        high += cost * math.exp(math.hypot(math.log(pace.factor), math.log(item.factor)))
        wall += cost / min(at_once, sum(other.cells for other in seen.work if other.phase == item.phase))
    memory = [pace.memory for pace in paces.values() if pace.memory is not None]
    runs, steps = (sum(getattr(pace, what) for pace in paces.values()) for what in ("runs", "steps"))
    sources = [f"{runs} past run{'s' if runs > 1 else ''} on this store"] * (runs > 0)
    sources += [f"a timed probe of {steps} steps on this machine"] * (steps > 0)
    return Estimate(
        hours=seconds / 3600,
        factor=high / seconds if seconds else 1.0,
        wall_seconds=wall + STARTUP_SECONDS if paces else 0.0,
        at_once=at_once,
        cpus=resources.cpus * resources.workers,
        gpus=gpus * resources.workers,
        memory_bytes=max(memory, default=None),
        source=" and ".join(sources) or "nothing: all is done",
    )


def slots(resources: Resources, gpus: float) -> int:
    """How many trials run at once on this machine: as many as fit, at least one, at most what the study wants."""
    rooms = [(os.cpu_count() or 1) / resources.cpus] + ([torch.cuda.device_count() / gpus] if gpus else [])
    room = max(1, int(min(rooms) / resources.workers))
    return min(room, resources.concurrent or room)


def doubt(paces: Sequence[float]) -> float:
    """The factor that another run's pace may differ by from those of ``paces``: two standard deviations of logarithms.

    What one run alone leaves open shrinks with the root of their number: a single one has exp(2 * 0.2) = 1.49.
    """
    spread = statistics.stdev(map(math.log, paces)) if len(paces) > 1 else 0.0
    return math.exp(2 * math.hypot(spread, ONE_RUN_SPREAD / math.sqrt(len(paces))))


def comparable(records: Iterable[CellRecord], cell: CellConfig, device: str) -> list[CellRecord]:
    """The latest past runs that trained on the same images with the same network, batches and type of device.

    Losses and learning rates may differ: beside the network they cost little. Any kind of fold will do, but of a trial
    of several units the time is not that of one cell.
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
    """The pace of `comparable` runs, at least one. Their ``epoch_seconds`` are those of training, without scoring.

    ``holdout``: the part of the images that those of a hold-out did not train on.
    """
    sizes = {}
    for fold in {record.tags["fold"] for record in records}:
        other = dataclasses.replace(cell, fold=fold, holdout=holdout if fold == "holdout" else None)
        sizes[fold] = len(training.images_of(other, dataset).train_index)
    paces = [float(record.tags["epoch_seconds"]) / sizes[record.tags["fold"]] for record in records]
    memory = [int(record.tags["memory"]) for record in records if "memory" in record.tags]
    image, peak = statistics.geometric_mean(paces), max(memory, default=None)
    return Pace(image, doubt(paces), peak, runs=len(records))


def probe(cell: CellConfig, dataset: data.Dataset, *, threads: int, device: str, loaders: int = 0) -> Pace:
    """The pace of some steps that are trained here. Raises InputError where the cell cannot be trained."""
    steps = training.timed_steps(cell, dataset, device=device, threads=threads, loaders=loaders)
    factor = max(PROBE_FACTOR, doubt(steps))
    return Pace(statistics.fmean(steps), factor, peak_memory(), steps=len(steps))
