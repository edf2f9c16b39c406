"""The seam between Ray Tune and training: one cell in, one report per epoch out."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch
from ray import tune

from tune_lt import data, studyfile, training
from tune_lt.errors import InputError, TrainingFailed


def train_cell(
    config: dict[str, Any],
    dataset: data.Dataset,
    plugins: tuple[str, ...],
    folder: str,
    checkpoints: str,
    checkpoint_seconds: float,
    threads: int,
    device: str,
) -> None:
    """Tune's function trainable: train ``config["planned"]["cell"]`` and report every epoch.

    The state is kept under the cell's fingerprint in ``checkpoints``, and one found there is continued. The sealed test
    is scored only in cells that train on the whole training split, after their last epoch. A failure that would only
    repeat itself is reported as such; any other exception is Tune's to retry.
    """
    torch.set_num_threads(threads)
    studyfile.load_plugins(plugins, Path(folder))
    planned = config["planned"]
    cell = studyfile.from_dict(planned["cell"])
    results = training.run_epochs(
        cell,
        dataset=dataset,
        device=device,
        score_test=cell.fold == "full",
        save_to=checkpoint_path(checkpoints, planned["fingerprint"]),
        save_seconds=checkpoint_seconds,
    )
    try:
        for result in results:
            tune.report(report(result))
            if result.final:
                return  # before the last state is saved: nobody will go on from it
    except (TrainingFailed, InputError) as error:
        tune.report({"epoch": 0, "final": True, "failed": f"{type(error).__name__}: {error}"})


def checkpoint_path(folder: str | Path, fingerprint: str) -> Path:
    """Where the state of a cell in training lies."""
    return Path(folder) / f"{fingerprint}.pt"


def report(result: training.EpochResult) -> dict[str, Any]:
    """What the driver needs of an epoch: the metrics to record and, after the last epoch, the accuracy per class."""
    content: dict[str, Any] = {"epoch": result.epoch, "final": result.final, "seconds": result.seconds}
    content |= result.as_metrics()
    if result.final:
        content["memory"] = peak_memory()
        content["classes"] = {
            "class_counts": list(result.class_counts),
            **{name: list(scores.per_class) for name, scores in (("val", result.val), ("test", result.test)) if scores},
        }
    return content


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
