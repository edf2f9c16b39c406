"""The configuration of one training (a cell) in frozen dataclasses with its defaults and bounds.

``loss``, ``model`` and ``data`` are mappings ``{name: ..., <parameter>: ...}``. Their parameters, defaults and bounds
are those of the signature of what they name (`tune_lt.registry`). Nothing here needs Ray, MLflow or pydantic.
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
Seed = Annotated[int, Ge(0), Lt(2**32)]  # the seeds that NumPy's and torch's generators accept
STUDY_NAME = r"[\w+][\w.+-]{0,99}"  # folders and MLflow's experiments have this name
RESULT_VERSION = 4  # add 1 when a change of the code alters results: all fingerprints and checkpoints become new
GROUPS = ("many", "medium", "few", "rare")
_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}  # pydantic's options when it checks a study file


@dataclass(frozen=True)
class Optimizer:
    """The optimizer. The defaults are the CIFAR-LT recipe of LDAM-DRW (Cao et al. 2019)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Gt(0)] = 0.1
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 2e-4


@dataclass(frozen=True)
class Schedule:
    """The learning rate by epoch; ``warmup`` and ``milestones`` are fractions of the number of epochs.

    The rate rises linearly during ``warmup``. Then ``step`` multiplies the base rate by ``factors[i]`` from
    ``milestones[i]`` on; ``cosine`` lowers it to zero along half a cosine. Of 200 epochs the defaults warm up over 5,
    and multiply by 0.01 after 160 and by 0.0001 after 180.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: Literal["step", "cosine"] = "step"
    warmup: Fraction = 0.025
    milestones: tuple[Fraction, ...] = (0.8, 0.9)
    factors: tuple[Annotated[float, Gt(0)], ...] = (0.01, 0.0001)

    def canonical(self) -> Schedule:
        """This schedule with the defaults in place of what has no effect: a cosine has no milestones."""
        return self if self.name == "step" else Schedule(self.name, self.warmup)


@dataclass(frozen=True)
class Augment:
    """The random augmentation of training images, drawn anew in every epoch.

    - ``crop``, for images in memory: pad by so many pixels on each side, then crop to the size of the image.
    - ``scale``, for images on disk: resize a random part of the image, with a share of its area between these two and
      a width of 3/4 to 4/3 of its height (random resized crop). None crops at a random place of the resized image, of
      which evaluation crops the centre.
    - ``flip``, ``vertical``: mirror left to right, and top to bottom, each with probability 1/2.
    - ``rotate``: turn by 0, 90, 180 or 270 degrees.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    crop: Annotated[int, Ge(0), Le(64)] = 4
    flip: bool = True
    scale: tuple[Share, Share] | None = None
    vertical: bool = False
    rotate: bool = False


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are those of ResNet-32 on CIFAR-LT.

    ``clip_norm``: the largest norm of all gradients together. ``precision``: ``bfloat16`` is automatic mixed precision;
    weights, loss and gradient norms stay float32. ``posthoc_tau``: the τ of post-hoc logit adjustment (Menon et al.
    2021), which predicts from z − τ · log n.
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

    def canonical(self) -> Recipe:
        """This recipe with the defaults in place of what has no effect."""
        return dataclasses.replace(self, schedule=self.schedule.canonical())


@dataclass(frozen=True)
class ImageHashes:
    """Hashes (sha256, hex) of a data set's images, labels and statistics.

    ``training``: of all that a cell can depend on which does not score the sealed test. ``whole``: the same with the
    test images and their labels.
    """

    training: str
    whole: str

    def of(self, fold: str) -> str:
        """The hash of what a cell of this fold depends on."""
        return self.whole if fold == "full" else self.training


@dataclass(frozen=True)
class CellConfig:
    """One cell: all that determines the result of a training, apart from the images themselves.

    ``fold`` says which part of the training split is not trained on and scored instead:

    - ``full``: none; the sealed test is scored once;
    - ``holdout``: a stratified fraction ``holdout``;
    - ``k/K``, such as ``2/5``: the k-th of K stratified folds.
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
    """The fields of a data section that choose among a data set's images; `data.cell_data` has parameters for them."""
    defaults = {"imbalance": None, "profile": "exponential", "largest": None, "sealed": None, "resample": False}
    return {key: data.get(key, default) for key, default in defaults.items()}


def determining(data: Mapping[str, Any], fold: str) -> dict[str, Any]:
    """The fields of `long_tail` that decide a cell's result.

    ``sealed`` is that only of a full cell, which scores the test. A profile has no effect without an imbalance.
    """
    kept = {key: value for key, value in long_tail(data).items() if key != "sealed" or fold == "full"}
    if kept["imbalance"] is None:
        kept["profile"] = long_tail({})["profile"]
    return kept


def renamed(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``data`` with the key ``largest`` in place of ``head``, its name in older versions; both follow ``prefix``."""
    old, new = f"{prefix}head", f"{prefix}largest"
    return {(new if key == old and new not in data else key): value for key, value in data.items()}


def fold_of(fold: str) -> tuple[int, int] | None:
    """(k, K) of ``k/K``, None of ``full`` and ``holdout``; InputError for anything else.

    The text enters the fingerprint, so each fold has one spelling only: ``02/5`` is refused.
    """
    if fold in ("full", "holdout"):
        return None
    found = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", fold)
    k, folds = (int(found[1]), int(found[2])) if found else (0, 0)
    if folds < 2 or k > folds:
        raise InputError(f"fold = {fold!r}, but it must be full, holdout, or the k-th of K >= 2 folds, such as 2/5")
    return k, folds


def cell_of(content: Mapping[str, Any]) -> CellConfig:
    """The cell whose ``dataclasses.asdict`` is ``content``, which may have been JSON since; values are not checked."""
    recipe = dict(content["recipe"])
    sections: dict[str, Any] = {"optimizer": Optimizer, "schedule": Schedule, "augment": Augment}
    for name, section in sections.items():
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in recipe[name].items()}
        recipe[name] = section(**values)
    return CellConfig(**{**content, "data": renamed(content["data"]), "recipe": Recipe(**recipe)})


def digest(content: Any) -> str:
    """A hash of 24 hexadecimal digits of any content that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()[:24]
