"""What dies under a running study, and what it costs: a node, a tracking server, a worker, a driver beside it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import answers, environment, free_ports, wait_until, whole_study

from tune_lt.tracking import Store

pytestmark = pytest.mark.slow
AWAY_SECONDS = 60
EPOCHS = 120  # seconds a trial: what is done to it happens in its middle
Start = Callable[..., subprocess.Popen[bytes]]


def _study(folder: Path, tiny_text: str, **changes: str) -> Path:
    """The tiny study with longer trials, and ``old=new`` replaced in it."""
    text = tiny_text.replace("epochs: 4", f"epochs: {EPOCHS}").replace(
        "concurrent: 2", "concurrent: 2, checkpoint_seconds: 0"
    )
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    file = folder / "tiny.yaml"
    file.write_text(text)
    return file


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a driver of a study; one that a failing test leaves behind is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def call(file: Path, out: Path, **extra: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tune_lt.cli", "run", str(file)]
        with open(out, "w") as stream:
            options = {"cwd": file.parent, "env": environment(**extra), "stdout": stream, "stderr": stream}
            started.append(subprocess.Popen(command, **options))  # type: ignore[call-overload]
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_node_that_dies_gives_its_trials_to_the_others(
    tmp_path: Path, tiny_text: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    for name, value in (("period_ms", "500"), ("failure_threshold", "4"), ("initial_delay_ms", "500")):
        monkeypatch.setenv(f"RAY_health_check_{name}", value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        out = tmp_path / "out.txt"
        process = start(_study(tmp_path, tiny_text), out, RAY_ADDRESS=cluster.address)
        checkpoints = tmp_path / ".tune_lt" / "tiny" / "checkpoints"
        wait_until(lambda: len(list(checkpoints.glob("*.pt"))) == 2, out)
        cluster.remove_node(nodes[0], allow_graceful=False)
        assert process.wait(600) == 0, out.read_text()
    finally:
        cluster.shutdown()
    printed = out.read_text()
    assert "a trial is tried again" in printed
    resumed = [int(epoch) for epoch in re.findall(r"the trial goes on with epoch (\d+)", printed)]
    assert resumed
    assert all(epoch > 1 for epoch in resumed), printed  # from its checkpoint
    whole_study(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), "tiny", EPOCHS)


def test_a_worker_that_is_killed_is_replaced_and_its_trial_goes_on(
    tmp_path: Path, tiny_text: str, start: Start
) -> None:
    out = tmp_path / "out.txt"
    process = start(_study(tmp_path, tiny_text), out)
    checkpoints = tmp_path / ".tune_lt" / "tiny" / "checkpoints"
    wait_until(lambda: len(list(checkpoints.glob("*.pt"))) == 2, out)
    members = psutil.Process(process.pid).children(recursive=True)
    titles = {member: " ".join(member.cmdline()) for member in members}
    workers = [member for member, title in titles.items() if title.startswith("ray::ImplicitFunc")]
    assert workers, titles
    workers[0].kill()
    assert process.wait(600) == 0, out.read_text()
    assert "a trial is tried again" in out.read_text()
    whole_study(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), "tiny", EPOCHS)


def test_a_worker_that_ray_kills_for_want_of_memory_is_a_failed_trial_that_is_tried_again(
    tmp_path: Path, tiny_text: str, start: Start
) -> None:
    """Another process takes the memory, as in life; Ray's monitor kills workers, and Tune must survive that."""
    memory, room, hog = psutil.virtual_memory(), 4 * 2**30, 6 * 2**30
    if memory.available < hog + 2 * 2**30:
        pytest.skip(f"needs {(hog >> 30) + 2} GiB of free memory")
    threshold = (memory.total - memory.available + room) / memory.total
    out = tmp_path / "out.txt"
    monitor = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    process = start(_study(tmp_path, tiny_text), out, **monitor)
    checkpoints = tmp_path / ".tune_lt" / "tiny" / "checkpoints"
    wait_until(lambda: len(list(checkpoints.glob("*.pt"))) == 2, out)
    hoard = f"import time; hoard = bytearray({hog}); hoard[::4096] = b'1' * len(hoard[::4096]); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", hoard])
    try:
        wait_until(lambda: "out of memory" in out.read_text(), out)
    finally:
        other.kill()
        other.wait()
    assert process.wait(600) == 0, out.read_text()
    assert "a trial is tried again: RayActorError: out of memory" in out.read_text()
    whole_study(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), "tiny", EPOCHS)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A real MLflow server on SQLite: its URI, and how to kill and start it."""
    (port,) = free_ports(1)
    folder = tmp_path / "server"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "a"),
    ]
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with open(folder / "log.txt", "a") as log:
            running.append(
                subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True)
            )

        wait_until(lambda: answers(port), folder / "log.txt")

    def kill() -> None:
        while running:
            process = running.pop()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    start()
    yield f"http://127.0.0.1:{port}", kill, start
    kill()


def test_a_tracking_server_that_is_away_for_a_minute_costs_no_metric(
    tmp_path: Path, tiny_text: str, start: Start, server: tuple[str, Callable[[], None], Callable[[], None]]
) -> None:
    uri, kill, restart = server
    out = tmp_path / "out.txt"
    process = start(_study(tmp_path, tiny_text), out, MLFLOW_TRACKING_URI=uri)
    wait_until(lambda: "search: 1 of 5" in out.read_text() or "2 running" in out.read_text(), out)
    kill()
    time.sleep(AWAY_SECONDS)
    restart()
    assert process.wait(600) == 0, out.read_text()
    printed = out.read_text()
    assert "the store does not answer; records wait in" in printed
    assert "the store answers again" in printed
    assert "Traceback" not in printed
    whole_study(Store(uri), "tiny", EPOCHS)
    assert not (tmp_path / ".tune_lt" / "tiny" / "journal.jsonl").exists()


def test_a_second_driver_of_the_same_study_is_turned_away(tmp_path: Path, tiny_text: str, start: Start) -> None:
    file, out = _study(tmp_path, tiny_text), tmp_path / "out.txt"
    first = start(file, out)
    wait_until(lambda: "trials," in out.read_text(), out)
    second = subprocess.run(
        [sys.executable, "-m", "tune_lt.cli", "run", str(file)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert second.returncode == 2
    assert f"is being run by process {first.pid} on" in second.stderr
    assert first.wait(600) == 0, out.read_text()
    whole_study(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), "tiny", EPOCHS)
