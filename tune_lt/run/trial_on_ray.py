"""A trial on a Ray worker: Tune hands in the planned trial, and gets one report per epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from ray import tune

from tune_lt import data, training
from tune_lt.config import CellConfig
from tune_lt.errors import DamagedImage, InputError, TrainingFailed
from tune_lt.plugins import load_plugins
from tune_lt.run.failures import may_pass, reason
from tune_lt.run.search.planned import PlannedTrial, means
from tune_lt.run.workers import epochs_on_workers
from tune_lt.study import Resources
from tune_lt.training import results as recorded


@dataclass(frozen=True)
class Setting:
    """What every trial of a study shares. ``gpus``: GPUs of one trial; ``folder``: that of the study file."""

    plugins: tuple[str, ...]
    folder: str
    resources: Resources
    gpus: float

    def prepare(self) -> None:
        """Set the number of threads and import the plugins."""
        torch.set_num_threads(max(1, int(self.resources.cpus)))
        load_plugins(self.plugins, Path(self.folder))

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
    """Tune's function trainable: train the cells of ``config["planned"]`` one after another and report every epoch.

    A cell's state is saved in ``checkpoints`` under its fingerprint, and training continues from a state that is found
    there. A unit whose scores are known is reported without training. The sealed test is scored only after the last
    epoch of a cell that trains on the whole training split. With ``keep`` the last state is saved too. A diverging
    loss, a damaged image, or an error that two attempts have raised in the same words ends the trial as failed,
    because another attempt would fail in the same way. Tune retries after any other exception.
    """
    setting.prepare()
    planned: PlannedTrial = config["planned"]
    units, watched = planned.units, planned.watched
    memory = _Memory(Path(checkpoints) / f"{planned.fingerprint}.json", several=planned.several)
    values: list[Mapping[str, float]] = []
    for index, unit in enumerate(units):
        cell = unit.cell
        epochs, last = cell.recipe.epochs, index == len(units) - 1
        place: dict[str, Any] = {"unit": index, "units": len(units)}
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
                    break  # nobody continues from the last state, so it need not be saved
        except Exception as error:
            if not ended:
                retry = _retried(error, state, memory)  # raises what Tune is to try again
                place |= means([], watched)  # Tune wants its metric in every report
                tune.report({"epoch": 0, "final": True, "failed": reason(error), "retry": retry, **place})
                return
            # the result is reported; only the last state could not be saved, and `train_again` makes it anew
        results.close()  # end the workers now and not at the next garbage collection
        values.append({name: value for name, value in content.items() if name.startswith(("val/", "train/"))})
        memory.add(unit.fingerprint, values[-1])
    memory.forget()


def _retried(error: Exception, state: Path, memory: _Memory) -> Literal["yes", "no"]:
    """Whether the next run of the study should try again after an error that ends a trial.

    Raises the error if another attempt in this run may succeed.
    """
    if isinstance(error, TrainingFailed | DamagedImage):
        return "no"
    if isinstance(error, InputError):
        if str(state) not in str(error):
            return "yes"  # this machine lacks something, such as room for the loaders
        state.unlink(missing_ok=True)  # it is damaged: the next attempt starts from the first epoch
    elif not may_pass(error) and memory.failed_before(reason(error)):
        return "no"
    raise error


def train_again(cell: CellConfig, state: Path, dataset: data.Dataset, setting: Setting) -> None:
    """Train a recorded cell once more for the state after its last epoch, from the state in ``state`` if it exists."""
    setting.prepare()
    for _ in setting.epochs(cell, state, dataset, score_test=False):
        pass


def checkpoint_path(folder: str | Path, fingerprint: str) -> Path:
    """The file of a cell's training state."""
    return Path(folder) / f"{fingerprint}.pt"


class _Memory:
    """What earlier attempts at a trial leave to the next one, in a file: the scores of finished units, their error."""

    def __init__(self, file: Path, *, several: bool) -> None:
        self._file, self._several = file, several
        self._scores: dict[str, dict[str, float]] = {}
        self._error = ""
        if file.exists():
            try:
                self._scores, self._error = json.loads(file.read_text())
            except ValueError:
                file.unlink()  # cut short by a crash: those units are trained again

    def known(self, fingerprint: str) -> dict[str, float] | None:
        return self._scores.get(fingerprint)

    def add(self, fingerprint: str, scores: Mapping[str, float]) -> None:
        if self._several:
            self._scores[fingerprint] = dict(scores)
            self._write()

    def failed_before(self, error: str) -> bool:
        """Whether the attempt before this one ended with the same error, which is kept for the next one."""
        before, self._error = self._error, error
        self._write()
        return before == error

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps([self._scores, self._error]))
        fresh.replace(self._file)

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)
