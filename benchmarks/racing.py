"""How many folds racing saves, and how often it costs the best configuration: replays of recorded scores.

The scores are those of `data/digits_scores.csv` (`record_scores.py`): each configuration trained on 5 folds x 5 seeds,
its true value the mean over these 25 units. A replay draws an order of the configurations, of the seeds and of the
folds in a seed; two configurations run at a time, each on the units in that common order, until they are through or a
rule stops them; the configuration with the best mean among those that came through is chosen. A replay is wrong when
what it chose is more than 0.5 points below the best one, by the mean over all units of the replay: with all five seeds
the true value; with ``--seeds 1`` what a 5-fold cross-validation without racing would have gone by.

Rules: ours (`tune_lt.run.search.racing.FoldRace`); Optuna's WilcoxonPruner as its documentation says (scores reported
by unit, a pruned trial returns its mean so far), at its defaults and with a smaller threshold for repeated looks; a
paired t-test against the best configuration with the Nadeau-Bengio correction, the same error and looks as ours; none.

The defaults of ours were settled on the set ``grid``; the table that counts is that of ``drawn``.

    python benchmarks/racing.py                          # ten minutes on an idle core, most of them Optuna's
    python benchmarks/racing.py --set grid --trade-off
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import record_scores
from lib import common, timing
from scipy import special, stats

from tune_lt.run.search.racing import FoldRace

SCIPY_WILCOXON = stats.wilcoxon
PARALLEL = 2
MATTERS = 0.005  # half a point
SETTINGS = (  # (error, minimum effect) of the trade-off
    *((error, 0.005) for error in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)),
    (0.05, 0.0),
    (0.05, 0.01),
)


class NoRule:
    """Nothing is ever stopped. A rule: how it judges a trial after each score, and what it chooses in the end."""

    def __init__(self, units: int) -> None:
        self.units = units
        self.scores: dict[int, list[float]] = {}  # trial -> its scores, in the common order of the units

    def start(self, trial: int) -> None:
        self.scores[trial] = []

    def stops(self, trial: int, value: float) -> bool:
        """Take the next score of a trial; whether it is to stop."""
        self.scores[trial].append(value)
        return False

    def end(self, trial: int) -> None:
        """The trial has come to its end or was stopped."""

    def chosen(self) -> int:
        """The trial with the best mean among those with the most scores."""
        return max(self.scores, key=lambda trial: (len(self.scores[trial]), statistics.fmean(self.scores[trial])))


class Ours(NoRule):
    def __init__(self, units: int, **options: float) -> None:
        super().__init__(units)
        self.race = FoldRace(units, **options)  # type: ignore[arg-type]

    def stops(self, trial: int, value: float) -> bool:
        super().stops(trial, value)
        self.race.record(str(trial), len(self.scores[trial]) - 1, value)
        return self.race.should_stop(str(trial))


def signed_rank(differences: np.ndarray, alternative: str, zero_method: str) -> SimpleNamespace:
    """`scipy.stats.wilcoxon` as WilcoxonPruner calls it, with the same p-value some hundred times faster.

    With ties and at most 13 differences scipy goes through all 2^n signs; here the distribution of the sum of the
    positive ranks is a convolution. In all other cases scipy is called.
    """
    ranks = stats.rankdata(np.abs(differences))
    tied = len(set(ranks)) < len(ranks) or bool((differences == 0).any())
    if len(ranks) > 13 or not tied or alternative != "less" or zero_method != "zsplit":
        return SimpleNamespace(
            pvalue=SCIPY_WILCOXON(differences, alternative=alternative, zero_method=zero_method).pvalue
        )
    doubled = np.rint(2 * ranks[differences != 0]).astype(int)  # zeros add the same to every sum
    chances = np.ones(1)
    for rank in doubled:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return SimpleNamespace(pvalue=float(chances[: int(doubled[differences[differences != 0] > 0].sum()) + 1].sum()))


def check_signed_rank(final: np.ndarray) -> None:
    """Our shortcut against scipy on differences of the recorded scores; raises if they differ."""
    generator = np.random.default_rng(3)
    flat = final.reshape(len(final), -1)
    for count in (2, 3, 5, 8, 10, 12, 13, 20):
        for _ in range(3):
            rows, units = generator.choice(len(flat), 2, replace=False), generator.permutation(flat.shape[1])[:count]
            differences = flat[rows[0], units] - flat[rows[1], units]
            differences[generator.random(len(differences)) < 0.2] = 0.0
            options = {"alternative": "less", "zero_method": "zsplit"}
            ours, theirs = signed_rank(differences, **options).pvalue, SCIPY_WILCOXON(differences, **options).pvalue
            if abs(ours - theirs) > 1e-9:
                raise RuntimeError(f"p = {ours} where scipy has {theirs}: {differences}")


class Wilcoxon(NoRule):
    """Optuna's pruner in the ask-and-tell form of the example in its documentation."""

    def __init__(self, units: int, p_threshold: float = 0.1) -> None:
        import optuna
        from optuna.pruners import _wilcoxon

        super().__init__(units)
        _wilcoxon.ss = SimpleNamespace(wilcoxon=signed_rank)  # type: ignore[assignment]
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.study = optuna.create_study(
            direction="maximize", pruner=optuna.pruners.WilcoxonPruner(p_threshold=p_threshold)
        )
        self.trials: dict[int, optuna.Trial] = {}

    def start(self, trial: int) -> None:
        super().start(trial)
        self.trials[trial] = self.study.ask()

    def stops(self, trial: int, value: float) -> bool:
        super().stops(trial, value)
        self.trials[trial].report(value, len(self.scores[trial]) - 1)
        return self.trials[trial].should_prune()

    def end(self, trial: int) -> None:
        self.study.tell(self.trials[trial], statistics.fmean(self.scores[trial]))

    def chosen(self) -> int:
        best = self.study.best_trial.number
        return next(trial for trial, asked in self.trials.items() if asked.number == best)


