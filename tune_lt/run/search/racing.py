"""Racing on folds: which configurations can no longer become the best one by enough to matter.

Every configuration is scored on the same units (a unit is one fold with one seed) in the same order, and its value is
the mean over all of them. What a race has to decide is therefore about those units, not about new training sets: will
the mean of this configuration end above that of the best one? The score of trial t on unit u is taken as

    v[t, u] = c[t] + e[u] + noise,    e[u] ~ N(0, tau^2),    noise ~ N(0, sigma^2)

(configuration + difficulty of the unit + noise), fitted to all that is recorded. The c are free; the e are shrunk by
``ratio`` = sigma^2 / tau^2: a ratio of 0 is the paired comparison, an infinite one the unpaired. Which of them the
scores speak for is not known beforehand (where folds hardly differ in difficulty, pairing doubles the variance), so
the answer is averaged over a grid of ratios by their restricted likelihood.

The units not yet seen are finitely many: after n of U the noise left in a mean is sigma^2 (1/n - 1/U), which is 0 at
the end. The correction of Nadeau and Bengio (2003) for training sets that overlap, 1/n + 1/(K - 1), answers another
question, whether the configuration is better on data sets not drawn yet: it never falls below 1/(K - 1), and belongs
to what a table claims, not to which fold is trained next. `benchmarks/racing.py` compares both.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy import special

from tune_lt.errors import InputError

RATIOS = np.logspace(-2, 3, 21)  # noise over difficulty of the units, as variances: pairing pays below 1


@dataclass(frozen=True)
class Comparison:
    """A trial compared with the best other one, the ``incumbent``.

    ``deficit``: by how much the trial's mean over all units is expected to end below the incumbent's, as a difference
    of the metric; positive is worse. ``p``: the probability that the trial ends above the incumbent by the minimum
    effect or more. The trial should stop if ``p`` is below ``level``. ``units``: that the trial has had so far.
    """

    incumbent: str
    units: int
    deficit: float
    p: float
    level: float


class FoldRace:
    """Decides which trials are so much worse than the best one that they should stop.

    Args:
        units: How many units a trial has: folds times seeds.
        without: Those of them (from 0) on which no trial gets a score, because no held-out image is of the classes that
            the metric is about. A trial's value is the mean over the others, and only these are compared.
        minimum_effect: A smaller gain over the best trial does not matter (0.005 is half a point of an accuracy).
        error: The probability of stopping a trial that would have ended better than the best one by the minimum effect.
            It covers all looks at a trial, one after each of its scores but the last, and each look gets an equal part
            (Bonferroni, which is valid however the looks depend on each other).

    The answers depend only on the recorded scores. Raises InputError for arguments out of range.
    """

    def __init__(
        self,
        units: int,
        *,
        without: Collection[int] = (),
        minimum_effect: float = 0.005,
        error: float = 0.05,
    ) -> None:
        scored = [unit for unit in range(units) if unit not in without]
        if not scored:
            raise InputError(f"units = {units!r} without {sorted(without)}, but at least one must have a score")
        if not 0 <= minimum_effect < math.inf:
            raise InputError(f"minimum_effect = {minimum_effect!r}, but it must be a number of at least 0")
        if not 0 < error < 1:
            raise InputError(f"error = {error!r}, but it must lie between 0 and 1, both excluded")
        self._number, self._units, self._effect, self._error = units, len(scored), minimum_effect, error
        self._place = {unit: place for place, unit in enumerate(scored)}
        self._values: dict[str, np.ndarray] = {}  # trial -> (units with a score,), NaN where there is none (yet)
        self._failed: dict[str, set[int]] = {}
        self._fit: _Fit | None = None
        self._stale = True

    def record(self, trial: str, unit: int, value: float) -> None:
        """Record the score of ``trial`` on ``unit`` (from 0); NaN or infinite is a failure. The last record counts.

        Raises IndexError for a unit that does not exist.
        """
        if not 0 <= unit < self._number:
            raise IndexError(f"unit {unit} of {self._number}")
        values = self._values.setdefault(trial, np.full(self._units, np.nan))
        failed = self._failed.setdefault(trial, set())
        if unit in self._place:
            values[self._place[unit]] = value if math.isfinite(value) else np.nan
        failed.discard(unit) if math.isfinite(value) else failed.add(unit)
        self._stale = True

    def should_stop(self, trial: str) -> bool:
        """Whether ``trial`` should stop. False if it has no score or all of them, or if there is no other trial.

        A trial that failed on a unit has no mean. It should stop once another trial has the same units without failure.
        """
        if failed := self._failed.get(trial):
            return int(np.isfinite(self._values[trial]).sum()) + len(failed) < self._units and bool(self._rivals(trial))
        found = self.compare(trial)
        return found is not None and found.p < found.level

    def compare(self, trial: str) -> Comparison | None:
        """Compare a trial with the best of the trials that have all its units; of these only those with most units.

        None if there is nothing to compare, or before the second unit of any trial, when the noise is unknown. Of
        several trials that still run, the best one is also the luckiest, so ``level`` is divided by their number; the
        mean of a trial with all units has no luck left in it.
        """
        own, rivals = self._values.get(trial), self._rivals(trial)
        if own is None or self._failed[trial] or not rivals:
            return None
        seen = np.isfinite(own)
        count = int(seen.sum())
        fit = self._fitted()
        if not 0 < count < self._units or fit is None:
            return None
        best = max(rivals, key=lambda name: (np.nanmean(self._values[name]), name))
        other = self._values[best]
        deficit, p = fit.behind(own, other, self._effect)
        level = self._error / (self._units - 1) / (1 if np.isfinite(other).all() else len(rivals))
        return Comparison(best, count, deficit, p, level)

    def _rivals(self, trial: str) -> list[str]:
        """The trials without failure that have every unit that ``trial`` has tried; of those the ones with the most."""
        tried = np.isfinite(self._values[trial]) if trial in self._values else np.zeros(self._units, dtype=bool)
        tried[[self._place[unit] for unit in self._failed.get(trial, ()) if unit in self._place]] = True
        counts = {
            name: int(np.isfinite(values).sum())
            for name, values in self._values.items()
            if name != trial and not self._failed[name] and tried.any() and np.isfinite(values[tried]).all()
        }
        most = max(counts.values(), default=0)
        return [name for name, count in counts.items() if count == most]

    def _fitted(self) -> _Fit | None:
        if self._stale:
            scores = np.array(list(self._values.values()))
            self._fit = _Fit(scores, self._effect) if (np.isfinite(scores).sum(axis=1) > 1).any() else None
            self._stale = False
        return self._fit


class _Fit:
    """The model fitted to ``scores`` (trials, units), NaN where there is none, for each ratio of the grid.

    With the c profiled out, e = (G + ratio I)^-1 b, where G = sum over the trials of the centering matrix of the units
    they have, and b = sum of their scores less their mean.
    """

    def __init__(self, scores: np.ndarray, least: float) -> None:
        seen = np.isfinite(scores)
        scores, seen = scores[seen.any(axis=1)], seen[seen.any(axis=1)]
        counts = seen.sum(axis=1, keepdims=True)
        centred = np.where(seen, scores - np.nanmean(scores, axis=1, keepdims=True), 0.0)
        self._freedom = int(counts.sum() - len(counts))
        has = seen.astype(float)
        values, self._vectors = np.linalg.eigh(np.diag(has.sum(axis=0)) - has.T @ (has / counts))
        self._spectrum = np.maximum(values, 0.0)[None, :] + RATIOS[:, None]  # of G + ratio I: (ratios, units)
        projected = self._vectors.T @ centred.sum(axis=0)
        self._difficulty = projected / self._spectrum
        # noise that is not seen, because accuracies come in steps and scores can tie, is not taken for none
        floor = least**2 * self._freedom + np.finfo(float).tiny
        rest = np.maximum(np.sum(centred**2) - (projected**2 / self._spectrum).sum(axis=1), floor)
        self._variance = rest / self._freedom
        likelihood = -0.5 * (
            self._freedom * np.log(rest) + np.log(self._spectrum).sum(axis=1) - scores.shape[1] * np.log(RATIOS)
        )
        weights = np.exp(likelihood - likelihood.max())
        self._weights = weights / weights.sum()

    def behind(self, own: np.ndarray, other: np.ndarray, effect: float) -> tuple[float, float]:
        """(expected lead of ``other`` over all units, probability that ``own`` leads by ``effect`` or more)."""
        units = len(own)
        shares = [np.isfinite(values) / np.isfinite(values).sum() for values in (own, other)]
        contrast = self._vectors.T @ (shares[0] - shares[1])
        lead = np.nanmean(other) - np.nanmean(own) + self._difficulty @ contrast
        ahead = sum(1 / np.isfinite(values).sum() - 1 / units for values in (own, other))
        error = np.sqrt(self._variance * (ahead + (contrast**2 / self._spectrum).sum(axis=1)))
        p = special.stdtr(self._freedom, -(lead + effect) / error)
        return float(self._weights @ lead), float(self._weights @ p)
