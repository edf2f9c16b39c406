"""How many epochs a search needs to come within 0.5 points of the full grid's best: replays of recorded curves.

The curves are those of the set ``grid`` in `data/digits_scores.csv` (`record_scores.py`): alpha x gamma, 6 x 5 points,
each trained on 5 folds x 5 seeds for 20 epochs. The true value of a point is its mean over these 25 cells. An
evaluation trains the 5 folds of some of the seeds (1, 2, or all 5: then it is the true value itself); a search sees
nothing else. One point at a time, in at most 60 trials; a point that comes again costs nothing.

- grid: the points in the order in which they are written
- random: Optuna's RandomSampler over the indices of both axes
- TPE: Optuna's TPESampler over them, started with 10 random points as `tune_lt.run.search.searcher` does for 30 trials
- TPE + ASHA: stops a point below the median of those before it after a quarter and after half of the first fold's
  epochs (Ray's rule with eta 2), told as pruned
- TPE + racing: `tune_lt.run.search.racing.FoldRace` after each fold, told as pruned with its mean so far

    python benchmarks/efficiency.py                      # some minutes
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from dataclasses import dataclass, field

import numpy as np
import optuna
import record_scores
from lib import common, timing
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from tune_lt.run.search.racing import FoldRace

WITHIN = 0.005
STARTUP = 10
TRIALS = 60  # twice the points, because samplers repeat themselves
SIZES = (1, 2, 5)  # seeds of an evaluation
AXES = {"alpha": len(record_scores.ALPHAS), "gamma": len(record_scores.GAMMAS)}
EPOCHS = record_scores.EPOCHS
METHODS = ("grid", "random", "TPE", "TPE + ASHA", "TPE + racing")


@dataclass
class Course:
    """How one search went: the epochs trained, and when it first had what."""

    epochs: int = 0
    reached: float = math.inf  # epochs until the best mean so far was that of a point within 0.5 points of the best
    tried: float = math.inf  # epochs until such a point had come through
    means: dict[int, float] = field(default_factory=dict)  # of the points that came through

    def through(self, point: int, mean: float, regrets: np.ndarray) -> None:
        self.means[point] = mean
        if regrets[point] <= WITHIN:
            self.tried = min(self.tried, self.epochs)
        if regrets[self.chosen] <= WITHIN:
            self.reached = min(self.reached, self.epochs)

    @property
    def chosen(self) -> int:
        """The point with the best mean so far."""
        return max(self.means, key=lambda point: self.means[point])


class Halving:
    """Ray's ASHA with eta 2 and one bracket: after an epoch of a rung, go on at or above the median of those before."""

    def __init__(self) -> None:
        grace = math.ceil(EPOCHS / 4)
        self.rungs: dict[int, list[float]] = {grace: [], 2 * grace: []}

    def stops_after(self, curve: np.ndarray) -> int | None:
        """The epoch after which a curve (epochs,) of a first fold ends, None if it is let through."""
        for epoch, before in self.rungs.items():
            value = float(curve[epoch - 1])
            cut = bool(before) and value < np.percentile(before, 50)
            before.append(value)
            if cut:
                return epoch
        return None


def search(curves: np.ndarray, regrets: np.ndarray, method: str, seed: int) -> Course:
    """One search on ``curves`` (points, folds x seeds in their order, epochs), within the epochs of the full grid."""
    course, budget, units = Course(), curves.shape[0] * curves.shape[1] * EPOCHS, curves.shape[1]
    if method == "grid":
        for point, scores in enumerate(curves[:, :, -1]):
            course.epochs += units * EPOCHS
            course.through(point, float(scores.mean()), regrets)
        return course
    sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
    if method == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    race, halving = FoldRace(units), Halving()
    stopped: dict[int, tuple[int, float]] = {}  # point -> when and with what
    for _ in range(TRIALS):
        if course.epochs >= budget or len(course.means) + len(stopped) == len(curves):
            break
        trial = study.ask({name: IntDistribution(0, count - 1) for name, count in AXES.items()})
        point = trial.params["alpha"] * AXES["gamma"] + trial.params["gamma"]
        if point not in course.means and point not in stopped:
            if method == "TPE + ASHA" and (epoch := halving.stops_after(curves[point, 0])):
                course.epochs += epoch
                stopped[point] = epoch, float(curves[point, 0, epoch - 1])
            elif method == "TPE + racing" and (count := _raced(race, point, curves[point, :, -1])) < units:
                course.epochs += count * EPOCHS
                stopped[point] = count, float(curves[point, :count, -1].mean())
            else:
                course.epochs += units * EPOCHS
                course.through(point, float(curves[point, :, -1].mean()), regrets)
        if point in stopped:
            step, value = stopped[point]
            trial.report(value, step)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, course.means[point])
    return course


