"""The points of figures over classes, which both the matplotlib figure and the page's plotly figure draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

_POINTS = 30  # of a line: of more classes, neighbouring ones are averaged


@dataclass(frozen=True)
class Classes:
    """The classes from head to tail, in ``groups`` of neighbours (labels): a point of a figure is the mean of a group.

    ``sizes``: each group's mean number of training images; ``names``: the name of its largest class.
    """

    groups: tuple[np.ndarray, ...]
    sizes: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, run: pd.Series, most: int = _POINTS) -> Classes:
        """From a line of a report's frame, in at most ``most`` groups."""
        counts = np.asarray(run["class_counts"], dtype=float)
        order = np.argsort(-counts, kind="stable")
        groups = tuple(np.array_split(order, min(len(order), most)))
        sizes = np.array([counts[group].mean() for group in groups])
        return cls(groups, sizes, tuple(run["class_names"][group[0]] for group in groups))

    def mean_and_std(self, runs: Iterable[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over ``runs`` at each point, in percent; NaN where there are too few runs.

        ``runs``: each run's accuracies by class, as fractions. Its value at a point is the mean over the classes of the
        group that have test images.
        """
        values = np.array([self._points(run) for run in runs]).reshape(-1, len(self.groups))
        unknown = np.full(len(self.groups), np.nan)
        mean = values.mean(axis=0) if len(values) else unknown
        return mean, values.std(axis=0, ddof=1) if len(values) > 1 else unknown

    def _points(self, per_class: Sequence[float]) -> list[float]:
        accuracy = 100 * np.asarray(per_class, dtype=float)
        known = [accuracy[group][~np.isnan(accuracy[group])] for group in self.groups]
        return [float(values.mean()) if len(values) else np.nan for values in known]
