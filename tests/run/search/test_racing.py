"""Racing on folds: the model against brute force, hand cases, error control, and what never stops a trial."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tune_lt.errors import InputError
from tune_lt.run.search import racing
from tune_lt.run.search.racing import FoldRace


def _race(scores: dict[str, list[float]], units: int, **options: Any) -> FoldRace:
    race = FoldRace(units, **options)
    for trial, values in scores.items():
        for unit, value in enumerate(values):
            race.record(trial, unit, value)
    return race


def _scores(*lengths: int, seed: int = 0, difficulty: float = 1.0) -> dict[str, list[float]]:
    generator = np.random.default_rng(seed)
    units = difficulty * generator.normal(size=max(lengths))
    return {
        chr(97 + number): (units[:length] + generator.normal(size=length)).tolist()
        for number, length in enumerate(lengths)
    }


def _brute_force(
    scores: dict[str, list[float]], units: int, own: str, other: str, ratio: float
) -> tuple[float, float, float, float]:
    """(expected lead of ``other``, its variance / noise, noise, log-likelihood), from joint normal distributions.

    All scores, seen or not, of all trials are one normal vector whose configurations have a variance of 10^7.
    """
    names = list(scores)
    places = [(name, unit) for name in names for unit in range(units)]
    covariance = np.array(
        [[1e7 * (a == b) + (u == v) / ratio + (a == b and u == v) for b, v in places] for a, u in places]
    )
    seen = [index for index, (name, unit) in enumerate(places) if unit < len(scores[name])]
    y = np.array([scores[places[index][0]][places[index][1]] for index in seen])
    target = np.array([((name == other) - (name == own)) / units for name, _ in places])
    across = target @ covariance[:, seen]
    known = covariance[np.ix_(seen, seen)]
    solved = np.linalg.solve(known, across)
    lead = float(solved @ y)
    variance = float(target @ covariance @ target - solved @ across)
    freedom = len(seen) - len(names)
    rest = float(y @ np.linalg.solve(known, y))
    likelihood = -0.5 * (freedom * math.log(rest) + np.linalg.slogdet(known)[1])
    return lead, variance, rest / freedom, likelihood


@pytest.mark.parametrize("lengths", [(6, 3), (6, 6, 1), (4, 2, 5, 6), (3, 3), (6, 2, 4, 4, 1, 6)])
def test_the_model_against_a_joint_normal_distribution(lengths: tuple[int, ...]) -> None:
    """Lead and probability are those of conditioning by brute force, averaged over the ratios by their likelihood."""
    for seed in range(3):
        scores = _scores(*lengths, seed=seed)
        race = _race(scores, 6, minimum_effect=0.1)
        for trial in scores:
            found = race.compare(trial)
            if found is None:
                assert len(scores[trial]) == 6 or max(map(len, scores.values())) == 1
                continue
            parts = [_brute_force(scores, 6, trial, found.incumbent, ratio) for ratio in racing.RATIOS]
            freedom = sum(map(len, scores.values())) - len(scores)
            weights = np.exp([likelihood - max(part[3] for part in parts) for *_, likelihood in parts])
            weights /= weights.sum()
            leads = np.array([lead for lead, *_ in parts])
            errors = np.sqrt([variance * noise for _, variance, noise, _ in parts])
            assert found.deficit == pytest.approx(weights @ leads, abs=1e-5)
            assert found.p == pytest.approx(weights @ stats.t.sf((leads + 0.1) / errors, freedom), rel=1e-3, abs=1e-6)


def test_an_infinite_ratio_compares_without_pairing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, 4 units: b has 6, 8, 6, 8 (mean 7, squares 4), a has 4, 6 (mean 5, squares 2), 4 degrees of freedom.

    The noise is 6 / 4, that of a's mean 1.5 (1/2 - 1/4) = 0.375; b is known. t = (2 + 0.5) / 0.6124 = 4.0825.
    """
    monkeypatch.setattr(racing, "RATIOS", np.array([1e9]))
    found = _race({"b": [6, 8, 6, 8], "a": [4, 6]}, 4, minimum_effect=0.5).compare("a")
    assert found is not None
    assert found.deficit == pytest.approx(2)
    assert found.p == pytest.approx(stats.t.sf(4.0825, 4), rel=1e-4)
    assert (found.incumbent, found.units) == ("b", 2)


