"""A trial's metrics: means over the cells that it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MEAN = "mean:"  # before a metric's name: its mean over the units a trial has had


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