def _raced(race: FoldRace, point: int, scores: np.ndarray) -> int:
    """How many of ``scores`` (units,) are seen before the race stops the point; all of them if it does not."""
    for unit, score in enumerate(scores):
        race.record(str(point), unit, float(score))
        if race.should_stop(str(point)):
            return unit + 1
    return len(scores)


def searches(curves: np.ndarray, size: int, method: str, count: int) -> tuple[list[Course], np.ndarray]:
    """``count`` searches with evaluations of ``size`` seeds, and how far below the best each point truly is.

    ``curves`` (points, seeds, folds, epochs). Each search has its own seeds, order of the folds and sampler; the i-th
    ones of all methods share the first two.
    """
    truth = curves[..., -1].mean(axis=(1, 2))
    regrets = truth.max() - truth
    combinations = list(itertools.combinations(range(curves.shape[1]), size))
    courses = []
    for number in range(count):
        generator = np.random.default_rng([number, 11])
        seeds = generator.permutation(combinations[number % len(combinations)])
        folds = generator.permutation(curves.shape[2])
        units = curves[:, seeds][:, :, folds].reshape(len(curves), -1, curves.shape[3])
        courses.append(search(units, regrets, method, number))
    return courses, regrets


def spread(values: list[float]) -> str:
    """Median (lower to upper quartile), without interpolation because some may be infinite."""
    ends = [sorted(values)[math.ceil(q * len(values)) - 1] for q in (0.25, 0.5, 0.75)]
    low, middle, high = ("never" if math.isinf(end) else f"{end:,.0f}" for end in ends)
    return f"{middle} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--searches", type=int, default=200)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = record_scores.load("grid").curves
    print(timing.heading(packages=common.PACKAGES))
    truth = np.sort(curves[..., -1].mean(axis=(1, 2)))[::-1]
    print(
        f"{len(truth)} points; true values: best {100 * truth[0]:.2f}, median {100 * np.median(truth):.2f}, worst "
        f"{100 * truth[-1]:.2f}; {int((truth >= truth[0] - WITHIN).sum())} within 0.5 points of the best. "
        f"{options.searches} searches each: median (quartiles).\n"
    )
    for size in SIZES:
        whole = len(truth) * size * record_scores.FOLDS * EPOCHS
        print(f"Evaluations of {record_scores.FOLDS} folds x {size} seeds; the full grid takes {whole:,} epochs:\n")
        rows = []
        for method in METHODS:
            courses, regrets = searches(curves, size, method, options.searches)
            final = [100 * float(regrets[course.chosen]) for course in courses]
            rows.append([
                method,
                spread([course.reached for course in courses]),
                f"{100 * statistics.fmean(math.isfinite(course.reached) for course in courses):.0f}",
                spread([course.tried for course in courses]),
                spread([course.epochs for course in courses]),
                f"{statistics.fmean(final):.2f}",
                f"{100 * statistics.fmean(value <= 100 * WITHIN for value in final):.0f}",
            ])  # fmt: skip
        header = ["method", "epochs until its best so far is within 0.5 points", "ever, %",
                  "until such a point was through", "epochs of the whole search", "final regret, points",
                  "final choice within 0.5, %"]  # fmt: skip
        print(timing.table(header, rows), flush=True)


if __name__ == "__main__":
    main()
