"""The JSON documents that a study keeps beside its metrics. Each has one type here, which writes it and reads it back.

The study's own run has ``cells.json`` (`Contents`) and one ``search.NAME.json`` for each search (`SearchResult`). The
run of a cell has ``per_class.json`` (`PerClass`), ``norms.json`` (`Norms`) and ``by_image.json`` (`ByImage`).

Every class has ``content()``, which gives plain dictionaries and lists for JSON, and ``of()``, its inverse. ``of``
raises KeyError, TypeError or ValueError for a document of another form; `tune_lt.store.Store.read` makes a sentence of
that. This module needs neither Ray nor MLflow, since cells are also trained where neither is installed.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CONTENTS, PER_CLASS, NORMS, BY_IMAGE = "cells.json", "per_class.json", "norms.json", "by_image.json"
SEARCH_FILE = re.compile(r"search\.(.+)\.json")


def file_part(name: str) -> str:
    """A name as part of a file's: what might not be allowed there is an underscore."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name)


def search_file(search: str) -> str:
    """The name of the document that holds what a search found."""
    return f"search.{file_part(search)}.json"


@dataclass(frozen=True)
class Trial:
    """One trial of a search: the values it tried, ``found``, and what became of it.

    ``outcome``: complete; pruned (stopped early); failed, for a ``reason``; running (interrupted, or failed for a
    reason that may pass: it is carried on under the same number); reused (all its cells were known already).
    ``metrics``: means over its units; ``units``: the metrics of each; ``epochs``: trained so far, over all units.
    ``number``: its place in the search; ``rungs``: step -> the value that ASHA judged it by.
    """

    found: Mapping[str, Any]
    outcome: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, Sequence[float]] = field(default_factory=dict)
    epochs: int = 0
    reason: str = ""
    number: int = -1
    fingerprint: str = ""
    rungs: Mapping[int, float] = field(default_factory=dict)

    def value(self, metric: str) -> float:
        """The mean of a metric over the units; NaN where the trial has none."""
        return self.metrics.get(metric, math.nan)

    def standard_error(self, metric: str) -> float:
        """Of that mean: s / √n, with n − 1 in s; NaN for fewer than two units. They are taken as independent."""
        finite = [value for value in self.units.get(metric, ()) if math.isfinite(value)]
        return statistics.stdev(finite) / math.sqrt(len(finite)) if len(finite) > 1 else math.nan

    def content(self) -> dict[str, Any]:
        error = self.standard_error(next(iter(self.units), ""))
        return {
            "found": dict(self.found),
            "values": dict(self.metrics),
            "standard_error": None if math.isnan(error) else error,
            "units": {name: [v if v == v else None for v in values] for name, values in self.units.items()},
            "epochs": self.epochs,
            "outcome": self.outcome,
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Trial:
        units = {name: list(map(_number, values)) for name, values in content["units"].items()}
        metrics = {name: _number(value) for name, value in content["values"].items()}
        return cls(content["found"], content["outcome"], metrics, units, content["epochs"])


@dataclass(frozen=True)
class SearchResult:
    """A search that has ended: its trials (``points``) and those that it chose.

    ``best`` by the mean (of two metrics, by the mean of both), ``plain`` by the one-standard-error rule where that has
    a meaning, ``front`` the Pareto front of two metrics. ``trials``: how many it was to have. ``constraints``: by how
    much a metric may fall below ``reference``, plain cross-entropy's on the same images. ``order``: of the units.
    """

    name: str
    signature: str
    trials: int
    objectives: tuple[str, ...]
    constraints: Mapping[str, float]
    reference: Mapping[str, float]
    points: tuple[Trial, ...]
    best: Trial
    plain: Trial | None = None
    front: tuple[Trial, ...] = ()
    order: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        return {
            **self.best.content(),
            "signature": self.signature,
            "trials": self.trials,
            "objectives": list(self.objectives),
            "constraints": dict(self.constraints),
            "reference": dict(self.reference),
            "order": list(self.order),
            "epochs": self.epochs,
            "one_standard_error": self.plain.content() if self.plain else None,
            "front": [trial.content() for trial in self.front],
            "points": [trial.content() for trial in self.points],
        }

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any]) -> SearchResult:
        points = tuple(map(Trial.of, content["points"]))

        def chosen(found: Mapping[str, Any]) -> Trial:
            for point in points:
                if point.outcome == "complete" and point.found == found:
                    return point
            raise ValueError(f"no complete trial has the values {found}")

        plain = content.get("one_standard_error")
        return cls(
            name,
            content["signature"],
            content["trials"],
            tuple(content["objectives"]),
            content["constraints"],
            content["reference"],
            points,
            chosen(content["found"]),
            chosen(plain["found"]) if plain else None,
            tuple(chosen(point["found"]) for point in content["front"]),
            tuple(content.get("order", ())),
        )

    @property
    def metric(self) -> str:
        """The first metric, by which trials are compared unit by unit."""
        return self.objectives[0]

    @property
    def watched(self) -> tuple[str, ...]:
        """Every metric that decides anything, the first objective first."""
        return tuple(dict.fromkeys([*self.objectives, *self.constraints]))

    @property
    def epochs(self) -> int:
        """Trained in all trials together."""
        return sum(point.epochs for point in self.points)

    def dimensions(self) -> list[str]:
        """The paths that were searched, in the order in which trials first have them."""
        return list(dict.fromkeys(path for point in self.points for path in point.found))

    def violation(self, trial: Trial) -> float:
        """By how much the trial breaks the constraints, summed; 0 where it keeps them."""
        return violation(trial, self.constraints, self.reference)

    def outcomes(self) -> Counter[str]:
        """How many trials ended how; those that only repeated another are not among them."""
        return Counter(point.outcome for point in self.points)


