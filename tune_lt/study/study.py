"""A study: what is trained, what is searched, which rows its tables have; its cells and their fingerprints.

Reading one from a file is `tune_lt.study.reader`'s work; here everything is already checked and immutable.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from tune_lt.config import _STRICT, RESULT_VERSION, Recipe, Seed, determining, digest


@dataclass(frozen=True)
class Dimension:
    """One searched parameter: ``uniform`` and ``loguniform`` [low, high], ``int`` [low, high] inclusive, ``choice``.

    ``when``: searched only where these other parameters (by path) have one of these values; elsewhere it does not
    matter and keeps its default.
    """

    kind: Literal["uniform", "loguniform", "int", "choice"]
    values: tuple[Any, ...]
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def points(self) -> Sequence[Any] | None:
        """The values of a grid over it; None where there are infinitely many."""
        if self.kind == "int":
            return range(self.values[0], self.values[1] + 1)
        return self.values if self.kind == "choice" else None

    def holds(self, found: Mapping[str, Any]) -> bool:
        """Whether it is searched where these values were found."""
        return all(other in found and found[other] in values for other, values in self.when.items())


def grid(space: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Every point of the grid over ``space`` once, in one order, the last dimension fastest.

    A dimension whose ``when`` does not hold is left out of the point; those it speaks of stand before it.
    """
    if not space:
        yield {}
        return
    *before, (path, dimension) = space.items()
    for point in grid(dict(before)):
        if dimension.holds(point):
            yield from ({**point, path: value} for value in dimension.points() or ())
        else:
            yield point


@dataclass(frozen=True)
class Validation:
    """What hyper-parameters are chosen by: held-out images of the training split, never the test split.

    ``holdout``: a stratified fraction of them (0.2 where nothing is said). ``folds``: stratified K-fold
    cross-validation; a trial's value is the mean over its folds. ``seeds``: each is a data seed and an init seed that
    every trial is trained with; the search's seed alone by default.
    """

    __pydantic_config__ = _STRICT
    holdout: Annotated[float, Gt(0), Lt(1)] | None = None
    folds: Annotated[int, Ge(2), Le(50)] | None = None
    seeds: tuple[Seed, ...] | None = None


MOST_TRIALS = 100_000
Metric = Literal["val/balanced", "val/top1", "val/many", "val/medium", "val/few", "val/rare"]


