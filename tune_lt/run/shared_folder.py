"""The folder of the checkpoints, and a check that every node of a Ray cluster shares it."""

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
    """The folder of a study's checkpoints: in ``resources.storage`` of the study file, else beside the store."""
    storage = study.resources.storage
    return (Path(storage) / study.name if storage else store.state_folder(study.name)) / "checkpoints"


def check_shared(folder: Path) -> None:
    """Raise InputError if a node of this Ray cluster that can run trials does not share ``folder`` with the driver.

    Each such node must read a file that the driver writes there, and the driver must see a file that the node writes.
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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / token).write_text(token)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(_answer)
        answers = {
            node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                str(folder), token, node
            )
            for node in nodes
        }
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=WAIT_SECONDS)
        problems = [
            f"{nodes[node]} ({problem})"
            for node, answer in answers.items()
            if (problem := _problem(answer, folder / f"{token}.{node}"))
        ]
    finally:
        for name in (token, *(f"{token}.{node}" for node in nodes)):
            (folder / name).unlink(missing_ok=True)
    if problems:
        raise InputError(
            f"{folder}: not shared by {len(problems)} of the cluster's {len(nodes) + 1} nodes: {some(problems)}; "
            "trials keep their checkpoints there: name a folder that every node mounts, such as one on NFS, "
            "in the study file, resources: {storage: /shared/folder}"
        )


def _answer(folder: str, token: str, node: str) -> str:
    """On a node: what is wrong with the folder there, "" if nothing is."""
    try:
        if Path(folder, token).read_text() != token:
            return "sees another file there"
        Path(folder, f"{token}.{node}").touch()
    except FileNotFoundError:
        return "sees another folder at this path" if Path(folder).is_dir() else "does not see it"
    except OSError as error:
        return f"cannot use it: {error.strerror}"
    return ""


def _problem(answer: ray.ObjectRef, written: Path) -> str:
    """What is wrong, from a node's answer and the file that it should have written."""
    try:
        problem = str(ray.get(answer, timeout=0))
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {WAIT_SECONDS:.0f} s"
    except ray.exceptions.RayError as error:  # the node died, or tune_lt cannot be imported on it
        return f"cannot be asked: {str(error).strip().splitlines()[-1]}"
    return problem or ("" if written.exists() else "the driver does not see what it writes there")
