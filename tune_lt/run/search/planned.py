"""A trial as it is planned: the cells it trains one after another, and the means of their metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_lt.config import CellConfig

MEAN = "mean:"  # before a metric's name: its mean over the units a trial has had


@dataclass(frozen=True)
class Record:
    """What is recorded at the start of a run: its unique key, a name, parameters and tags."""

    key: str
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Unit:
    """One cell of a trial. ``known``: its scores where it is trained already; ``record``: of a run of its own."""

    cell: CellConfig
    fingerprint: str
    known: Mapping[str, float] | None = None
    record: Record | None = None


@dataclass(frozen=True)
class PlannedTrial:
    """What Ray Tune gives a worker: the ``units`` to train, and what is recorded of them together.

    ``watched``: the metrics that decide anything; ``found``: the values that the search tries; ``keep``: the state of
    the last epoch is not removed. ``failing``: why it would fail, if one of its cells is known to fail.
    """

    units: tuple[Unit, ...]
    fingerprint: str
    record: Record
    watched: tuple[str, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = False
    failing: str | None = None

    @property
    def several(self) -> bool:
        """Whether its units have runs of their own."""
        return len(self.units) > 1

    @property
    def epochs(self) -> int:
        """Of all units together."""
        return sum(unit.cell.recipe.epochs for unit in self.units)

    @property
    def values(self) -> dict[str, float] | None:
        """The means of the watched metrics if every unit is trained already, else None."""
        known = [unit.known for unit in self.units if unit.known is not None]
        if len(known) < len(self.units):
            return None
        values = averages(known, self.watched)
        return values if all(map(math.isfinite, values.values())) else None


def averages(values: Sequence[Mapping[str, float]], watched: Sequence[str]) -> dict[str, float]:
    """The mean of each watched metric over units; NaN where no unit has it."""
    have = {name: [value[name] for value in values if math.isfinite(value.get(name, math.nan))] for name in watched}
    return {name: sum(some) / len(some) if some else math.nan for name, some in have.items()}


def means(values: Sequence[Mapping[str, float]], watched: Sequence[str]) -> dict[str, float]:
    """`averages` as a report has them: under each name with `MEAN` before."""
    return {f"{MEAN}{name}": value for name, value in averages(values, watched).items()}


def averages_in(result: Mapping[str, Any]) -> dict[str, float]:
    """The `averages` in a report."""
    return {name.removeprefix(MEAN): value for name, value in result.items() if name.startswith(MEAN)}
