"""Points of a figure over the classes, shared by matplotlib and plotly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

_POINTS = 30  # at most: beyond, neighbouring classes are averaged


@dataclass(frozen=True)
class Classes:
    """The classes from head to tail, in ``groups`` of neighbours: one point of a figure each.

    ``sizes``: the mean number of training images of each group; ``names``: of its largest class.
    """

    groups: tuple[np.ndarray, ...]
    sizes: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, run: pd.Series, most: int = _POINTS) -> Classes:
        """From a line of the frame, in ``most`` groups or fewer."""
        counts = np.asarray(run["class_counts"], dtype=float)
        order = np.argsort(-counts, kind="stable")
        groups = tuple(np.array_split(order, min(len(order), most)))
        sizes = np.array([counts[group].mean() for group in groups])
        return cls(groups, sizes, tuple(run["class_names"][group[0]] for group in groups))


def points_of(per_class: Sequence[float], classes: Classes) -> list[float]:
    """One run's accuracy at each point, in percent: the mean over those of its classes that have a value."""
    accuracy = 100 * np.asarray(per_class, dtype=float)
    known = [accuracy[group][~np.isnan(accuracy[group])] for group in classes.groups]
    return [float(values.mean()) if len(values) else np.nan for values in known]


def plain(text: str) -> str:
    """``text`` as matplotlib should show it."""
    return text.replace("$", r"\$")  # matplotlib reads $...$ as mathematics
