"""The JSON documents that a study keeps in MLflow beside its metrics; each has one class here that writes and reads it.

The study's own run has ``cells.json`` (`Contents`), ``basis.json`` (`Basis`) and a ``search.NAME.json`` for each search
(`SearchResult`). The run of a cell has ``per_class.json`` (`PerClass`), ``norms.json`` (`Norms`) and ``by_image.json``
(`ByImage`).

Each of these classes has ``content()``, which gives dictionaries and lists for JSON, and ``of()``, its inverse. ``of``
raises KeyError, TypeError, ValueError or AttributeError for a document of another form; `tune_lt.store.Store.read`
turns that into an InputError. This module needs neither Ray nor MLflow, because cells are also trained where neither
is installed.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tune_lt.config import renamed

CONTENTS, PER_CLASS, NORMS, BY_IMAGE = "cells.json", "per_class.json", "norms.json", "by_image.json"
BASIS = "basis.json"
SEARCH_FILE = re.compile(r"search\.(.+)\.json")


def file_part(name: str) -> str:
    """``name`` for use in a file name: an underscore replaces every character that a file system might refuse."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name)


def search_file(search: str) -> str:
    """The name of the document that holds the result of a search."""
    return f"search.{file_part(search)}.json"


@dataclass(frozen=True)
class _Document:
    """A document whose JSON has the fields of its class, under the same names."""

    def content(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        return cls(**content)


@dataclass(frozen=True)
class Trial:
    """One trial of a search: ``found`` holds the values that it tried.

    ``outcome``: complete; pruned (stopped early); failed, with a ``reason``; running (it was interrupted, or failed for
    a reason that may pass, and goes on under the same number); reused (other trials had trained all its cells).
    ``again``: it failed for a reason that may pass, so that the next run tries it again.
    ``metrics``: the means over its units; ``units``: metric -> the value of each unit; ``epochs``: trained so far, over
    all units. ``number``: its place in the search; ``rungs``: step -> the value that ASHA compared there.
    """

    found: Mapping[str, Any]
    outcome: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, Sequence[float]] = field(default_factory=dict)
    epochs: int = 0
    reason: str = ""
    again: bool = False
    number: int = -1
    fingerprint: str = ""
    rungs: Mapping[int, float] = field(default_factory=dict)

    def value(self, metric: str) -> float:
        """The mean of a metric over the units; NaN if the trial has no such metric."""
        return self.metrics.get(metric, math.nan)

    def standard_error(self, metric: str) -> float:
        """The standard error of that mean, s / √n with n − 1 in s, if units are independent; NaN for fewer than two."""
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

    ``best`` has the best mean (of two metrics, the best mean of both); ``plain`` is the choice of the
    one-standard-error rule, None where the rule does not apply; ``front`` is the Pareto front of two metrics.
    ``trials``: how many the study file asks for. ``constraints``: metric -> how far it may fall below ``reference``,
    the value that plain cross-entropy reaches on the same images. ``order``: the names of the units, in the order of
    `Trial.units`.
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
        """The result of the search ``name``. Raises ValueError if a chosen trial is not among the complete ones."""
        points = tuple(map(Trial.of, content["points"]))
        complete = [point for point in points if point.outcome == "complete"]
        tried = [point.found for point in complete]

        def chosen(trial: Mapping[str, Any]) -> Trial:
            return complete[tried.index(trial["found"])]

        plain = content.get("one_standard_error")
        return cls(
            name,
            content["signature"],
            content["trials"],
            tuple(content["objectives"]),
            content["constraints"],
            content["reference"],
            points,
            best=chosen(content),
            plain=chosen(plain) if plain else None,
            front=tuple(map(chosen, content["front"])),
            order=tuple(content.get("order", ())),
        )

    @property
    def metric(self) -> str:
        """The first objective, by which two trials are compared unit by unit."""
        return self.objectives[0]

    @property
    def watched(self) -> tuple[str, ...]:
        """The objectives and the constrained metrics, each once, in this order."""
        return tuple(dict.fromkeys([*self.objectives, *self.constraints]))

    @property
    def epochs(self) -> int:
        """How many epochs all trials together were trained for."""
        return sum(point.epochs for point in self.points)

    def dimensions(self) -> list[str]:
        """The fields that were searched (loss/alpha, for example), in the order in which trials first have them."""
        return list(dict.fromkeys(path for point in self.points for path in point.found))

    def violation(self, trial: Trial) -> float:
        """See `violation`, with the constraints of this search."""
        return violation(trial, self.constraints, self.reference)

    @property
    def merit(self) -> tuple[float, float]:
        """What the best trials of several searches are compared by: first the least violation, then the best mean."""
        return -self.violation(self.best), statistics.fmean(map(self.best.value, self.objectives))

    def outcomes(self) -> Counter[str]:
        """Outcome -> number of trials; without those whose cells another trial of the same run was training."""
        return Counter(point.outcome for point in self.points)


