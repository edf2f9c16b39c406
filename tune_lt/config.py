"""What one training run is made of: plain frozen dataclasses, the only place where their defaults and bounds stand.

``loss``, ``model`` and ``data`` are mappings ``{name: ..., <parameter>: ...}`` whose parameters are those of the
builder's signature (`tune_lt.registry`); the rest is spelled out here. Nothing here needs Ray, MLflow or pydantic.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from tune_lt.errors import InputError

Fraction = Annotated[float, Ge(0), Le(1)]
Share = Annotated[float, Gt(0), Le(1)]
Seed = Annotated[int, Ge(0), Lt(2**32)]  # what every generator takes
STUDY_NAME = r"[\w+][\w.+-]{0,99}"  # folders and MLflow's experiments are called by it
RESULT_VERSION = 3  # bump when a change of the code alters results: it makes every fingerprint and checkpoint new
_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}  # how a study file is checked against these classes


@dataclass(frozen=True)
class Optimizer:
    """The optimizer; defaults are the CIFAR-LT recipe of LDAM-DRW (Cao et al. 2019)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Gt(0)] = 0.1
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 2e-4


@dataclass(frozen=True)
class Schedule:
    """The learning rate by epoch, in fractions of the training length.

    ``warmup``: the first part, over which the rate rises linearly; then ``step`` multiplies the base rate by
    ``factors[i]`` from ``milestones[i]`` on, and ``cosine`` falls to zero. Defaults: warm-up over 5 of 200 epochs,
    x 0.01 after 160, x 0.0001 after 180.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: Literal["step", "cosine"] = "step"
    warmup: Fraction = 0.025
    milestones: tuple[Fraction, ...] = (0.8, 0.9)
    factors: tuple[Annotated[float, Gt(0)], ...] = (0.01, 0.0001)


@dataclass(frozen=True)
class Augment:
    """What happens to a training image, drawn anew in every epoch.

    ``crop``: of images in memory, a random crop after padding by so many pixels on each side. ``scale``: of images on
    disk, which are never padded, a random part of at least and at most this share of the area, 3/4 to 4/3 as wide as
    high, is scaled to the image (random resized crop); None cuts at random out of what evaluation cuts the centre of.
    ``flip``, ``vertical``: mirrored left to right, upside down, each with probability one half. ``rotate``: turned by
    0, 90, 180 or 270 degrees.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    crop: Annotated[int, Ge(0), Le(64)] = 4
    flip: bool = True
    scale: tuple[Share, Share] | None = None
    vertical: bool = False
    rotate: bool = False


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: ResNet-32 on CIFAR-LT unless told otherwise.

    ``precision``: ``bfloat16`` is automatic mixed precision: the network's matrix products and convolutions in it,
    weights, the loss and its gradient norms in float32.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    epochs: Annotated[int, Ge(1)] = 200
    batch_size: Annotated[int, Ge(1)] = 128
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augment: Augment = field(default_factory=Augment)
    clip_norm: Annotated[float, Gt(0)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    posthoc_tau: Annotated[float, Ge(0)] = 0.0


@dataclass(frozen=True)
class CellConfig:
    """One cell: everything that determines a trained network's result, apart from the images themselves.

    ``fold`` is ``full`` (train on the whole training split, score the sealed test once), ``holdout`` (train on all
    but a stratified ``holdout`` fraction of the training split, and score that) or ``k/K`` such as ``2/5`` (train on
    all but the k-th of K stratified folds of it, and score that); `fold_of` reads it.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    loss: Mapping[str, Any]
    recipe: Recipe = field(default_factory=Recipe)
    data_seed: int = 0
    init_seed: int = 0
    fold: str = "full"
    holdout: Annotated[float, Gt(0), Lt(1)] | None = None


def long_tail(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of a data section is not in the images' own hash, as `cell_data` takes it; where they lie may change."""
    return {
        "imbalance": data.get("imbalance"),
        "profile": data.get("profile", "exponential"),
        "largest": data.get("largest"),
        "sealed": data.get("sealed"),
    }


def determining(data: Mapping[str, Any], fold: str) -> dict[str, Any]:
    """What of the `long_tail` decides a cell's result: how many test images are scored only where any is.

    ``largest`` was called ``head`` before and is so here: hashes, and what a store has, stay as they are.
    """
    kept = {key: value for key, value in long_tail(data).items() if key != "sealed" or fold == "full"}
    return {"head": kept.pop("largest"), **kept}


def renamed(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A cell's data, or its recorded parameters by ``prefix``, with ``largest`` where older versions wrote ``head``."""
    old, new = f"{prefix}head", f"{prefix}largest"
    return {(new if key == old and new not in data else key): value for key, value in data.items()}


def fold_of(fold: str) -> tuple[int, int] | None:
    """(k, K) of ``k/K``, None of ``full`` and ``holdout``; InputError for anything else, ``02/5`` included.

    One fold has one spelling, because it enters the fingerprint.
    """
    if fold in ("full", "holdout"):
        return None
    found = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", fold)
    k, folds = (int(found[1]), int(found[2])) if found else (0, 0)
    if folds < 2 or k > folds:
        raise InputError(f"fold = {fold!r}, but it must be full, holdout, or the k-th of K >= 2 folds, such as 2/5")
    return k, folds


def cell_of(content: Mapping[str, Any]) -> CellConfig:
    """The cell that ``dataclasses.asdict`` made a dictionary of, which may have been JSON since. Checks no values."""
    recipe = dict(content["recipe"])
    schedule, augment = dict(recipe["schedule"]), dict(recipe["augment"])
    schedule |= {name: tuple(schedule[name]) for name in ("milestones", "factors")}
    augment["scale"] = None if augment["scale"] is None else tuple(augment["scale"])
    recipe |= {"optimizer": Optimizer(**recipe["optimizer"]), "schedule": Schedule(**schedule)}
    recipe["augment"] = Augment(**augment)
    return CellConfig(**{**content, "data": renamed(content["data"]), "recipe": Recipe(**recipe)})


def fingerprint(cell: CellConfig, content_hash: str, sources: Mapping[str, str]) -> str:
    """Hash of everything that determines a cell's result: its configuration, the images, plugins' code.

    Where the images lie, the study's name, workers and resources do not enter. ``content_hash`` covers the decoded
    images, so of ``cell.data`` only the long tail laid over them counts.
    """
    config = dataclasses.asdict(cell)
    config["data"] = determining(cell.data, cell.fold)
    return digest([config, content_hash, dict(sources), RESULT_VERSION])


def digest(content: Any) -> str:
    """A hash, 24 hexadecimal digits, of anything JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()[:24]


GROUPS = ("many", "medium", "few", "rare")
