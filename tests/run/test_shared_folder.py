"""A cluster whose nodes do not share the folder of the checkpoints is found out before anything is trained."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tune_lt.errors import InputError
from tune_lt.run.shared_folder import check_shared, checkpoint_folder
from tune_lt.store import Store
from tune_lt.study import reader
from tune_lt.study.checks import Problems

OWN = (  # how a node comes to see the folder otherwise: another disk at its path, the same one read-only
    "mount -t tmpfs tmpfs {folder}",
    "mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}",
)
may_mount = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@contextlib.contextmanager
def _node(address: str, before: str, log: Path) -> Iterator[None]:
    """A node of the cluster whose processes see the files as they are after ``before``."""
    start = f"{sys.executable} -m ray.scripts.scripts start --address={address} --num-cpus=1 --block"
    environment = os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    with open(log, "w") as stream:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", f"{before} && exec {start}"],
            env=environment, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for(nodes: int, log: Path) -> None:
    until = time.monotonic() + 90
    while sum(node["Alive"] for node in ray.nodes()) < nodes:
        if time.monotonic() > until:
            pytest.fail(f"no {nodes} nodes within 90 s:\n{log.read_text()}")
        time.sleep(0.2)


def test_states_lie_beside_the_store_or_where_the_study_says(tmp_path: Path, tiny_text: str, empty_store: Path) -> None:
    store = Store(f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    study = reader.parse(tiny_text, tmp_path)
    assert checkpoint_folder(study, store) == tmp_path / ".tune_lt" / "tiny" / "checkpoints"
    study = reader.parse(tiny_text.replace("{cpus: 1", "{storage: /shared, cpus: 1"), tmp_path)
    assert checkpoint_folder(study, store) == Path("/shared/tiny/checkpoints")
    with pytest.raises(Problems, match=r"resources\.storage: found 'shared'; valid: an absolute path"):
        reader.parse(tiny_text.replace("{cpus: 1", "{storage: shared, cpus: 1"), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not may_mount, reason="needs the right to make a mount namespace")
def test_nodes_that_do_not_share_the_folder_are_named(tmp_path: Path) -> None:
    folder, log = tmp_path / "checkpoints", tmp_path / "node.txt"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        ray.init(cluster.address, log_to_driver=False)
        check_shared(folder)
        assert not folder.exists()  # one node: nobody is asked
        cluster.add_node(num_cpus=1)
        _wait_for(2, log)
        check_shared(folder)
        assert list(folder.iterdir()) == []
        with contextlib.ExitStack() as nodes:
            for count, before in enumerate(OWN, 3):  # one after the other: at once they would take the same names
                nodes.enter_context(_node(cluster.address, before.format(folder=folder), log))
                _wait_for(count, log)
            with pytest.raises(InputError) as caught:
                check_shared(folder)
        message = str(caught.value)
        assert message.startswith(f"{folder}: not shared by 2 of the cluster's 4 nodes: ")
        assert "(sees another folder at this path)" in message
        assert "(cannot use it: Read-only file system)" in message
        assert "resources: {storage: /shared/folder}" in message
        assert list(folder.iterdir()) == []
    finally:
        ray.shutdown()
        cluster.shutdown()