def shortfalls(
    metrics: Mapping[str, float], constraints: Mapping[Any, float], reference: Mapping[str, float]
) -> dict[str, float]:
    """Constrained metric -> reference − allowed fall − value: above 0 where the metric fell further than allowed.

    Rounded to 9 digits, so that a metric at the limit has fallen no further.
    """
    falls = {name: reference[name] - metrics.get(name, math.nan) for name in constraints}
    return {name: round(falls[name] - allowed, 9) for name, allowed in constraints.items()}


def violation(trial: Trial, constraints: Mapping[Any, float], reference: Mapping[str, float]) -> float:
    """The sum of the trial's `shortfalls` above 0; 0 if it keeps every constraint."""
    return sum(max(0.0, short) for short in shortfalls(trial.metrics, constraints, reference).values())


@dataclass(frozen=True)
class TableCell:
    """Which cell of a row belongs to an imbalance factor and a pair of seeds."""

    fingerprint: str
    imbalance: float | None
    data_seed: int
    init_seed: int


@dataclass(frozen=True)
class Recommended:
    """The ``search`` whose best trial did best on held-out images, and the ``row`` that was trained with its values.

    ``fingerprint``: the row's cell with the first pair of seeds, whose network the study saves for use.
    """

    search: str
    row: str
    fingerprint: str


@dataclass(frozen=True)
class Contents(_Document):
    """The rows and columns of a study's tables.

    ``found``: search -> the values that rows take from it; ``searches``: search -> the name of its document. ``data``:
    the long tail (`tune_lt.config.long_tail`); ``model``: the network, by name or architecture; ``searched``: the
    name of the study's own loss; ``columns``: the imbalance factors; ``rows``: the cells of each row; ``losses``: the
    loss of each. ``missing``: the rows that cannot be trained, each with the search that found nothing for it.
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
    missing: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        chosen = content.get("recommended")
        rows = {row: tuple(TableCell(**cell) for cell in cells) for row, cells in content["rows"].items()}
        parts = {"recommended": chosen and Recommended(**chosen), "columns": tuple(content["columns"]), "rows": rows}
        return cls(**{**content, **parts, "data": renamed(content["data"])})

    @property
    def cells(self) -> list[TableCell]:
        """The cells of all rows."""
        return [cell for cells in self.rows.values() for cell in cells]


@dataclass(frozen=True)
class Basis(_Document):
    """What a study's results rest on beside its file, as at its last run.

    How many images it had for training and as the sealed test, their hashes (`tune_lt.config.ImageHashes`), and by name
    the hashes of its plugins' modules and files and of pretrained weights, as far as a cell uses them.
    """

    training_images: int
    test_images: int
    training: str
    whole: str
    sources: Mapping[str, str]


@dataclass(frozen=True)
class PerClass(_Document):
    """By class: its name, its number of training images, and its accuracy on held-out images or the sealed test."""

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    val: tuple[float, ...] | None = None
    test: tuple[float, ...] | None = None

    def content(self) -> dict[str, Any]:
        return {name: list(value) for name, value in vars(self).items() if value is not None}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        return cls(**{name: tuple(values) for name, values in content.items()})


@dataclass(frozen=True)
class Norms(_Document):
    """Histograms of gradient norms in [0, 1], as `tune_lt.training.gradient_norms.recorded` makes them.

    ``counts``: images in each of ``bins`` bins of equal width, for ``all`` images, for each group of classes, and for
    the ``largest`` and the ``smallest`` class; the fields of these names are the labels of the two classes.
    ``edges``: the boundaries of the unit regions of the two classes, None if the loss has none; then ``precision`` has
    the density error of each class, for its ``own`` regions and for as many ``equal`` ones. ``classes``: the names of
    the two classes.
    """

    bins: int
    counts: Mapping[str, Sequence[int]]
    largest: int
    smallest: int
    edges: Mapping[str, Sequence[float]] | None
    precision: Mapping[str, Sequence[float | None]] | None = None
    classes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ByImage(_Document):
    """By sealed test image: its label, whether the prediction was right (0 or 1), the probability of its own class."""

    label: Sequence[int]
    right: Sequence[int]
    p: Sequence[float]


def _number(value: float | None) -> float:
    """The inverse of writing NaN, which JSON does not have, as null."""
    return math.nan if value is None else float(value)