@dataclass(frozen=True)
class Search:
    """How the dimensions are searched.

    ``sampler``: ``grid`` takes every point once. ``trials``: 20, or the whole grid, unless told otherwise.
    ``scheduler``: ``asha`` stops the worse half of the trials after a quarter and again after half of the (first
    fold's) epochs; ``racing`` stops a trial between folds once it is worse than the best one with enough evidence;
    unless told otherwise racing with folds, asha without, and none for a grid or for two metrics.
    ``metric``: an accuracy on the held-out images, to be as high as can be; or two, for a Pareto front.
    ``constraints``: how much (a fraction; 0.01 is a point) a metric may at
    most fall below softmax's on the same images. ``seed`` is the sampler's.
    """

    __pydantic_config__ = _STRICT
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    trials: Annotated[int, Ge(1), Le(MOST_TRIALS)] | None = None
    seed: Seed = 0
    scheduler: Literal["asha", "racing", "none"] | None = None
    metric: Metric | tuple[Metric, Metric] = "val/balanced"
    constraints: Mapping[Metric, Annotated[float, Ge(0), Lt(1)]] = field(default_factory=dict)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics to optimise: one or two."""
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    @property
    def watched(self) -> tuple[str, ...]:
        """Every metric that decides anything, the first objective first."""
        return tuple(dict.fromkeys([*self.objectives, *self.constraints]))

    @property
    def budget(self) -> int:
        """The number of trials, once it is known."""
        assert self.trials is not None
        return self.trials


@dataclass(frozen=True)
class Space:
    """One search of a study: the loss and network it starts from (checked, every default filled in), what varies.

    ``space``: path such as ``loss/alpha`` -> Dimension; ``loss`` holds a valid placeholder there. ``plain`` are the
    defaults that take the place of a dimension whose ``when`` does not hold.
    """

    name: str
    loss: Mapping[str, Any]
    model: Mapping[str, Any]
    space: Mapping[str, Dimension]
    search: Search
    plain: Mapping[str, Any] = field(default_factory=dict)

    def complete(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """``found`` with the defaults of the dimensions that were not searched, since their ``when`` did not hold."""
        return {**self.plain, **found}


@dataclass(frozen=True)
class Resources:
    """What one trial takes, and how many run at once (None: as many as fit).

    ``cpus`` is also the number of threads a trial computes with, at least one; another number changes a result by its
    rounding. ``gpus``: none by default where there is none, else one; 0 keeps trials on the CPU. ``workers``: processes
    that train each trial together, each with so many ``cpus`` and ``gpus``; their result is one process's but for
    rounding. A trial saves its state every ``checkpoint_seconds``: what it loses when its worker or the driver dies.
    ``loaders``: processes that read images which stay on disk, for each worker: as many as it has ``cpus`` unless told
    otherwise, 0 reads where it trains; no result depends on it.
    ``storage``: the absolute path of a folder for those states, one that every host of a cluster mounts; else they lie
    beside the store.
    """

    __pydantic_config__ = _STRICT
    cpus: Annotated[float, Gt(0)] = 1
    gpus: Annotated[float, Ge(0)] | None = None
    workers: Annotated[int, Ge(1)] = 1
    loaders: Annotated[int, Ge(0)] | None = None
    concurrent: Annotated[int, Ge(1)] | None = None
    checkpoint_seconds: Annotated[float, Ge(0)] = 10.0
    storage: str | None = None

    @property
    def readers(self) -> int:
        """``loaders``, once it is known."""
        return max(1, int(self.cpus)) if self.loaders is None else self.loaders


@dataclass(frozen=True)
class Seeds:
    """Every data seed (sub-sample) is trained with every init seed (network, order, augmentation)."""

    __pydantic_config__ = _STRICT
    data: tuple[Seed, ...] = (0,)
    init: tuple[Seed, ...] = (0,)


FULL, SMALL = "full", "small"  # the scale of a study as its file has it, and of its small form


@dataclass(frozen=True)
class Study:
    """One study file, checked: ``data``, ``model``, ``loss`` with every default filled in.

    ``searches``: what is searched, by name: the study's own loss first (if it has a range), then the losses it is
    compared with; all with the same budget. ``rows`` are the rows of the tables as written, by name; ``columns`` the
    imbalance factors they are trained with, ``seeds`` the pairs of data seed and init seed. ``table``: the paper's
    table it is a part of; ``scale``: `FULL`, or `SMALL` for the file's small form.
    """

    name: str
    text: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    loss: Mapping[str, Any]
    recipe: Recipe = field(default_factory=Recipe)
    validation: Validation = field(default_factory=lambda: Validation(holdout=0.2))
    searches: Mapping[str, Space] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: tuple[float | None, ...] = ()
    seeds: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (2, 2))
    resources: Resources = field(default_factory=Resources)
    plugins: tuple[str, ...] = ()
    folder: Path = Path()
    sources: Mapping[str, str] = field(default_factory=dict)  # plugin -> hash of its source
    table: Literal[1, 2, 3] | None = None
    scale: str = FULL

    def base(self) -> dict[str, Any]:
        """The study's configuration as the nested mapping that rows and searched values are laid over."""
        recipe = dataclasses.asdict(self.recipe)
        return {"data": dict(self.data), "model": dict(self.model), "loss": dict(self.loss), "recipe": recipe}

    def own_search(self) -> Space | None:
        """The search over the study's own loss, if it has one."""
        return self.searches.get(self.loss["name"])

    def label(self, space: Space) -> str:
        """What a search is called to the user."""
        return f"search {space.name}" if len(self.searches) > 1 else "search"

    def units(self, space: Space) -> list[tuple[int, str]]:
        """What each trial of a search is trained on, in the order of training: (seed, fold)."""
        folds = self.validation.folds
        names = [f"{k}/{folds}" for k in range(1, folds + 1)] if folds else ["holdout"]
        return [(seed, name) for seed in self.validation.seeds or (space.search.seed,) for name in names]

    def search_signature(self, space: Space, content_hash: str) -> str:
        """Hash of all that decides what each trial of the search is; with more trials the same search goes on."""
        search = dataclasses.asdict(space.search) | {"trials": None, "mode": "max"}  # once a choice: signatures stay
        dimensions = {path: dataclasses.asdict(dimension) for path, dimension in space.space.items()}
        base = self.base() | {
            "loss": dict(space.loss),
            "model": dict(space.model),
            "data": determining(self.data, "holdout"),
        }
        parts = [base, dimensions, search, self.units(space), dataclasses.asdict(self.validation)]
        return digest([*parts, content_hash, dict(self.sources), RESULT_VERSION])


def smaller(scale: str) -> str:
    """What is said of a study at this scale, which older versions may have recorded by another name; "" at `FULL`."""
    if scale == FULL:
        return ""
    return f"scale {scale}: smaller than the study is meant to be; no number of it is the study's"


def command_line(name: str, study: str, small: bool = False) -> str:
    """What to type for a command on a study, by its name or file, or on its small form."""
    return f"tune-lt {name} {shlex.quote(study)}{' --small' if small else ''}"
