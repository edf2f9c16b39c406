"""What dies under a running study, and what it costs: a node, a worker for want of memory, a driver beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from processes import HELD, driver, progress, tiny_study, wait_until, whole_study

from tune_lt.store import Store

pytestmark = pytest.mark.slow
EPOCHS = 60


def test_a_node_that_dies_gives_its_trials_to_the_others(
    tmp_path: Path, tiny_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    for name, value in (("period_ms", "500"), ("failure_threshold", "4"), ("initial_delay_ms", "500")):
        monkeypatch.setenv(f"RAY_health_check_{name}", value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        out = tmp_path / "out.txt"
        with driver(tiny_study(tmp_path, tiny_text, EPOCHS), out, RAY_ADDRESS=cluster.address) as process:
            wait_until(lambda: progress(tmp_path)[1] == 2, out)
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


def test_a_worker_that_ray_kills_for_want_of_memory_is_a_failed_trial_that_is_tried_again(
    tmp_path: Path, tiny_text: str
) -> None:
    """Another process takes the memory, as in life; Ray's monitor kills workers, and Tune must survive that."""
    memory, room, hog = psutil.virtual_memory(), 4 * 2**30, 6 * 2**30
    if memory.available < hog + 2 * 2**30:
        pytest.skip(f"needs {(hog >> 30) + 2} GiB of free memory")
    threshold = (memory.total - memory.available + room) / memory.total
    out = tmp_path / "out.txt"
    monitor = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    hoard = f"import time; hoard = bytearray({hog}); hoard[::4096] = b'1' * len(hoard[::4096]); time.sleep(600)"
    with driver(tiny_study(tmp_path, tiny_text, EPOCHS), out, **monitor) as process:
        wait_until(lambda: progress(tmp_path)[1] == 2, out)
        other = subprocess.Popen([sys.executable, "-c", hoard])
        try:
            wait_until(lambda: "out of memory" in out.read_text(), out)
        finally:
            other.kill()
            other.wait()
        assert process.wait(600) == 0, out.read_text()
    assert "a trial is tried again: RayActorError: out of memory" in out.read_text()
    whole_study(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), "tiny", EPOCHS)


def test_a_second_driver_of_the_same_study_is_turned_away(tmp_path: Path, tiny_text: str) -> None:
    out, second, let_go = tmp_path / "out.txt", tmp_path / "second.txt", tmp_path / "let_go"
    (tmp_path / "held.py").write_text(HELD.format(file=str(let_go)))
    file = tiny_study(tmp_path, f"plugins: [held]\n{tiny_text}", 4)
    with driver(file, out) as first:
        wait_until(lambda: "trials," in out.read_text(), out)
        with driver(file, second) as process:
            assert process.wait(120) == 2, second.read_text()
        assert f"is being run by process {first.pid} on" in second.read_text()
        let_go.touch()
        assert first.wait(600) == 0, out.read_text()
    whole_study(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), "tiny", 4)