def test_a_small_ratio_compares_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The units are 0, 10, 20, 30 apart: a is 1.1 and 0.9 worse on those it has, and so it is expected to stay."""
    scores = {"b": [0.0, 10.0, 20.0, 30.0], "a": [-1.1, 9.1]}
    monkeypatch.setattr(racing, "RATIOS", np.array([1e-6]))
    paired = _race(scores, 4).compare("a")
    assert paired is not None
    assert paired.deficit == pytest.approx(1.0, abs=1e-3)
    monkeypatch.setattr(racing, "RATIOS", np.array([1e9]))
    unpaired = _race(scores, 4).compare("a")
    assert unpaired is not None
    assert unpaired.deficit == pytest.approx(15 - 4)
    assert unpaired.p > 100 * paired.p


def test_the_scores_say_whether_to_pair() -> None:
    """With units far apart the average over the ratios is nearly the paired answer, with equal ones the other."""
    for difficulty, paired in ((50.0, True), (0.0, False)):
        scores = _scores(10, 10, 10, 5, seed=4, difficulty=difficulty)
        found = _race(scores, 10, minimum_effect=0.0).compare("d")
        assert found is not None
        best = np.array(scores[found.incumbent])
        mean = np.mean([scores[name] for name in "abc"], axis=0)
        apart = best.mean() - np.mean(scores["d"])
        beside = apart + (mean[:5].mean() - mean.mean())
        assert abs(found.deficit - beside) < 0.2 * abs(apart - beside) or not paired
        assert abs(found.deficit - apart) < 0.6 * abs(apart - beside) or paired


def test_nothing_is_hopeless_without_evidence() -> None:
    race = FoldRace(5)
    assert not race.should_stop("a")
    race.record("a", 0, 0.1)
    assert not race.should_stop("a")  # alone
    race.record("b", 0, 0.9)
    assert not race.should_stop("a")  # one score each says nothing of the noise
    assert race.compare("a") is None
    for unit in range(1, 5):
        race.record("b", unit, 0.9)
    assert not race.should_stop("unknown")
    assert not race.should_stop("b")  # it has all its scores
    for unit in range(1, 5):
        race.record("a", unit, 0.1)
    assert not race.should_stop("a")  # as well


def test_one_score_is_enough_once_the_noise_is_known() -> None:
    """Scores that vary by a point, and one that is 40 points worse; one that is a point worse goes on."""
    best = [0.90, 0.91, 0.89, 0.90, 0.91]
    race = _race({"b": best, "c": [0.89, 0.90, 0.90, 0.89, 0.90], "bad": [0.5], "fair": [0.89]}, 5)
    assert race.should_stop("bad")
    assert not race.should_stop("fair")


def test_far_worse_ones_stop_early_and_the_best_never_does() -> None:
    generator = np.random.default_rng(5)
    units = generator.normal(0, 0.05, 10)
    means = {"best": 0.9, "near": 0.897, "bad": 0.8, "awful": 0.6}
    stopped: dict[str, int] = {}
    race = FoldRace(10)
    for unit in range(10):
        for name, mean in means.items():
            if name not in stopped:
                race.record(name, unit, float(mean + units[unit] + generator.normal(0, 0.02)))
                if race.should_stop(name):
                    stopped[name] = unit + 1
    assert "best" not in stopped
    assert stopped["awful"] <= 3
    assert stopped["awful"] <= stopped["bad"] <= 6
    assert stopped.get("near", 10) > 6


def test_identical_scores_are_no_proof_after_one_unit() -> None:
    """Accuracies tie: with a minimum effect of half a point that is noise of half a point, not of none."""
    for effect in (0.0, 0.005):
        race = _race({"a": [1.0] * 5, "b": [1.0]}, 5, minimum_effect=effect)
        assert not race.should_stop("b")
    assert not _race({"a": [1.0] * 5, "b": [1.0] * 4}, 5, minimum_effect=0.0).should_stop("b")


def test_a_trial_that_would_have_to_win_by_more_than_is_left_stops() -> None:
    """Four of five scores are tied: the minimum effect on the mean would take 2.5 points on the last one."""
    race = _race({"a": [0.9, 0.9, 0.9, 0.9, 0.9], "b": [0.9, 0.9, 0.9, 0.9]}, 5, minimum_effect=0.005)
    assert race.should_stop("b")


def test_failures() -> None:
    race = _race({"a": [0.5, math.nan], "b": [0.4]}, 3)
    assert not race.should_stop("a")  # b has not come as far
    race.record("b", 1, 0.4)
    assert race.should_stop("a")
    assert not race.should_stop("b")
    race.record("a", 2, 0.5)
    assert not race.should_stop("a")  # nothing is left to stop
    race.record("b", 2, math.inf)
    assert not race.should_stop("a")  # both have failed
    found = _race({"a": [0.9, 0.9, math.nan], "b": [0.5, 0.6, 0.5], "c": [0.1, 0.1]}, 3).compare("c")
    assert found is not None
    assert found.incumbent == "b"  # the mean of one that failed is none


def test_the_best_of_those_that_have_come_farthest_is_the_incumbent() -> None:
    scores = {"done": [0.8, 0.8, 0.8, 0.8], "also": [0.7, 0.7, 0.6, 0.7], "lucky": [0.9, 0.9, 0.9], "t": [0.5, 0.6]}
    found = _race(scores, 4).compare("t")
    assert found is not None
    assert found.incumbent == "done"
    assert found.level == pytest.approx(0.05 / 3)
    for name in ("done", "also"):
        scores[name] = scores[name][:3]
    found = _race(scores, 4).compare("t")
    assert found is not None
    assert found.incumbent == "lucky"
    assert found.level == pytest.approx(0.05 / 3 / 3)  # one of three, none of which is through
    race = FoldRace(4)
    for unit in (0, 2):
        race.record("a", unit, 0.9)
    for unit in (0, 1):
        race.record("b", unit, 0.8)
    assert race.compare("b") is None  # a lacks unit 1


def test_units_without_a_score_are_no_part_of_the_race() -> None:
    """A race over five units of which two have none is the race over the other three; a failure still counts there."""
    scores = _scores(3, 3, 2, 1, seed=2)
    plain, race = _race(scores, 3), FoldRace(5, without={0, 3})
    for trial, values in scores.items():
        for unit, value in zip((1, 2, 4), values, strict=False):
            race.record(trial, unit, value)
    for trial in "abcd":
        assert race.compare(trial) == plain.compare(trial)
        assert race.should_stop(trial) == plain.should_stop(trial)
    assert race.compare("c") is not None
    race.record("a", 3, math.nan)
    found = race.compare("c")
    assert found is not None
    assert found.incumbent == "b"


def test_levels_add_up_to_the_error() -> None:
    scores = _scores(7, 6)
    levels = []
    for count in range(1, 7):
        found = _race({"a": scores["a"], "b": scores["b"][:count]}, 7, error=0.2).compare("b")
        assert found is not None
        levels.append(found.level)
    assert sum(levels) == pytest.approx(0.2)
    assert all(level > 0 for level in levels)


def test_nothing_depends_on_where_a_scale_begins_and_what_its_unit_is() -> None:
    scores = _scores(6, 4, 2, 6)
    plain = _race(scores, 6, minimum_effect=0.1).compare("c")
    other = {name: [7 * value + 3 for value in values] for name, values in scores.items()}
    rescaled = _race(other, 6, minimum_effect=0.7).compare("c")
    assert plain is not None
    assert rescaled is not None
    assert rescaled.deficit == pytest.approx(7 * plain.deficit)
    assert rescaled.p == pytest.approx(plain.p)
    assert rescaled.incumbent == plain.incumbent


def test_a_larger_minimum_effect_stops_more() -> None:
    scores = _scores(6, 6, 3)
    found = [_race(scores, 6, minimum_effect=effect).compare("c") for effect in (0.0, 0.1, 0.5, 1.0)]
    p = [one.p for one in found if one]
    assert len(p) == 4
    assert all(earlier > later for earlier, later in itertools.pairwise(p))


def test_the_answer_depends_on_what_is_recorded_and_not_on_the_order() -> None:
    scores = _scores(5, 3, 4, 5)
    records = [(name, unit, value) for name, values in scores.items() for unit, value in enumerate(values)]
    expected = _race(scores, 5)
    generator = np.random.default_rng(0)
    for _ in range(5):
        race = FoldRace(5)
        for index in [*generator.permutation(len(records)), *generator.integers(len(records), size=4)]:
            race.record(*records[index])
            race.should_stop("b")
        for name in scores:
            found, wanted = race.compare(name), expected.compare(name)
            assert (found is None) == (wanted is None)
            if found and wanted:
                assert (found.incumbent, found.level) == (wanted.incumbent, wanted.level)
                assert found.p == pytest.approx(wanted.p, rel=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("difficulty", [0.0, 3.0])
@pytest.mark.parametrize("complete", [True, False])
def test_error_control(difficulty: float, complete: bool) -> None:
    """A trial that ends better by just the minimum effect is stopped, at any of 9 looks, in at most 20 % of races.

    400 races; three standard deviations of a share of 20 % are 6 points.
    """
    generator = np.random.default_rng(6)
    wrong = 0
    for _ in range(400):
        units = difficulty * generator.normal(size=10)
        scores = units + generator.normal(size=(4, 10))
        best = max(range(3), key=lambda row: scores[row].mean())
        scores[3] += scores[best].mean() + 0.3 - scores[3].mean()
        race = FoldRace(10, minimum_effect=0.3, error=0.2)
        if complete:
            for row, unit in itertools.product(range(3), range(10)):
                race.record(str(row), unit, float(scores[row, unit]))
        for unit in range(10):
            for row in range(0 if not complete else 3, 4):
                race.record(str(row), unit, float(scores[row, unit]))
            if race.should_stop("3"):
                wrong += 1
                break
    assert wrong / 400 < 0.2 + 0.06


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "units = 0"),
        ({"units": 2, "without": {1, 0}}, r"units = 2 without \[0, 1\]"),
        ({"units": 5, "minimum_effect": -0.1}, "minimum_effect"),
        ({"units": 5, "minimum_effect": math.nan}, "minimum_effect"),
        ({"units": 5, "minimum_effect": math.inf}, "minimum_effect"),
        ({"units": 5, "error": 0.0}, "error = 0.0"),
        ({"units": 5, "error": 1.0}, "error = 1.0"),
    ],
)
def test_values_that_make_no_sense_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FoldRace(**arguments)


def test_a_unit_that_does_not_exist_is_refused() -> None:
    for unit in (-1, 5):
        with pytest.raises(IndexError, match=f"unit {unit} of 5"):
            FoldRace(5).record("a", unit, 0.5)
