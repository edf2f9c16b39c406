"""What the benchmarks of the search share: the study, a trainable that trains nothing, and one run of our whole path.

Each measurement has a process of its own (`in_process`), a fresh SQLite store and a Ray of its own, all below a
temporary folder. Ray is imported inside functions only: `tune_lt.run.driver` sets its environment first.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "benchmark"
STUDY = """\
name: {name}
data: {{name: digits, imbalance: 20}}
model: {{name: resnet8, width: 4}}
recipe: {{epochs: {reports}, batch_size: 64}}
loss: {{name: ghm_cwap, alpha: {{uniform: [0.3, 1.0]}}, gamma: {{uniform: [0.0, 1.5]}}}}
search: {{sampler: {sampler}, trials: {trials}, seed: 0, scheduler: none}}
resources: {{cpus: 1, gpus: 0, concurrent: {concurrent}}}
"""
CONCURRENT = 2
CLASSES = 10
PATIENCE_SECONDS = 3600.0  # for the store to catch up with thousands of trials that take no time
PACKAGES = ("tune-lt", "ray", "optuna", "mlflow", "SQLAlchemy")


@dataclass
class Times:
    """When what happened, in seconds of `time.monotonic`."""

    began: float = field(default_factory=time.monotonic)
    started: list[float] = field(default_factory=list)  # a trial began
    ended: list[float] = field(default_factory=list)  # a trial ended
    recorded: float = 0.0  # the store has the last of them
    over: float = 0.0  # Ray is down

    @property
    def per_trial(self) -> float:
        """Seconds a trial, from after the first one ended until the last one is in the store."""
        return (self.recorded - self.ended[0]) / (len(self.ended) - 1)

    @property
    def wall(self) -> float:
        """Seconds of the whole run, Ray's start and end included."""
        return self.over - self.began


def reports(count: int, alpha: float, gamma: float) -> Iterator[dict[str, Any]]:
    """What `tune_lt.training.results.content` would make of ``count`` epochs, without training."""
    from tune_lt.documents import PerClass

    for epoch in range(1, count + 1):
        score = (1 - (alpha - 0.7) ** 2 - (gamma - 1) ** 2) * epoch / count
        content = {"epoch": epoch, "final": epoch == count, "seconds": 0.001, "train/loss": 1 - score}
        content |= {"val/top1": score, "val/balanced": score}
        if epoch == count:
            content |= {"memory": 1, "norms": None, "by_image": None}
            content["classes"] = PerClass((), (1,) * CLASSES, val=(score,) * CLASSES)
        yield content


def train_cell(config: dict[str, Any], **shared: Any) -> None:
    """In place of the product's trainable: as many reports as the cell has epochs, at once."""
    from ray import tune

    for report in planned_reports(config["planned"]):
        tune.report(report)


def planned_reports(planned: Any) -> Iterator[dict[str, Any]]:
    """`reports` as the product's trainable makes them of a planned trial of one cell."""
    cell = planned.units[0].cell
    for report in reports(cell.recipe.epochs, cell.loss["alpha"], cell.loss["gamma"]):
        place = {"unit": 0, "units": 1, "step": report["epoch"], "unit_final": report["final"], "known": False}
        yield report | place | {f"mean:{name}": report[name] for name in planned.watched}


def run_ours(
    folder: Path,
    trials: int,
    *,
    reports: int = 1,
    sampler: str = "random",
    tracked: bool = True,
    trainable: Callable[..., None] = train_cell,
    on_end: Callable[[int], None] = lambda ended: None,
) -> Times:
    """One study through the product's driver, on the store in ``folder``; only the trainable is replaced.

    ``tracked=False`` leaves out the journal, and with it all that is recorded of a trial. ``on_end`` hears how many
    trials have ended.
    """
    from rich.console import Console

    from tune_lt.run import driver, runner
    from tune_lt.run.display import Display
    from tune_lt.store import Store
    from tune_lt.study import reader

    times = Times()

    class TimedJournal(driver.Journal):
        def start(self, *arguments: Any) -> None:
            times.started.append(time.monotonic())
            if tracked:
                super().start(*arguments)

        def epoch(self, *arguments: Any) -> None:
            if tracked:
                super().epoch(*arguments)

        def end(self, *arguments: Any) -> None:
            times.ended.append(time.monotonic())
            times.recorded = times.ended[-1]
            on_end(len(times.ended))
            if tracked:
                super().end(*arguments)

        def drain(self, patience: float = 0.0) -> None:
            super().drain(PATIENCE_SECONDS)

        def _send_end(self, *arguments: Any) -> None:
            super()._send_end(*arguments)
            times.recorded = time.monotonic()

    driver.Journal, runner.train_cell = TimedJournal, trainable  # type: ignore[misc,assignment]
    for_workers(trainable)
    text = STUDY.format(name=NAME, reports=reports, sampler=sampler, trials=trials, concurrent=CONCURRENT)
    study = reader.parse(text, folder)
    if not driver.run_study(study, Store(store_uri(folder)), Display(Console(file=io.StringIO()))).whole:
        raise RuntimeError("the study did not come to its end")
    times.over = time.monotonic()
    return times


def for_workers(trainable: Callable[..., Any]) -> None:
    """Let Ray's workers have our functions themselves, not the names of modules that they would not find."""
    from ray import cloudpickle

    for module in (__name__, trainable.__module__):
        cloudpickle.register_pickle_by_value(sys.modules[module])


def store_uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def _make_store(folder: Path) -> None:
    from tune_lt.store import Store

    Store(store_uri(folder))


@contextmanager
def workplace() -> Iterator[Callable[[], Path]]:
    """Gives a function that makes folders with an empty store in them; what Ray writes goes there too."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="b_", ignore_cleanup_errors=True) as name:
        os.environ["TMPDIR"] = name  # Ray's sockets are there: the path must stay short
        place = Path(name)
        empty = place / "empty"
        empty.mkdir()
        in_process(_make_store, empty)  # MLflow takes seconds to make the tables

        def fresh() -> Path:
            folder = Path(tempfile.mkdtemp(dir=place))
            shutil.copy(empty / "mlflow.db", folder)
            return folder

        try:
            yield fresh
        finally:
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before
    if place.exists():  # a process of Ray's that was on its way out wrote once more
        time.sleep(2)
        shutil.rmtree(place, ignore_errors=True)


def in_process(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function of a module in a new process, and give what it returns."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments, **options).result()
