"""Times some training steps of a cell, for an estimate of the whole training."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import torch

from tune_lt import data
from tune_lt.config import CellConfig
from tune_lt.training.loop import Training, pick_device, threads_in_use
from tune_lt.training.step import WARM_UP

MOST_STEPS, LEAST_STEPS, SECONDS = 20, 2, 2.0  # after so many seconds no further step begins


def timed_steps(
    cell: CellConfig, dataset: data.Dataset, *, device: str = "auto", threads: int = 1, loaders: int = 0
) -> list[float]:
    """Seconds per image in each of some training steps, timed after a warm-up.

    It also scores the largest batch, so that the process then has the peak memory of a whole training. Torch's random
    state stays as it was. Raises InputError if the cell cannot be trained.
    """
    place = pick_device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), threads_in_use(threads):
        run = Training(cell, dataset, place, score_test=cell.fold == "full", loaders=loaders)
        taken = list(_steps(run))
        scored = [batches for batches in (run.held_out, run.test, run.not_augmented()) if batches]
        run.model.eval()
        with torch.no_grad():
            run.model(next(max(scored, key=lambda batches: batches.sizes[0]).epoch(0))[0])
    return taken


def _steps(run: Training) -> Iterator[float]:
    """Seconds per image of each timed step, all on full batches.

    The loss ends an epoch after each step of the warm-up, so that it has histograms, as from the second epoch on.
    """
    run.model.train()
    run.loss.train()
    size = run.train.sizes[0]
    batches = (batch for epoch in itertools.count(1) for batch in run.train.epoch(epoch) if len(batch[1]) == size)
    for _ in range(WARM_UP + 1):
        run.step(*next(batches), size)
        run.loss.end_epoch()
    until = _now(run.place) + SECONDS
    for step in range(MOST_STEPS):
        began = _now(run.place)
        if step >= LEAST_STEPS and began > until:
            return
        run.step(*next(batches), size)
        yield (_now(run.place) - began) / size


def _now(place: torch.device) -> float:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter()
