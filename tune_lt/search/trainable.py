"""The seam between Ray Tune and training: one cell in, one report per epoch out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ray import tune

from tune_lt import data, studyfile, training


def train_cell(
    config: dict[str, Any], dataset: data.Dataset, plugins: tuple[str, ...], folder: str, threads: int
) -> None:
    """Tune's function trainable: train ``config["planned"]["cell"]`` and report every epoch.

    The sealed test is scored only in cells that train on the whole training split, after their last epoch.
    """
    torch.set_num_threads(threads)
    studyfile.load_plugins(plugins, Path(folder))
    cell = studyfile.from_dict(config["planned"]["cell"])
    for result in training.run_epochs(cell, dataset=dataset, score_test=cell.fold == "full"):
        tune.report(report(result))


def report(result: training.EpochResult) -> dict[str, Any]:
    """What the driver needs of an epoch: the metrics to record and, after the last epoch, the accuracy per class."""
    content: dict[str, Any] = {"epoch": result.epoch, "final": result.final, **result.as_metrics()}
    if result.final:
        content["classes"] = {
            "class_counts": list(result.class_counts),
            **{name: list(scores.per_class) for name, scores in (("val", result.val), ("test", result.test)) if scores},
        }
    return content