class NadeauBengio(NoRule):
    """A paired t-test against the best finished trial, its variance corrected for overlapping training sets."""

    def __init__(self, units: int, error: float = 0.05) -> None:
        super().__init__(units)
        self.error = error

    def stops(self, trial: int, value: float) -> bool:
        super().stops(trial, value)
        own = self.scores[trial]
        others = [scores for scores in self.scores.values() if len(scores) == self.units and scores is not own]
        if not others or not 2 <= len(own) < self.units:
            return False
        differences = np.array(max(others, key=statistics.fmean)[: len(own)]) - own
        variance = differences.var(ddof=1) * (1 / len(own) + 1 / (record_scores.FOLDS - 1))
        if variance == 0:
            return bool(differences.mean() > 0)
        t = differences.mean() / math.sqrt(variance)
        return bool(special.stdtr(len(own) - 1, -t) < self.error / (self.units - 2))


@dataclass(frozen=True)
class Outcome:
    """Of one replay: the share of the folds that was not trained, and how far below the best what it chose is.

    ``regret`` by the mean over the units of the replay, ``beyond`` by that over all recorded units.
    """

    saved: float
    regret: float
    beyond: float = 0.0


def replay(scores: np.ndarray, rule: NoRule, worth: np.ndarray) -> Outcome:
    """``scores`` (configurations, units), both in the order in which they come; ``worth`` (configurations,)."""
    waiting, running, used = list(range(len(scores))), [], 0
    while waiting or running:
        while waiting and len(running) < PARALLEL:
            running.append((waiting.pop(0), 0))
            rule.start(running[-1][0])
        after = []
        for trial, unit in running:
            used += 1
            if rule.stops(trial, float(scores[trial, unit])) or unit + 1 == scores.shape[1]:
                rule.end(trial)
            else:
                after.append((trial, unit + 1))
        running = after
    means, chosen = scores.mean(axis=1), rule.chosen()
    return Outcome(1 - used / scores.size, float(means.max() - means[chosen]), float(worth.max() - worth[chosen]))


