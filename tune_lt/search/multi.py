"""One cell on several Ray Train workers: the same epoch results as one process gives, as they come.

The trial itself is then a thin driver: it asks Tune for `DRIVER` and no more, while Ray Train reserves what its workers
need by itself. Tune knows nothing of that, so as many trials may run at once as the cluster has room for groups
(`groups_at_once`): with more, groups of which each has some of its workers would wait for each other.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from tune_lt import parallel, studyfile, training
from tune_lt.config import CellConfig
from tune_lt.errors import InputError, TrainingFailed

DRIVER = {"cpu": 0.01}  # for tune.with_resources: the driver waits for its workers all the time
PARTING_SECONDS = 60.0  # for Ray Train to notice that its workers are gone


def epochs_on_workers(
    cell: CellConfig,
    *,
    dataset_ref: Any,
    workers: int,
    cpus: float,
    gpus: float,
    save_to: Path,
    save_seconds: float = 0.0,
    plugins: Sequence[str] = (),
    folder: str | Path = ".",
    identity: str = "",
    score_test: bool = False,
) -> Iterator[training.EpochResult]:
    """`training.run_epochs` on ``workers`` processes with ``cpus`` and ``gpus`` each; yields rank 0's results.

    ``dataset_ref`` is the data set in Ray's object store (``ray.put``). ``plugins`` are loaded from ``folder`` in every
    worker; the rest is `training.run_epochs`'s. As there, the state is saved once the caller has taken a result, and
    never twice the same epoch is yielded. The folder of ``save_to`` must be one that every node sees: a group that
    starts again may find rank 0 elsewhere. Closing the generator ends the workers, in the middle of an epoch too.

    Raises InputError for a configuration or data that cannot be trained, or a part of a GPU for each of several
    workers; TrainingFailed when the loss is no longer finite; any other exception if a worker dies: to be tried again,
    from the last state.
    """
    check_resources(workers, gpus)
    exchange: Any = ray.remote(num_cpus=0)(_Exchange).remote()
    name = f"workers-{uuid.uuid4().hex}"  # Ray Train must not take another run's state for its own
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "exchange": exchange,
            "dataset": dataset_ref,
            "cell": cell,
            "threads": max(1, int(cpus)),
            "plugins": tuple(plugins),
            "folder": str(folder),
            "options": {
                "score_test": score_test,
                "save_to": save_to,
                "save_seconds": save_seconds,
                "identity": identity,
            },
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        # A dead worker is Tune's to count: it tries the trial again, which goes on from the saved state.
        run_config=RunConfig(
            name=name, storage_path=str(save_to.parent.absolute()), failure_config=FailureConfig(max_failures=0)
        ),
    )
    save_to.parent.mkdir(parents=True, exist_ok=True)
    fitting = threading.Thread(target=_fit, args=(trainer, exchange), daemon=True)
    fitting.start()
    try:
        epoch = 0
        while epoch < cell.recipe.epochs:
            found = ray.get(exchange.get.remote())
            if isinstance(found, BaseException):
                raise found
            if found.epoch > epoch:  # not one that a group which Ray Train started again repeats
                epoch = found.epoch
                yield found
            ray.get(exchange.taken.remote())
        fitting.join()  # the last state is being saved
    finally:
        for worker in ray.get(exchange.close.remote()):
            ray.kill(worker)
        fitting.join(PARTING_SECONDS)
        ray.kill(exchange)
        shutil.rmtree(save_to.parent / name, ignore_errors=True)


def check_resources(workers: int, gpus: float) -> None:
    """Raise InputError for what cannot be given to each of ``workers``."""
    if workers > 1 and gpus != int(gpus):
        raise InputError(
            f"resources: {workers} workers with gpus: {gpus:g} each; several workers cannot share a GPU, so it must be "
            f"a whole number"
        )


def groups_at_once(nodes: Sequence[Mapping[str, float]], *, workers: int, cpus: float, gpus: float) -> int:
    """How many groups of ``workers`` have room on ``nodes`` (the ``Resources`` of ``ray.nodes()``) at the same time."""
    needs = {"CPU": cpus, "GPU": gpus}
    room = sum(
        min((math.floor(node.get(kind, 0) / need + 1e-9) for kind, need in needs.items() if need), default=workers)
        for node in nodes
    )
    return room // workers


def _fit(trainer: TorchTrainer, exchange: Any) -> None:
    """Run the group to its end, and tell the generator, which may be waiting for a result, how that was."""
    try:
        trainer.fit()
        outcome: Exception = RuntimeError("the workers ended before the last epoch")
    except Exception as error:
        outcome = error
    exchange.tell.remote(outcome)


def _work(config: dict[str, Any]) -> None:
    """What each worker does; its process group is Ray Train's."""
    exchange = config["exchange"]
    if not ray.get(exchange.enter.remote(ray.get_runtime_context().current_actor)):
        return
    torch.set_num_threads(config["threads"])
    studyfile.load_plugins(config["plugins"], Path(config["folder"]))
    try:
        results = training.run_epochs(
            config["cell"], dataset=ray.get(config["dataset"]), device=str(get_device()), **config["options"]
        )
        for result in results:
            if parallel.rank() == 0:
                ray.get(exchange.put.remote(result))
    except (TrainingFailed, InputError) as error:
        ray.get(exchange.put.remote(error))  # any rank's: the others may be waiting for this one


class _Exchange:
    """Between the workers and the generator: one result at a time, and who the workers are."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._workers: list[Any] = []
        self._closed = False

    async def enter(self, worker: Any) -> bool:
        """A worker says that it is there; whether it is still wanted."""
        self._workers.append(worker)
        return not self._closed

    async def put(self, item: Any) -> None:
        """Hand over a result or an error, and wait until the generator's caller is done with it."""
        await self._items.put(item)
        await self._items.join()

    async def tell(self, item: Any) -> None:
        """Hand over without waiting."""
        await self._items.put(item)

    async def get(self) -> Any:
        return await self._items.get()

    async def taken(self) -> None:
        self._items.task_done()

    async def close(self) -> list[Any]:
        """All workers that have entered; those that enter from now on are sent away."""
        self._closed = True
        return self._workers
