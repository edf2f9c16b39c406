"""A cell on Ray Train workers: the same results, inside Tune too; a worker that dies, a caller that goes away."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import tune

from tune_lt import data, models, training
from tune_lt.config import Augment, CellConfig, Recipe
from tune_lt.errors import InputError
from tune_lt.plugins import load_plugins
from tune_lt.run import workers as on_ray

CELL = CellConfig(
    data={"name": "digits", "imbalance": 20.0},
    model={"name": "double"},
    loss={"name": "ghm_cwap"},
    recipe=Recipe(epochs=3, batch_size=54, augment=Augment(crop=1, flip=False), clip_norm=1.0),
    fold="holdout",
    holdout=0.2,
)
PLUGIN = """
from torch import nn
from tune_lt import models

class Double(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.net = models.resnet8(classes, channels, width=4).double()

    def forward(self, x):
        return self.net(x.double())

models.register("double")(Double)
"""


def test_part_of_a_gpu_for_each_of_several_workers_is_refused(tmp_path: Path) -> None:
    run = on_ray.epochs_on_workers(CELL, dataset_ref=None, workers=2, cpus=1, gpus=0.5, save_to=tmp_path / "state.pt")
    with pytest.raises(InputError, match=r"2 workers with gpus: 0\.5 each; several workers cannot share a GPU"):
        next(run)
    on_ray.check_resources(1, 0.5)
    on_ray.check_resources(2, 0)
    on_ray.check_resources(2, 2.0)


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus", "groups"),
    [
        ([{"CPU": 8.0, "GPU": 4.0}], 2, 1, 1, 2),
        ([{"CPU": 2.0, "GPU": 4.0}], 2, 1, 1, 1),
        ([{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 1.0}], 2, 1, 1, 2),  # a group may stand on two nodes
        ([{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 3.0}], 2, 1, 2, 1),  # a worker may not
        ([{"CPU": 8.0}], 2, 1, 1, 0),
        ([{"CPU": 0.3}], 3, 0.1, 0, 1),
    ],
)
def test_groups_at_once(nodes: list[dict[str, float]], workers: int, cpus: float, gpus: float, groups: int) -> None:
    assert on_ray.groups_at_once(nodes, workers=workers, cpus=cpus, gpus=gpus) == groups


@pytest.fixture(scope="module")
def dataset_ref() -> Iterator[Any]:
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield ray.put(data.build("digits"))
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study's folder with a plugin, which this process has loaded."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "in_float64.py").write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        load_plugins(("in_float64",), folder)
        yield folder
    del sys.modules["in_float64"], models.MODELS["double"]


@pytest.fixture
def options(tmp_path: Path, folder: Path, dataset_ref: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "cpus": 0.5,
        "gpus": 0,
        "dataset_ref": dataset_ref,
        "save_to": tmp_path / "states" / "state.pt",
        "plugins": ("in_float64",),
        "folder": folder,
    }


def _agree(results: list[training.EpochResult]) -> None:
    """Whether these are the results of one process; test_parallel says how exactly they are."""
    expected = list(training.run_epochs(CELL, device="cpu"))
    for one, many in zip(expected, results, strict=True):
        assert many.train_loss == pytest.approx(one.train_loss, rel=1e-5)
        assert (many.epoch, many.val, many.class_counts) == (one.epoch, one.val, one.class_counts)


def _workers(kinds: tuple[str, ...] = ("RayTrainWorker",)) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
            found += [process] if any(kind in command for kind in kinds) else []
        except psutil.Error:
            continue  # gone in the meantime
    return found


def _all_free() -> bool:
    """Whether the workers go, with all that looked after them, and what they had comes back, within a while."""
    kinds = ("RayTrainWorker", "TrainController", "PlacementGroupCleaner", "_Group")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not _workers(kinds) and ray.available_resources().get("CPU") == 4:
            return True
        time.sleep(0.5)
    return False


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_train_what_one_process_trains(options: dict[str, Any]) -> None:
    results = list(on_ray.epochs_on_workers(CELL, **options))
    _agree(results)
    assert results[-1].final
    again = list(on_ray.epochs_on_workers(CELL, **options))  # the last state was saved
    assert [result.val for result in again] == [results[-1].val]
    assert [file.name for file in options["save_to"].parent.iterdir()] == ["state.pt"]
    assert _all_free()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dead_worker_is_an_error_and_the_next_try_goes_on(options: dict[str, Any]) -> None:
    run = on_ray.epochs_on_workers(CELL, **options)
    first = [next(run), next(run)]
    _workers()[-1].kill()
    with pytest.raises(Exception, match="worker") as caught:
        list(run)
    assert not isinstance(caught.value, InputError)
    assert _all_free()
    rest = list(on_ray.epochs_on_workers(CELL, **options))
    assert rest[0].epoch in (2, 3)  # the first epoch was saved, the second perhaps
    _agree([*first[: rest[0].epoch - 1], *rest])

    options["save_to"].write_text("no state")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        next(on_ray.epochs_on_workers(CELL, **options))
    assert _all_free()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_on_workers_inside_tune(options: dict[str, Any], tmp_path: Path) -> None:
    """One runs to its end, one is stopped by Tune in the middle; no worker outlives its trial."""

    def trial(config: dict[str, Any], options: dict[str, Any]) -> None:
        save_to = options["save_to"].with_name(f"{config['number']}.pt")
        for result in on_ray.epochs_on_workers(CELL, **{**options, "save_to": save_to}):
            tune.report({"epoch": result.epoch, "number": config["number"], **result.as_metrics()})

    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, options=options), on_ray.DRIVER),
        param_space={"number": tune.grid_search([0, 1, 2])},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=False),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path), verbose=0, stop=lambda _, report: report["number"] == 1 and report["epoch"] == 2
        ),
    )
    last = {result.metrics["number"]: result.metrics for result in tuner.fit()}  # type: ignore[attr-defined]
    assert {number: metrics["epoch"] for number, metrics in last.items()} == {0: 3, 1: 2, 2: 3}
    assert last[0]["val/top1"] == last[2]["val/top1"]
    assert _all_free()
