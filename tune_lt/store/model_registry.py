"""A trained network among MLflow's registered models: a version of it, made once however often it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import mlflow.onnx
import numpy as np
import onnx
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from tune_lt.store.records import TAG
from tune_lt.store.store import Store

FOLDER, ALIAS = "model", "recommended"
CHARACTERS = 5000  # of a version's description, in a server's database


def as_model(file: Path, folder: Path, shape: Sequence[int], classes: int) -> None:
    """Lay MLflow's description of the ONNX ``file`` and a copy of it into ``folder``, which must not exist yet.

    Input uint8 (batch, *shape), output float32 (batch, classes).
    """
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape), "images")]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, classes), "logits")]),
    )
    mlflow.onnx.save_model(
        onnx.load(str(file)),
        str(folder),
        signature=signature,
        pip_requirements=["mlflow", "onnxruntime"],
        save_as_external_data=False,
    )


def register(store: Store, run_id: str, name: str, folder: Path, fingerprint: str, card: str) -> str:
    """Record ``folder`` with a run and register it as the recommended version of the model ``name``; its version.

    A version of the same ``fingerprint`` is not made twice, and each has files of its own.
    """
    client, card = store.client, card[:CHARACTERS]
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get(f"{TAG}fingerprint") == fingerprint:
            client.update_model_version(name, version.version, card)
            client.set_registered_model_alias(name, ALIAS, version.version)
            return str(version.version)
    place = f"{FOLDER}/{fingerprint}"
    client.log_artifacts(run_id, str(folder), place)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
    tags = {f"{TAG}fingerprint": fingerprint}
    made = client.create_model_version(name, source, run_id, tags=tags, description=card)
    client.set_registered_model_alias(name, ALIAS, made.version)
    return str(made.version)
