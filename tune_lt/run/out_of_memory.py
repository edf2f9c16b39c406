"""Workers that Ray kills because a host runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

from tune_lt.run.failures import OUT_OF_MEMORY
from tune_lt.texts import first_line


@contextmanager
def kills_fail_trials() -> Iterator[None]:
    """While Tune runs in this block, a kill fails only its trial, which is tried again as after any other death.

    Ray 2.60's actor manager handles errors of actors and of their tasks. Its OutOfMemoryError is neither of them and
    would end the whole search.
    """
    manager: Any = RayActorManager
    before = manager._actor_task_failed

    def failed(self: Any, *, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=f"{OUT_OF_MEMORY}{first_line(exception)}")
        before(self, tracked_actor_task=tracked_actor_task, exception=exception)

    manager._actor_task_failed = failed
    try:
        yield
    finally:
        manager._actor_task_failed = before
