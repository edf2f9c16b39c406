"""Registers a trained network in MLflow's model registry, as one version however often it is registered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import mlflow.onnx
import numpy as np
import onnx
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from tune_lt.store.client import StoreError
from tune_lt.store.records import TAG
from tune_lt.store.store import Store

FOLDER, ALIAS = "model", "recommended"
CHARACTERS = 5000  # a server's limit for the description of a version


def as_model(file: Path, folder: Path, shape: Sequence[int], classes: int) -> None:
    """Save the ONNX ``file`` as an MLflow model in ``folder``, which must not exist yet.

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
    """Register ``folder`` as the recommended version of the model ``name``, and return the version's number.

    The files are kept with the run ``run_id``. If a version with this ``fingerprint`` exists, it becomes the
    recommended one again, with ``card`` as its description.
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
    except StoreError as error:
        if getattr(error.cause, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
    tags = {f"{TAG}fingerprint": fingerprint}
    made = client.create_model_version(name, source, run_id, tags=tags, description=card)
    client.set_registered_model_alias(name, ALIAS, made.version)
    return str(made.version)
