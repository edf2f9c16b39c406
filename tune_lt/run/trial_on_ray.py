"""The seam between Ray Tune and training: one trial in, one report per epoch out."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from tune_lt import data, training
from tune_lt.config import CellConfig
from tune_lt.errors import InputError, TrainingFailed
from tune_lt.run.search.planned import PlannedTrial, means
from tune_lt.run.workers import epochs_on_workers
from tune_lt.study import Resources, reader
from tune_lt.training import results as recorded


@dataclass(frozen=True)
class Setting:
    """What every trial of a study trains with; ``gpus``: of one trial, ``folder``: the study file's."""

    plugins: tuple[str, ...]
    folder: str
    resources: Resources
    gpus: float

    def prepare(self) -> None:
        """Set up this process."""
        torch.set_num_threads(max(1, int(self.resources.cpus)))
        reader.load_plugins(self.plugins, Path(self.folder))

    def epochs(
        self, cell: CellConfig, state: Path, dataset: data.Dataset, *, score_test: bool
    ) -> Generator[training.EpochResult, None, None]:
        """`training.run_epochs` in this process, or on as many workers as a trial has."""
        resources = self.resources
        options: dict[str, Any] = {"save_to": state, "save_seconds": resources.checkpoint_seconds}
        options |= {"score_test": score_test, "loaders": resources.readers}
        if resources.workers > 1:
            options |= {"workers": resources.workers, "cpus": resources.cpus, "gpus": self.gpus}
            options |= {"plugins": self.plugins, "folder": self.folder, "dataset_ref": ray.put(dataset)}
            yield from epochs_on_workers(cell, **options)
        else:
            yield from training.run_epochs(cell, dataset=dataset, device="auto" if self.gpus else "cpu", **options)


def train_cell(config: dict[str, Any], dataset: data.Dataset, checkpoints: str, setting: Setting) -> None:
    """Tune's function trainable: train the units of ``config["planned"]``, cells all, in sequence; report every epoch.

    A cell's state is kept under its fingerprint in ``checkpoints``, and one found there is continued; a unit that is
    ``known`` is reported without training. The sealed test is scored only in cells that train on the whole training
    split, after their last epoch; with ``keep`` the state is saved after that one too. A loss that diverges would do so
    again and is reported as such, a damaged image until it is repaired; any other exception is Tune's to retry.
    """
    setting.prepare()
    planned: PlannedTrial = config["planned"]
    units, watched = planned.units, planned.watched
    memory = _Memory(Path(checkpoints) / f"{planned.fingerprint}.json", several=planned.several)
    values: list[Mapping[str, float]] = []
    for index, unit in enumerate(units):
        cell = unit.cell
        epochs, last = cell.recipe.epochs, index == len(units) - 1
        place = {"unit": index, "units": len(units)}
        known = unit.known or memory.known(unit.fingerprint)
        if known is not None:
            values.append(known)
            steps = {"epoch": epochs, "step": (index + 1) * epochs, "unit_final": True, "final": last, "seconds": 0.0}
            tune.report({**place, **steps, **known, **means(values, watched), "known": True})
            continue
        state = checkpoint_path(checkpoints, unit.fingerprint)
        results = setting.epochs(cell, state, dataset, score_test=cell.fold == "full")
        ended = False
        try:
            for result in results:
                content = recorded.content(result)
                so_far = values if values and not result.final else [*values, content]
                steps = {"step": index * epochs + result.epoch, "unit_final": result.final}
                steps |= {"final": result.final and last, "known": False}
                tune.report(content | place | steps | means(so_far, watched))
                ended = result.final
                if ended and not planned.keep:
                    break  # before the last state is saved: nobody will go on from it
        except Exception as error:
            if not ended:
                _failed(error, state, place)
                return
            # its result is told already; who wants the state that could not be saved trains it again
        results.close()  # workers end here, not when somebody collects the garbage
        values.append({name: value for name, value in content.items() if name.startswith(("val/", "train/"))})
        memory.add(unit.fingerprint, values[-1])
    memory.forget()


def _failed(error: Exception, state: Path, place: Mapping[str, int]) -> None:
    """Report what would only happen again as the trial's end; anything else is raised, for Tune to try again."""
    if isinstance(error, TrainingFailed):
        reason = f"{type(error).__name__}: {error}"
        tune.report({"epoch": 0, "final": True, "failed": reason, "retry": "no", **place})
    elif isinstance(error, InputError) and str(state) not in str(error):
        # a damaged image would stop every attempt; once it is repaired the study goes on
        tune.report({"epoch": 0, "final": True, "failed": str(error), "retry": "yes", **place})
    else:
        if isinstance(error, InputError):  # a damaged state: the next attempt begins anew
            state.unlink(missing_ok=True)
        raise error


def train_again(cell: CellConfig, state: Path, dataset: data.Dataset, setting: Setting) -> None:
    """Train a cell that is recorded already, for the state of its last epoch; one found at ``state`` is continued."""
    setting.prepare()
    for _ in setting.epochs(cell, state, dataset, score_test=False):
        pass


def checkpoint_path(folder: str | Path, fingerprint: str) -> Path:
    """Where the state of a cell in training lies."""
    return Path(folder) / f"{fingerprint}.pt"


class _Memory:
    """The scores of a trial's finished units on disk, so that a trial whose worker died does not train them again."""

    def __init__(self, file: Path, *, several: bool) -> None:
        self._file, self._several = file, several
        self._scores: dict[str, dict[str, float]] = {}
        if several and file.exists():
            try:
                self._scores = json.loads(file.read_text())
            except ValueError:
                file.unlink()  # cut short by a crash: those units are trained again

    def known(self, fingerprint: str) -> dict[str, float] | None:
        return self._scores.get(fingerprint)

    def add(self, fingerprint: str, scores: Mapping[str, float]) -> None:
        if not self._several:
            return
        self._scores[fingerprint] = dict(scores)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(self._scores))
        fresh.replace(self._file)

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)
