"""Points of a figure over the classes, which matplotlib draws for papers and plotly on the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    def mean_and_std(self, runs: Iterable[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
        """Of the ``runs``' accuracies by class, at each point, in percent; NaN where there are too few runs.

        A run's value at a point is the mean over those of its classes that have one.
        """
        values = np.array([self._points(run) for run in runs]).reshape(-1, len(self.groups))
        unknown = np.full(len(self.groups), np.nan)
        mean = values.mean(axis=0) if len(values) else unknown
        return mean, values.std(axis=0, ddof=1) if len(values) > 1 else unknown

    def _points(self, per_class: Sequence[float]) -> list[float]:
        accuracy = 100 * np.asarray(per_class, dtype=float)
        known = [accuracy[group][~np.isnan(accuracy[group])] for group in self.groups]
        return [float(values.mean()) if len(values) else np.nan for values in known]
