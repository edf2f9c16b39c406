"""A tracking server under the load of many clients: what a call takes, what is lost, what memory the server takes.

The server, its database and its object store are those of `docker/`, as processes on hosts of their own (network
namespaces, as in tests/system/test_deployment.py: needs root, iproute2 and Postgres 15). Every client logs one batch of
8 metrics a second, a driver's report of an epoch; afterwards each metric of each run is read back.

    python benchmarks/load.py                     # 64 clients, ten minutes
    python benchmarks/load.py --minutes 0.2 --clients 8
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib import timing

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
import psutil
import service as lab
from hosts import Hosts
from lib import load_clients
from mlflow.tracking import MlflowClient

PROCESSES = 8  # of clients: a thread each in one process would wait for its interpreter


def server(folder: Path, database: Path) -> lab.Service:
    """MLflow, Postgres and the object store, without Ray."""
    running = lab.Service(Hosts(lab.NAMES, folder), folder, database)
    running.start_objects()
    running.make_database()
    running.start_mlflow()
    running.wait_for_mlflow()
    assert running.mlflow("POST", "users/create", username="ada", password=lab.ADA).ok
    return running


def memory(running: lab.Service, host: str) -> float:
    """MiB that a host's processes take (proportional set sizes)."""
    return sum(psutil.Process(pid).memory_full_info().pss for pid in running.hosts.running(host)) / 2**20


def missing(uri: str, seen: dict) -> int:
    """How many of a client's metrics the server has not, or has with another value."""
    store, steps = MlflowClient(uri), range(1, len(seen["times"]) + 1)
    wanted = {(step, step / 1000) for step in steps}
    lost = 0
    for name in load_clients.NAMES:
        found = [(point.step, point.value) for point in store.get_metric_history(seen["run"], name)]
        lost += len(wanted) - len(wanted & set(found)) + len(found) - len(set(found))
    return lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    if lab.missing():
        sys.exit(f"needs {', '.join(lab.missing())}")
    heading = timing.heading(packages=("mlflow", "sqlalchemy", "psycopg2-binary")) + "\n| | |\n| --- | --- |"
    processes = min(PROCESSES, options.clients)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(prefix="tlpg") as database:
        running = server(Path(folder), Path(database))
        try:
            os.environ |= {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": lab.ADA}
            experiment = MlflowClient(running.store).create_experiment("load")
            before = {host: memory(running, host) for host in ("mlflow", "postgres")}
            share = [options.clients // processes + (n < options.clients % processes) for n in range(processes)]
            script = [sys.executable, load_clients.__file__, running.store, experiment]
            started = [
                subprocess.Popen([*script, str(count), str(60 * options.minutes)], stdout=subprocess.PIPE)
                for count in share
            ]
            with ThreadPoolExecutor(processes) as pool:  # read all at once: a full pipe would hold a client up
                seen = [
                    one
                    for out in pool.map(lambda process: process.communicate()[0], started)
                    for one in json.loads(out)
                ]
            after = {host: memory(running, host) for host in before}
            lost = sum(missing(running.store, one) for one in seen if one["run"])
        finally:
            running.hosts.close()
    times = sorted(took for one in seen for took in one["times"])
    errors = [error for one in seen for error in one["errors"]]
    rate = sum(len(one["times"]) / one["took"] for one in seen if one["run"])

    def quantile(share: float) -> str:
        return f"{1000 * times[min(len(times) - 1, int(share * len(times)))]:.0f}"

    print(heading)
    sizes = {host: f"{before[host]:.0f} to {after[host]:.0f}" for host in before}
    for name, value in (
        ("clients, minutes", f"{len(seen)}, {options.minutes:g}"),
        ("calls; a second", f"{len(times)}; {rate:.1f}"),
        ("a call, ms: median, p99, longest", f"{quantile(0.5)}, {quantile(0.99)}, {1000 * times[-1]:.0f}"),
        ("calls that failed", len(errors)),
        ("metrics lost or doubled", f"{lost} of {len(times) * len(load_clients.NAMES)}"),
        ("MLflow's memory, MiB", sizes["mlflow"]),
        ("Postgres' memory, MiB", sizes["postgres"]),
    ):
        print(f"| {name} | {value} |")
    for error in errors[:5]:
        print(f"\n{error}")


if __name__ == "__main__":
    main()
