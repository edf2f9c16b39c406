"""Trains one cell on several Ray Train workers and yields the epoch results that one process would yield.

The trial's own process then does nothing but wait: it asks Tune only for `DRIVER`, and Ray Train reserves what its
workers need. Tune does not know of that, so the number of trials that run at once must be at most the number of groups
of workers that the cluster has room for (`groups_at_once`). With more trials, groups that each got only some of their
workers would wait for each other.
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
from tune_lt.plugins import load_plugins
from tune_lt.run.failures import may_pass, reason

# For tune.with_resources: a trial's own process waits on the head node and must not take a CPU from its workers.
DRIVER = {"cpu": 0, "node:__internal_head__": 0.001}
PARTING_SECONDS = 60.0  # for Ray Train to notice that its workers are gone
OUTSIDE: Any = None  # puts an actor into no placement group, not even into that of its creator


def epochs_on_workers(
    cell: CellConfig,
    *,
    dataset_ref: Any,
    workers: int,
    cpus: float,
    gpus: float,
    save_to: Path,
    plugins: Sequence[str] = (),
    folder: str | Path = ".",
    **options: Any,
) -> Iterator[training.EpochResult]:
    """`training.run_epochs` on ``workers`` processes with ``cpus`` and ``gpus`` each; yields rank 0's results.

    ``dataset_ref`` is the data set in Ray's object store (``ray.put``). Every worker loads ``plugins`` from ``folder``.
    ``save_to`` and ``options`` go to `training.run_epochs`. As there, an epoch's state is saved once the caller has
    taken its result. No epoch is yielded twice. Every node must see the folder of ``save_to``, since rank 0 may be on
    another node after a restart. Closing the generator ends the workers, even in the middle of an epoch.

    Raises InputError for a configuration or data that cannot be trained, or a part of a GPU for each of several
    workers; TrainingFailed when the loss is no longer finite; any other exception if a worker dies: the caller should
    try again, which continues from the last state.
    """
    check_resources(workers, gpus)
    save_to.parent.mkdir(parents=True, exist_ok=True)
    task = {
        "cell": cell,
        "dataset": dataset_ref,
        "threads": max(1, int(cpus)),
        "plugins": tuple(plugins),
        "folder": str(folder),
        "options": {**options, "save_to": save_to},
    }
    group = _start(task, workers, cpus, gpus)
    try:
        epoch = 0
        while epoch < cell.recipe.epochs:
            found = ray.get(group.get.remote())
            if isinstance(found, BaseException):
                raise found
            if found.epoch > epoch:  # Ray Train may have started the group again, which then repeats an epoch
                epoch = found.epoch
                yield found
            ray.get(group.taken.remote())
        ray.get(group.ended.remote())  # the workers still save the last state
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # it is gone already, or ends itself later
            ray.get(group.close.remote(), timeout=PARTING_SECONDS)
            ray.kill(group)


def check_resources(workers: int, gpus: float) -> None:
    """Raise InputError for several workers with a part of a GPU each."""
    if workers > 1 and gpus != int(gpus):
        raise InputError(
            f"resources: {workers} workers with gpus: {gpus:g} each; several workers cannot share a GPU, so it must be "
            f"a whole number"
        )


def groups_at_once(nodes: Sequence[Mapping[str, float]], *, workers: int, cpus: float, gpus: float) -> int:
    """How many groups of ``workers`` can run at the same time.

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
    """Start the actor that starts the workers."""
    inside = ray.get_runtime_context().get_actor_id() is not None
    options: dict[str, Any] = {"num_cpus": 0}
    if inside:
        # Tune may end the trial, with its placement group: the actor must live until it has ended the workers.
        options |= {"lifetime": "detached", "scheduling_strategy": PlacementGroupSchedulingStrategy(OUTSIDE)}
    group: Any = ray.remote(**options)(_Group).remote()
    caller = ray.get_runtime_context().current_actor if inside else None
    ray.get(group.start.remote(caller, task, workers, cpus, gpus))
    return group


