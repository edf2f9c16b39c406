"""A study: what is trained, what is searched, which rows its tables have; its cells and their fingerprints.

Reading one from a file is `tune_lt.studyfile`'s work; here everything is already checked and immutable.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from tune_lt.config import _STRICT, RESULT_VERSION, CellConfig, Recipe, Seed


@dataclass(frozen=True)
class Dimension:
    """One searched parameter: ``uniform`` and ``loguniform`` [low, high], ``int`` [low, high] inclusive, ``choice``."""

    kind: Literal["uniform", "loguniform", "int", "choice"]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Validation:
    """The stratified fraction of the training split that is held out to choose by; never the test split."""

    __pydantic_config__ = _STRICT
    holdout: Annotated[float, Gt(0), Lt(1)] = 0.2


@dataclass(frozen=True)
class Search:
    """How the dimensions are searched. Trials train with data seed = init seed = ``seed``.

    ``asha`` stops the worse half of the trials after a quarter and again after half of the epochs.
    """

    __pydantic_config__ = _STRICT
    sampler: Literal["tpe", "random"] = "tpe"
    trials: Annotated[int, Ge(1)] = 20
    seed: Seed = 0
    scheduler: Literal["asha", "none"] = "asha"
    metric: Literal["val/balanced", "val/top1"] = "val/balanced"
    mode: Literal["max", "min"] = "max"


@dataclass(frozen=True)
class Resources:
    """What one trial takes, and how many run at once (None: as many as fit).

    ``cpus`` is also the number of threads a trial computes with, at least one; another number changes a result by its
    rounding. ``gpus``: none by default where there is none, else one; 0 keeps trials on the CPU. A trial saves its
    state every ``checkpoint_seconds``: what it loses when its worker or the driver dies.
    """

    __pydantic_config__ = _STRICT
    cpus: Annotated[float, Gt(0)] = 1
    gpus: Annotated[float, Ge(0)] | None = None
    concurrent: Annotated[int, Ge(1)] | None = None
    checkpoint_seconds: Annotated[float, Ge(0)] = 10.0


@dataclass(frozen=True)
class Study:
    """One study file, checked: ``data``, ``model``, ``loss`` with every default filled in.

    ``loss`` and ``recipe`` hold a valid placeholder where ``space`` (path such as ``loss/alpha`` -> Dimension)
    searches. ``rows`` are the rows of the tables as written, by name.
    """

    name: str
    text: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    loss: Mapping[str, Any]
    recipe: Recipe = field(default_factory=Recipe)
    validation: Validation = field(default_factory=Validation)
    space: Mapping[str, Dimension] = field(default_factory=dict)
    search: Search | None = None
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    resources: Resources = field(default_factory=Resources)
    plugins: tuple[str, ...] = ()
    folder: Path = Path()
    sources: Mapping[str, str] = field(default_factory=dict)  # plugin -> hash of its source

    def base(self) -> dict[str, Any]:
        """The study's configuration as the nested mapping that rows and searched values are laid over."""
        recipe = dataclasses.asdict(self.recipe)
        return {"data": dict(self.data), "model": dict(self.model), "loss": dict(self.loss), "recipe": recipe}

    def search_signature(self, content_hash: str) -> str:
        """Hash of all that decides what each trial of the search is; with more trials the same search goes on."""
        assert self.search is not None
        search = dataclasses.asdict(self.search) | {"trials": None}
        space = {path: dataclasses.asdict(dimension) for path, dimension in self.space.items()}
        parts = [self.base(), space, search, dataclasses.asdict(self.validation)]
        return _digest([*parts, content_hash, dict(self.sources), RESULT_VERSION])


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, mapping by mapping; neither is altered."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = overlay(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"loss/alpha": 0.9}`` as ``{"loss": {"alpha": 0.9}}``."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The inverse of `nested`; an empty mapping stands as a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= flattened(value, f"{path}/") if isinstance(value, Mapping) and value else {path: value}
    return flat


def fingerprint(cell: CellConfig, content_hash: str, sources: Mapping[str, str]) -> str:
    """Hash of everything that determines a cell's result: its configuration, the images, plugins' code.

    Where the images lie, the study's name, workers and resources do not enter. ``content_hash`` covers the decoded
    images, so of ``cell.data`` only the long tail laid over them counts.
    """
    config = dataclasses.asdict(cell)
    config["data"] = {key: cell.data.get(key) for key in ("imbalance", "profile")}
    return _digest([config, content_hash, dict(sources), RESULT_VERSION])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()[:24]
