"""The folder that trials keep their states in, and whether every node of a cluster sees it."""

from __future__ import annotations

import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_lt.errors import InputError
from tune_lt.store import Store
from tune_lt.study import Study
from tune_lt.texts import some

WAIT_SECONDS = 120.0  # for a node to answer: its first worker must start


def checkpoint_folder(study: Study, store: Store) -> Path:
    """Where the states of a study's trials lie: in ``resources.storage``, else beside the store."""
    storage = study.resources.storage
    if storage is None:
        return store.state_folder(study.name) / "checkpoints"
    return Path(storage) / study.name / "checkpoints"


def check_shared(folder: Path) -> None:
    """Raise InputError if a node of this Ray cluster that can run trials does not share ``folder`` with the driver.

    Each of them must read what the driver writes there, and the driver what they write. Where the driver's node is the
    only one, nothing is asked.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and node["Resources"].keys() & {"CPU", "GPU"}
    }
    if not nodes:
        return
    token = f".shared-{uuid.uuid4().hex}"
    written = folder / token
    folder.mkdir(parents=True, exist_ok=True)
    written.write_text(token)
    try:
        asked = {
            ray.remote(num_cpus=0, max_retries=0)(_answer)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote(str(folder), token, node): node
            for node in nodes
        }
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=WAIT_SECONDS)
        problems = {}
        for answer, node in asked.items():
            problem = _outcome(answer) if answer in ready else f"no answer within {WAIT_SECONDS:.0f} s"
            if not problem and not _reply(folder, token, node).exists():
                problem = "what it writes there does not arrive here"
            if problem:
                problems[node] = problem
    finally:
        for file in (written, *(_reply(folder, token, node) for node in nodes)):
            file.unlink(missing_ok=True)
    if problems:
        told = [f"{nodes[node]} ({problem})" for node, problem in problems.items()]
        raise InputError(
            f"{folder}: not shared by {len(told)} of the cluster's {len(nodes) + 1} nodes: {some(told)}; "
            "trials keep their checkpoints there: name a folder that every node mounts, such as one on NFS, "
            "in the study file, resources: {storage: /shared/folder}"
        )


def _answer(folder: str, token: str, node: str) -> str:
    """On a node: what is wrong with the folder there; empty if nothing is."""
    try:
        if Path(folder, token).read_text() != token:
            return "another file is there"
        _reply(Path(folder), token, node).touch()
    except FileNotFoundError:
        return "does not see it" if not Path(folder).is_dir() else "sees another folder at this path"
    except OSError as error:
        return f"cannot use it: {error.strerror}"
    return ""


def _outcome(answer: ray.ObjectRef) -> str:
    try:
        return str(ray.get(answer))
    except ray.exceptions.RayError as error:  # the node died, or tune_lt cannot be imported on it
        return f"cannot be asked: {str(error).strip().splitlines()[-1]}"


def _reply(folder: Path, token: str, node: str) -> Path:
    return folder / f"{token}.{node}"