def replays(final: np.ndarray, make: Callable[[int], NoRule], count: int, seeds: int) -> list[Outcome]:
    """``final`` (configurations, seeds, folds); the i-th replay draws the same orders whatever the rule."""
    outcomes = []
    for number in range(count):
        generator = np.random.default_rng([number, 7])
        order, drawn = generator.permutation(len(final)), generator.permutation(final.shape[1])[:seeds]
        folds = [generator.permutation(final.shape[2]) for _ in drawn]
        units = np.concatenate([final[order][:, seed, of] for seed, of in zip(drawn, folds, strict=True)], axis=1)
        outcomes.append(replay(units, make(units.shape[1]), final[order].mean(axis=(1, 2))))
    return outcomes


def line(name: str, outcomes: list[Outcome]) -> list[str]:
    """Saved: mean and central 95 % of the replays; wrong: share and Wilson interval; regret: mean and its 95 %."""
    saved = np.array([100 * outcome.saved for outcome in outcomes])
    regret = np.array([100 * outcome.regret for outcome in outcomes])
    beyond = np.array([100 * outcome.beyond for outcome in outcomes])
    wrong = int((regret > 100 * MATTERS).sum())
    low, high = stats.binomtest(wrong, len(outcomes)).proportion_ci(method="wilson")
    half, half_beyond = (1.96 * values.std(ddof=1) / math.sqrt(len(values)) for values in (regret, beyond))
    ends = np.quantile(saved, [0.025, 0.975])
    return [
        name,
        f"{saved.mean():.1f} ({ends[0]:.1f} to {ends[1]:.1f})",
        f"{100 * wrong / len(outcomes):.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        f"{regret.mean():.2f} ± {half:.2f}",
        f"{regret.max():.2f}",
        f"{beyond.mean():.2f} ± {half_beyond:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", choices=("drawn", "grid"), default="drawn")
    parser.add_argument("--replays", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5, help="of each configuration, drawn anew for each replay")
    parser.add_argument("--trade-off", action="store_true", help="many settings of ours instead of the comparison")
    options = parser.parse_args()
    final = record_scores.load(options.set).final
    if options.trade_off:
        rules = {
            f"error {error:g}, minimum effect {100 * effect:g} points": lambda units, e=error, m=effect: Ours(
                units, error=e, minimum_effect=m
            )
            for error, effect in SETTINGS
        }
    else:
        rules = {
            "no pruning": NoRule,
            "ours": Ours,
            "Optuna's WilcoxonPruner, p 0.1 (stock)": Wilcoxon,
            "the same, p 0.02": lambda units: Wilcoxon(units, 0.02),
            "paired t, Nadeau-Bengio, error 0.05": NadeauBengio,
        }
    check_signed_rank(final)
    print(timing.heading(packages=common.PACKAGES))
    truth = np.sort(final.mean(axis=(1, 2)))[::-1]
    near = int((truth > truth[0] - MATTERS).sum())
    print(
        f"{options.replays} replays of {len(final)} configurations ({options.set}) x {options.seeds} seeds x "
        f"{final.shape[2]} folds, {PARALLEL} at a time. Means over all {final[0].size} units: "
        f"best {100 * truth[0]:.2f}, median {100 * np.median(truth):.2f}, worst {100 * truth[-1]:.2f}; "
        f"{near} within 0.5 points of the best.\n"
    )
    header = ["rule", "folds saved, %", "wrong choice, %", "regret, points", "worst", "regret over all units"]
    rows = []
    for name, make in rules.items():
        rows.append(line(name, replays(final, make, options.replays, options.seeds)))
        print("; ".join(rows[-1]), file=sys.stderr, flush=True)  # as it goes; the table comes at the end
    print(timing.table(header, rows))


if __name__ == "__main__":
    main()
