"""The clients of `load.py`, some of them in this process, a thread each; what they saw as JSON on the standard output.

Without torch. Each logs one batch a second to a run of its own, as a driver does an epoch of a trial.

    python benchmarks/lib/load_clients.py URI EXPERIMENT COUNT SECONDS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

NAMES = ("train/loss", *(f"val/{name}" for name in ("top1", "balanced", "many", "medium", "few", "rare")), "seconds")


def client(uri: str, experiment: str, number: int, seconds: float) -> dict[str, Any]:
    """One client's run, the seconds of each of its reports and what failed; it never waits less than it is behind."""
    mlflow = MlflowClient(uri)
    seen: dict[str, Any] = {"run": None, "times": [], "errors": [], "took": 0.0}

    def call(name: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:
            seen["errors"].append(f"client {number}, {name}: {str(error).splitlines()[0]}")

    run = call("create_run", lambda: mlflow.create_run(experiment, run_name=f"client {number}"))
    if run is None:
        return seen
    seen["run"] = run.info.run_id
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        called, at, step = time.monotonic(), int(1000 * time.time()), len(seen["times"]) + 1
        metrics = [Metric(name, step / 1000, at, step) for name in NAMES]
        call(f"step {step}", partial(mlflow.log_batch, seen["run"], metrics=metrics))
        seen["times"].append(time.monotonic() - called)
        time.sleep(max(0.0, called + 1 - time.monotonic()))
    seen["took"] = time.monotonic() - began
    call("set_terminated", lambda: mlflow.set_terminated(seen["run"]))
    return seen


def main() -> None:
    uri, experiment, count, seconds = sys.argv[1:]
    with ThreadPoolExecutor(int(count)) as pool:
        asked = [pool.submit(client, uri, experiment, number, float(seconds)) for number in range(int(count))]
        json.dump([one.result() for one in asked], sys.stdout)


if __name__ == "__main__":
    main()