class _Group:
    """Runs Ray Train, passes its results on one by one, and ends the workers when the caller ends.

    It is an actor because Ray Train's controller dies with the process that started it. It would then leave its
    placement group behind, as well as an actor that should remove that group but needs Ray's dashboard to do so.
    """

    def __init__(self) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._workers: list[Any] = []
        self._closed = False

    async def start(self, caller: Any, task: dict[str, Any], workers: int, cpus: float, gpus: float) -> None:
        """Start the workers. They are ended when the actor ``caller`` ends (None: only by `close`)."""
        task = {**task, "group": ray.get_runtime_context().current_actor}
        self._fitting = asyncio.create_task(self._fit(task, workers, cpus, gpus))
        if caller is not None:
            self._watching = asyncio.create_task(self._watch(caller))

    async def _fit(self, task: dict[str, Any], workers: int, cpus: float, gpus: float) -> None:
        storage: Path = task["options"]["save_to"].parent.absolute()
        name = f"workers-{uuid.uuid4().hex}"  # unique, since Ray Train would restore the state of a run with its name

        def fit() -> None:
            TorchTrainer(
                _work,
                train_loop_config=task,
                scaling_config=ScalingConfig(
                    num_workers=workers,
                    use_gpu=gpus > 0,
                    resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
                ),
                # Tune counts the attempts of a trial and tries it again; the trial then continues from the saved state.
                run_config=RunConfig(
                    name=name, storage_path=str(storage), failure_config=FailureConfig(max_failures=0)
                ),
            ).fit()

        outcome: Exception = RuntimeError("the workers ended before the last epoch")
        try:
            await asyncio.to_thread(fit)
        except Exception as error:
            outcome = error
        shutil.rmtree(storage / name, ignore_errors=True)
        await self._items.put(outcome)  # for a caller that still waits for a result

    async def _watch(self, caller: Any) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            while True:
                await caller.__ray_ready__.remote()
                await asyncio.sleep(1)
        await self.close()
        os._exit(0)  # nothing else would end this actor

    async def enter(self, worker: Any) -> bool:
        """Register a worker that has started; False if it should end at once."""
        self._workers.append(worker)
        return not self._closed

    async def put(self, item: Any) -> None:
        """Pass on a result or an error, and wait until the caller of the generator has processed it."""
        await self._items.put(item)
        await self._items.join()

    async def get(self) -> Any:
        """The next result, or the error that ended the group."""
        return await self._items.get()

    async def taken(self) -> None:
        """Let `put` return: the caller has processed the result."""
        self._items.task_done()

    async def ended(self) -> None:
        """Wait until all workers have ended by themselves."""
        await asyncio.wait([self._fitting])

    async def close(self) -> None:
        """End the workers, including those that are starting, and wait until Ray Train has released their resources."""
        self._closed = True
        for worker in self._workers:
            ray.kill(worker)
        await self.ended()


def _work(task: dict[str, Any]) -> None:
    """The training loop of each worker. Ray Train has set up the process group."""
    group = task["group"]
    if not ray.get(group.enter.remote(ray.get_runtime_context().current_actor)):
        return
    torch.set_num_threads(task["threads"])
    load_plugins(task["plugins"], Path(task["folder"]))
    try:
        results = training.run_epochs(
            task["cell"], dataset=ray.get(task["dataset"]), device=str(get_device()), **task["options"]
        )
        for result in results:
            if distributed.rank() == 0:
                ray.get(group.put.remote(result))
    except (TrainingFailed, InputError) as error:
        ray.get(group.put.remote(error))  # of any rank, since the other ranks may wait for it
    except Exception as error:
        if may_pass(error):
            raise
        ray.get(group.put.remote(RuntimeError(reason(error))))  # its own class may not be known to the caller
