"""One cell on several Ray Train workers: the same epoch results as one process gives, as they come.

The trial itself is then a thin driver: it asks Tune for `DRIVER` and no more, while Ray Train reserves what its workers
need by itself. Tune knows nothing of that, so as many trials may run at once as the cluster has room for groups
(`groups_at_once`): with more, groups of which each has some of its workers would wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tune_lt import distributed, training
from tune_lt.config import CellConfig
from tune_lt.errors import InputError, TrainingFailed
from tune_lt.study import reader

# For tune.with_resources: the driver does nothing but wait, on the head, and must not keep a CPU from its workers.
DRIVER = {"cpu": 0, "node:__internal_head__": 0.001}
PARTING_SECONDS = 60.0  # for Ray Train to notice that its workers are gone
OUTSIDE: Any = None  # the placement group of an actor that is to be in none, not even that of its creator


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
    loaders: int = 0,
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
    save_to.parent.mkdir(parents=True, exist_ok=True)
    task = {
        "cell": cell,
        "dataset": dataset_ref,
        "threads": max(1, int(cpus)),
        "plugins": tuple(plugins),
        "folder": str(folder),
        "options": {
            "score_test": score_test,
            "save_to": save_to,
            "save_seconds": save_seconds,
            "identity": identity,
            "loaders": loaders,
        },
    }
    group = _start(task, workers, cpus, gpus)
    try:
        epoch = 0
        while epoch < cell.recipe.epochs:
            found = ray.get(group.get.remote())
            if isinstance(found, BaseException):
                raise found
            if found.epoch > epoch:  # not one that a group which Ray Train started again repeats
                epoch = found.epoch
                yield found
            ray.get(group.taken.remote())
        ray.get(group.ended.remote())  # the last state is being saved
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # it may be gone already, or need longer: it goes by itself
            ray.get(group.close.remote(), timeout=PARTING_SECONDS)
            ray.kill(group)


def check_resources(workers: int, gpus: float) -> None:
    """Raise InputError for what cannot be given to each of ``workers``."""
    if workers > 1 and gpus != int(gpus):
        raise InputError(
            f"resources: {workers} workers with gpus: {gpus:g} each; several workers cannot share a GPU, so it must be "
            f"a whole number"
        )


def groups_at_once(nodes: Sequence[Mapping[str, float]], *, workers: int, cpus: float, gpus: float) -> int:
    """How many groups of ``workers`` have room at the same time.

    ``nodes``: the ``Resources`` of each of ``ray.nodes()`` that is ``Alive``. A worker needs ``cpus`` and ``gpus`` on
    one node; the workers of a group may be on several.
    """
    needs = {"CPU": cpus, "GPU": gpus}
    room = sum(
        min((math.floor(node.get(kind, 0) / need + 1e-9) for kind, need in needs.items() if need), default=workers)
        for node in nodes
    )
    return room // workers


def _start(task: dict[str, Any], workers: int, cpus: float, gpus: float) -> Any:
    """The actor that has ``workers`` carry out ``task``."""
    inside = ray.get_runtime_context().get_actor_id() is not None
    options: dict[str, Any] = {"num_cpus": 0}
    if inside:
        # It outlives a trial that Tune ends, outside of the trial's placement group, for as long as tidying up takes.
        options |= {"lifetime": "detached", "scheduling_strategy": PlacementGroupSchedulingStrategy(OUTSIDE)}
    group: Any = ray.remote(**options)(_Group).remote()
    caller = ray.get_runtime_context().current_actor if inside else None
    ray.get(group.start.remote(group, caller, task, workers, cpus, gpus))
    return group


class _Group:
    """Runs Ray Train, hands its results over one by one, and takes the workers down with whoever asked for them.

    In a process of its own because Ray Train's controller dies with the process that started it, and then leaves its
    placement group behind, and an actor that is to remove it but needs Ray's dashboard for that.
    """

    def __init__(self) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._workers: list[Any] = []
        self._closed = False
        self._fitting: asyncio.Future[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(
        self, itself: Any, caller: Any, task: dict[str, Any], workers: int, cpus: float, gpus: float
    ) -> None:
        """Start the workers, for as long as the actor ``caller`` lives (None: until `close`)."""
        self._fitting = asyncio.get_running_loop().run_in_executor(
            None, self._fit, {**task, "group": itself}, workers, cpus, gpus
        )
        if caller is not None:
            self._watching = asyncio.create_task(self._watch(caller))

    def _fit(self, task: dict[str, Any], workers: int, cpus: float, gpus: float) -> None:
        storage: Path = task["options"]["save_to"].parent.absolute()
        name = f"workers-{uuid.uuid4().hex}"  # Ray Train must not take another run's state for its own
        outcome: Exception = RuntimeError("the workers ended before the last epoch")
        try:
            TorchTrainer(
                _work,
                train_loop_config=task,
                scaling_config=ScalingConfig(
                    num_workers=workers,
                    use_gpu=gpus > 0,
                    resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
                ),
                # A dead worker is Tune's to count: it tries the trial again, which goes on from the saved state.
                run_config=RunConfig(
                    name=name, storage_path=str(storage), failure_config=FailureConfig(max_failures=0)
                ),
            ).fit()
        except Exception as error:
            outcome = error
        shutil.rmtree(storage / name, ignore_errors=True)
        ray.get(task["group"].tell.remote(outcome))  # who waits for a result must not wait for ever

    async def _watch(self, caller: Any) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            while True:
                await caller.__ray_ready__.remote()
                await asyncio.sleep(1)
        await self.close()
        os._exit(0)  # nobody is left to end this actor

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
        """The next result, or the error that ended the group."""
        return await self._items.get()

    async def taken(self) -> None:
        """The caller is done with what `get` gave."""
        self._items.task_done()

    async def ended(self) -> None:
        """Wait until all workers have ended by themselves."""
        assert self._fitting is not None
        await asyncio.wait([self._fitting])

    async def close(self) -> None:
        """End the workers, those too that are only starting, and wait for Ray Train to give back what they had."""
        self._closed = True
        for worker in self._workers:
            ray.kill(worker)
        await self.ended()


def _work(task: dict[str, Any]) -> None:
    """What each worker does; its process group is Ray Train's."""
    group = task["group"]
    if not ray.get(group.enter.remote(ray.get_runtime_context().current_actor)):
        return
    torch.set_num_threads(task["threads"])
    reader.load_plugins(task["plugins"], Path(task["folder"]))
    try:
        results = training.run_epochs(
            task["cell"], dataset=ray.get(task["dataset"]), device=str(get_device()), **task["options"]
        )
        for result in results:
            if distributed.rank() == 0:
                ray.get(group.put.remote(result))
    except (TrainingFailed, InputError) as error:
        ray.get(group.put.remote(error))  # any rank's: the others may be waiting for this one