def shortfalls(
    metrics: Mapping[str, float], constraints: Mapping[Any, float], reference: Mapping[str, float]
) -> dict[str, float]:
    """By how much more than allowed each constrained metric is below the reference's; what is <= 0 is kept."""
    return {name: reference[name] - allowed - metrics.get(name, math.nan) for name, allowed in constraints.items()}


def violation(trial: Trial, constraints: Mapping[Any, float], reference: Mapping[str, float]) -> float:
    """The sum of a trial's `shortfalls`; 0 where it keeps every constraint."""
    return sum(max(0.0, short) for short in shortfalls(trial.metrics, constraints, reference).values())


@dataclass(frozen=True)
class TableCell:
    """A cell of a table, by its fingerprint."""

    fingerprint: str
    imbalance: float | None
    data_seed: int
    init_seed: int


@dataclass(frozen=True)
class Recommended:
    """What held-out images choose: the ``search`` whose best configuration did best, and the ``row`` trained with it.

    ``fingerprint``: its cell of the first seed, the one whose network is handed out.
    """

    search: str
    row: str
    fingerprint: str


@dataclass(frozen=True)
class Contents:
    """What a study's tables are made of.

    ``rows``: the cells of each row; ``losses``: the loss of each; ``columns``: the imbalance factors. ``found``: what
    rows took from searches; ``searches``: the document of each search. ``searched``: the study's own loss; ``model``:
    its network, by name or architecture; ``data``: its long tail.
    """

    found: Mapping[str, Mapping[str, Any]]
    searches: Mapping[str, str]
    data: Mapping[str, Any]
    model: str
    searched: str
    recommended: Recommended | None
    columns: tuple[float | None, ...]
    rows: Mapping[str, tuple[TableCell, ...]]
    losses: Mapping[str, str]

    def content(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Contents:
        chosen = content.get("recommended")
        return cls(
            content["found"],
            content["searches"],
            content["data"],
            content["model"],
            content["searched"],
            Recommended(**chosen) if chosen else None,
            tuple(content["columns"]),
            {row: tuple(TableCell(**cell) for cell in cells) for row, cells in content["rows"].items()},
            content["losses"],
        )

    @property
    def cells(self) -> list[TableCell]:
        """The cells of all rows."""
        return [cell for cells in self.rows.values() for cell in cells]


@dataclass(frozen=True)
class PerClass:
    """The accuracy of each class on held-out images (``val``) or the sealed test, and its training images' number."""

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    val: tuple[float, ...] | None = None
    test: tuple[float, ...] | None = None

    def content(self) -> dict[str, Any]:
        return {name: list(value) for name, value in vars(self).items() if value is not None}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> PerClass:
        return cls(**{name: tuple(values) for name, values in content.items()})


@dataclass(frozen=True)
class Norms:
    """Histograms of gradient norms, as `tune_lt.training.gradient_norms.recorded` makes them.

    ``counts``: of ``bins`` equal bins over [0, 1], for ``all`` images, each group of classes, the ``largest`` and the
    ``smallest`` class, whose labels these are. ``edges``: those two classes' unit regions, of a loss that has them;
    then ``precision`` has the density error of each class for its ``own`` regions and for as many ``equal`` ones.
    ``classes``: the names of the two classes.
    """

    bins: int
    counts: Mapping[str, Sequence[int]]
    largest: int
    smallest: int
    edges: Mapping[str, Sequence[float]] | None
    precision: Mapping[str, Sequence[float | None]] | None = None
    classes: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Norms:
        return cls(**content)


@dataclass(frozen=True)
class ByImage:
    """Of each sealed image its label, whether it was right (0 or 1), and the probability of its class."""

    label: Sequence[int]
    right: Sequence[int]
    p: Sequence[float]

    def content(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> ByImage:
        return cls(content["label"], content["right"], content["p"])


def _number(value: float | None) -> float:
    """JSON has no NaN: it is written as null."""
    return math.nan if value is None else float(value)
