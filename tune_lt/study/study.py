"""A study: what is trained, what is searched, which rows its tables have. Everything here is checked and immutable.

`tune_lt.study.reader` makes a study of a file.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from tune_lt.config import _STRICT, RESULT_VERSION, ImageHashes, Recipe, Seed, determining, digest


@dataclass(frozen=True)
class Dimension:
    """One searched parameter: its ``values`` are low and high, both included, or those of a ``choice``.

    ``when``: it is searched only where these other parameters (by path) have one of these values; elsewhere it does
    not matter and keeps its default.
    """

    kind: Literal["uniform", "loguniform", "int", "choice"]
    values: tuple[Any, ...]
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def points(self) -> Sequence[Any] | None:
        """The values that a grid takes; None for a continuous range."""
        if self.kind == "int":
            return range(self.values[0], self.values[1] + 1)
        return self.values if self.kind == "choice" else None

    def holds(self, found: Mapping[str, Any]) -> bool:
        """Whether it is searched where the other parameters have the values ``found``."""
        return all(other in found and found[other] in values for other, values in self.when.items())


def grid(space: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Every point of the grid over ``space``, the last dimension fastest.

    A point leaves out a dimension whose ``when`` does not hold. The dimensions that a ``when`` names stand before it.
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
    """Which images hyper-parameters are chosen by: held out from the training split, never those of the test split.

    ``holdout``: a stratified fraction, 0.2 by default. ``folds``: stratified K-fold cross-validation instead.
    ``seeds``: every trial is trained with each of them as data seed and init seed; by default with the search's seed
    alone. A trial's value is the mean over folds and seeds.
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

    ``sampler``: ``grid`` takes every point once. ``trials``: by default 20, or the whole grid. ``seed``: the sampler's.
    ``scheduler``: ``asha`` stops the worse half of the trials after a quarter and again after half of the (first
    fold's) epochs; ``racing`` stops a trial between folds once it is worse than the best one with enough evidence. By
    default it is racing with folds or several seeds, asha without, and none for a grid, two metrics or constraints.
    ``metric``: an accuracy on the held-out images that is maximised; or two, for a Pareto front.
    ``constraints``: by how much a metric may at most fall below that of plain cross-entropy on the same images; 0.01
    is one percentage point.
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
        """The metrics that are optimised or constrained, the first objective first."""
        return tuple(dict.fromkeys([*self.objectives, *self.constraints]))

    @property
    def budget(self) -> int:
        """The number of trials, which the reader has filled in."""
        assert self.trials is not None
        return self.trials


@dataclass(frozen=True)
class Space:
    """One search of a study: ``loss`` and ``model`` with every default, and the dimensions that are searched.

    ``space``: path such as ``loss/alpha`` -> Dimension; ``loss`` has the first value of each. ``plain``: the defaults
    of the dimensions with a ``when``, for where it does not hold.
    """

    name: str
    loss: Mapping[str, Any]
    model: Mapping[str, Any]
    space: Mapping[str, Dimension]
    search: Search
    plain: Mapping[str, Any] = field(default_factory=dict)

    def complete(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """``found`` with the defaults of the dimensions whose ``when`` did not hold."""
        return {**self.plain, **found}


LEAST_CPUS, MOST_PROCESSORS = 0.001, 10_000  # Ray counts in steps of 0.0001


@dataclass(frozen=True)
class Resources:
    """What each trial takes, and how many trials run at once (``concurrent``; None: as many as fit).

    ``cpus``: also the number of threads of a trial, at least one; results differ by rounding between numbers of
    threads. ``gpus``: by default one if there is any, else 0, which keeps trials on the CPU. ``workers``: processes
    that train each trial together, each with ``cpus`` and ``gpus``; the result is that of one process up to rounding.
    ``loaders``: processes for each worker that read images which stay on disk; by default as many as ``cpus``; with 0
    the worker reads them itself. No result depends on it.
    ``checkpoint_seconds``: how often a trial saves its state, and so the most that it loses if a process dies.
    ``storage``: the absolute path of a folder for these states that every host of a cluster mounts; by default they
    lie beside the store.
    """

    __pydantic_config__ = _STRICT
    cpus: Annotated[float, Ge(LEAST_CPUS), Le(MOST_PROCESSORS)] = 1
    gpus: Annotated[float, Ge(0), Le(MOST_PROCESSORS)] | None = None
    workers: Annotated[int, Ge(1), Le(MOST_PROCESSORS)] = 1
    loaders: Annotated[int, Ge(0), Le(MOST_PROCESSORS)] | None = None
    concurrent: Annotated[int, Ge(1), Le(MOST_TRIALS)] | None = None
    checkpoint_seconds: Annotated[float, Ge(0)] = 10.0
    storage: str | None = None

    @property
    def readers(self) -> int:
        """``loaders``, or its default."""
        return max(1, int(self.cpus)) if self.loaders is None else self.loaders


FULL, SMALL = "full", "small"  # the scale of a study, and that of its small form


@dataclass(frozen=True)
class Study:
    """One study file, checked: ``data``, ``model``, ``loss`` with every default filled in.

    ``searches``: by the loss's name, the study's own loss first (if it has a range), then the losses that it is
    compared with; all have the same number of trials. ``rows``: what each row changes, by the row's name. ``columns``:
    the imbalance factors that rows are trained with. ``seeds``: pairs of data seed and init seed; ``resample``: in rows
    a data seed draws the training images with replacement (`tune_lt.data.cell_data`). ``text``: the file's whole text.
    ``plugin_files``: what the plugins read. ``sources``: hashes of these files and of the plugins' code. ``table``: the
    paper's table that the study is a part of. ``replace``: it may take over the reports and the model of a study of the
    same name on another data set.
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
    resample: bool = False
    resources: Resources = field(default_factory=Resources)
    plugins: tuple[str, ...] = ()
    plugin_files: tuple[str, ...] = ()
    folder: Path = Path()
    sources: Mapping[str, str] = field(default_factory=dict)
    table: Literal[1, 2, 3] | None = None
    replace: bool = False
    scale: str = FULL

    @property
    def drawn(self) -> dict[str, bool]:
        """What the data section of a row's cell has beside the study's: no field where nothing is resampled."""
        return {"resample": True} if self.resample else {}

    def base(self) -> dict[str, Any]:
        """The study's configuration as a nested mapping; rows and searched values update it."""
        recipe = dataclasses.asdict(self.recipe)
        return {"data": dict(self.data), "model": dict(self.model), "loss": dict(self.loss), "recipe": recipe}

    def own_search(self) -> Space | None:
        """The search over the study's own loss, if it has one."""
        return self.searches.get(self.loss["name"])

    def label(self, space: Space) -> str:
        """What messages call a search."""
        return f"search {space.name}" if len(self.searches) > 1 else "search"

    def units(self, space: Space) -> list[tuple[int, str]]:
        """The (seed, fold) of each unit of a trial, in the order of training."""
        folds = self.validation.folds
        names = [f"{k}/{folds}" for k in range(1, folds + 1)] if folds else ["holdout"]
        return [(seed, name) for seed in self.validation.seeds or (space.search.seed,) for name in names]

    def search_signature(self, space: Space, images: ImageHashes) -> str:
        """Hash of everything that determines the trials of a search, except for their number."""
        from tune_lt.training.identity import used  # brings torch, which help does without

        search = dataclasses.asdict(space.search) | {"trials": None}
        dimensions = {path: dataclasses.asdict(dimension) for path, dimension in space.space.items()}
        base = self.base() | {
            "loss": dict(space.loss),
            "model": dict(space.model),
            "recipe": dataclasses.asdict(self.recipe.canonical()),
            "data": determining(self.data, "holdout"),
        }
        parts = [base, dimensions, search, self.units(space), dataclasses.asdict(self.validation)]
        sources = used(self.data, space.model, space.loss, self.sources)
        return digest([*parts, images.training, sources, RESULT_VERSION])


def smaller(scale: str) -> str:
    """The warning about a study at this scale; "" at `FULL`. Older versions recorded other names than `SMALL`."""
    if scale == FULL:
        return ""
    return f"scale {scale}: smaller than the study is meant to be; no number of it is the study's"


def command_line(name: str, study: str, small: bool = False) -> str:
    """What a user types to run the command ``name`` on a study, given by its name or file."""
    return f"tune-lt {name} {shlex.quote(study)}{' --small' if small else ''}"
