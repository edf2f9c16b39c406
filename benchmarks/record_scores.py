"""Train real cells of the digits study and record the validation score of every epoch, for replays of searches.

Two sets of configurations of GHM-CWAP, each on 5 folds x 5 seeds (data seed = init seed), with the recipe of
`search_spaces/digits.yaml` but 20 epochs:

- ``drawn``: 36 configurations drawn uniformly over that file's search space, for `racing.py`;
- ``grid``: alpha x gamma, 6 x 5 points, N = 20, AURA on, for `efficiency.py` (and to choose racing's defaults on).

The file is `data/digits_scores.csv`: a header of comments, then one line a cell: its set, its configuration's number,
alpha, gamma, regions, aura, seed, fold (counted from 1), and ``val/balanced`` after each epoch (empty from where a
training failed). Lines are added to what is there, so that it can be stopped at any time and started again; cells come
seed by seed, so that what is there is always usable.

    nice -n 19 python benchmarks/record_scores.py        # about half an hour on one core
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import itertools
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parent / "data" / "digits_scores.csv"
EPOCHS, FOLDS, SEEDS = 20, 5, (0, 1, 2, 3, 4)
DRAWN, DRAW_SEED = 36, 20261123
ALPHAS, GAMMAS = np.linspace(0.3, 1.0, 6).round(2).tolist(), np.linspace(0.0, 1.5, 5).round(3).tolist()
KEY = ("set", "configuration", "alpha", "gamma", "regions", "aura", "seed", "fold")
PACKAGES = ("tune-lt", "torch", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Recorded:
    """The scores of one set. ``curves`` (configurations, seeds, folds, epochs): NaN where a training failed.

    ``params``: the parameters of the loss of each configuration, in the order of the first axis.
    """

    params: list[dict[str, Any]]
    curves: np.ndarray

    @property
    def final(self) -> np.ndarray:
        """(configurations, seeds, folds): the score after the last epoch."""
        scores: np.ndarray = self.curves[..., -1]
        return scores


def configurations() -> dict[str, list[dict[str, Any]]]:
    """The parameters of the loss, by set; the same at each call."""
    generator = np.random.default_rng(DRAW_SEED)
    drawn = [
        {
            "alpha": round(float(generator.uniform(0.3, 1.0)), 4),
            "gamma": round(float(generator.uniform(0.0, 1.5)), 4),
            "regions": int(generator.choice([10, 20, 30])),
            "aura": bool(generator.integers(2)),
        }
        for _ in range(DRAWN)
    ]
    grid = [{"alpha": a, "gamma": g, "regions": 20, "aura": True} for a, g in itertools.product(ALPHAS, GAMMAS)]
    return {"drawn": drawn, "grid": grid}


def load(name: str, file: Path = FILE) -> Recorded:
    """The scores of the set called ``name``; the seeds are those that every configuration has all folds of."""
    found: dict[tuple[int, int, int], list[float]] = {}
    params = configurations()[name]
    for row in _rows(file):
        if row["set"] == name:
            number = int(row["configuration"])
            written = {"alpha": float(row["alpha"]), "gamma": float(row["gamma"])}
            written |= {"regions": int(row["regions"]), "aura": row["aura"] == "True"}
            if written != params[number]:
                raise ValueError(f"{file}: configuration {number} of {name} is {written}, not {params[number]}")
            curve = [float(row[f"epoch {epoch}"] or "nan") for epoch in range(1, EPOCHS + 1)]
            found[number, int(row["seed"]), int(row["fold"])] = curve
    folds = range(1, FOLDS + 1)
    seeds = [s for s in SEEDS if all((c, s, k) in found for c in range(len(params)) for k in folds)]
    curves = [[[found[c, s, k] for k in folds] for s in seeds] for c in range(len(params))]
    return Recorded(params, np.array(curves))


def describe(file: Path = FILE) -> str:
    """The comments at the head of the file."""
    with open(file, encoding="utf-8") as stream:
        return "".join(itertools.takewhile(lambda line: line.startswith("#"), stream))


def record(file: Path) -> None:
    """Train every cell that ``file`` does not have."""
    import torch

    from tune_lt import data, training
    from tune_lt.config import Augment, CellConfig, Optimizer, Recipe
    from tune_lt.errors import TrainingFailed

    torch.set_num_threads(1)
    recipe = Recipe(
        epochs=EPOCHS, batch_size=64, optimizer=Optimizer(lr=0.1), augment=Augment(crop=1, flip=False), clip_norm=2.0
    )
    dataset = data.build("digits")
    epochs = [f"epoch {epoch}" for epoch in range(1, EPOCHS + 1)]
    if file.exists():
        text = file.read_text(encoding="utf-8")
        file.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")  # the last line may be half a line
    else:
        file.parent.mkdir(exist_ok=True)
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
        file.write_text(
            "# val/balanced by epoch of real cells; python benchmarks/record_scores.py\n"
            f"# begun {datetime.date.today()}; Python {platform.python_version()}, {versions}; one thread of a CPU\n"
            f"# digits at imbalance 20, resnet8, ghm_cwap, {FOLDS} folds, {recipe}\n"
            + ",".join((*KEY, *epochs))
            + "\n",
            encoding="utf-8",
        )
    done = {(row["set"], row["configuration"], row["seed"], row["fold"]) for row in _rows(file)}
    cells = [
        (name, number, params, seed, fold)
        for seed, fold in itertools.product(SEEDS, range(1, FOLDS + 1))
        for name, listed in configurations().items()
        for number, params in enumerate(listed)
    ]
    began, trained = time.monotonic(), 0
    for name, number, params, seed, fold in cells:
        if (name, str(number), str(seed), str(fold)) in done:
            continue
        cell = CellConfig(
            data={"name": "digits", "imbalance": 20.0},
            model={"name": "resnet8"},
            loss={"name": "ghm_cwap", **params},
            recipe=recipe,
            data_seed=seed,
            init_seed=seed,
            fold=f"{fold}/{FOLDS}",
        )
        scores: list[str] = []
        try:
            for result in training.run_epochs(cell, dataset=dataset, device="cpu"):
                assert result.val is not None
                scores.append(f"{result.val.balanced:.5f}")
        except TrainingFailed as failure:
            print(f"{name} {number}, seed {seed}, fold {fold}: {failure}", flush=True)
        scores += [""] * (EPOCHS - len(scores))
        with open(file, "a", encoding="utf-8", newline="") as stream:
            line = (name, number, *params.values(), seed, fold, *scores)
            csv.writer(stream, lineterminator="\n").writerow(line)
        trained += 1
        if trained % 50 == 0:
            print(f"{trained} cells, {(time.monotonic() - began) / trained:.2f} s a cell", flush=True)


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--file", type=Path, default=FILE)
    record(parser.parse_args().file)
