"""The clients of `load.py`, some of them in this process, a thread each; what they saw as JSON on the standard output.

Without torch. Each logs one batch a second to a run of its own, as a driver does an epoch of a trial.

    python benchmarks/load_clients.py URI EXPERIMENT COUNT SECONDS
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

NAMES = ("train/loss", *(f"val/{name}" for name in ("top1", "balanced", "many", "medium", "few", "rare")), "seconds")


def client(uri: str, experiment: str, number: int, seconds: float) -> dict[str, Any]:
    """One client's run, the seconds of each of its calls and what failed; it never waits less than it is behind."""
    mlflow = MlflowClient(uri)
    run = mlflow.create_run(experiment, run_name=f"client {number}").info.run_id
    times: list[float] = []
    errors: list[str] = []
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        step = len(times) + 1
        at = int(1000 * time.time())
        metrics = [Metric(name, step / 1000, at, step) for name in NAMES]
        called = time.monotonic()
        try:
            mlflow.log_batch(run, metrics=metrics)
        except Exception as error:
            errors.append(f"step {step}: {str(error).splitlines()[0]}")
        times.append(time.monotonic() - called)
        time.sleep(max(0.0, called + 1 - time.monotonic()))
    took = time.monotonic() - began
    mlflow.set_terminated(run)
    return {"run": run, "times": times, "errors": errors, "took": took}


def main() -> None:
    uri, experiment, count, seconds = sys.argv[1:]
    with ThreadPoolExecutor(int(count)) as pool:
        asked = [pool.submit(client, uri, experiment, number, float(seconds)) for number in range(int(count))]
        json.dump([one.result() for one in asked], sys.stdout)


if __name__ == "__main__":
    main()
