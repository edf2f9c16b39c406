"""At most 6 % false verdicts where 5 % is claimed, in studies without any difference, for every design of the runs.

The studies are simulated with fixed seeds; `benchmarks/verdicts.py` has more of them, and what the rules before said.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from tune_lt.report.tables.differences import (
    Draw,
    Pair,
    Sample,
    corrected,
    critical,
    difference,
    interval,
    standard_error,
    tied,
)

STUDIES = 8000  # 5 % of them have a standard error of 0.24 points
MOST = 0.06


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def wrong(points: np.ndarray, step: float = 0.0, overlap: float = 0.0, intervals: int = 1) -> np.ndarray:
    """Whether the interval of each study's differences (studies, units), in points, leaves 0 out: as `difference`."""
    n, error = points.shape[1], standard_error(points, step, overlap)
    if n < 3:
        return np.zeros(len(points), dtype=bool)
    low, high = interval(points.mean(axis=1), error, n, -100, intervals)
    found: np.ndarray = ((low > 1e-9) | (high < -1e-9)) & (error > 0)
    return found


def test_many_studies_at_once_give_what_each_of_them_gives(draw: np.random.Generator) -> None:
    """Crossed seeds, a small group of images, a bootstrap and several intervals: `wrong` against `difference`."""
    for data, images, overlap, intervals in ((3, 10, 0.0, 1), (5, 50, 1.0, 1), (3, 20, 0.0, 3), (2, 20, 0.0, 1)):
        own, base = (draw.binomial(images, 0.3, (60, data, 2)) / images for _ in range(2))
        points = 100 * (own - base).mean(axis=2)
        kind: Draw = "bootstrap" if overlap else "sub-sample"
        single = [
            difference(Sample.of(_runs(a), kind, 1 / images), Sample.of(_runs(b), kind, 1 / images), intervals)
            for a, b in zip(own, base, strict=True)
        ]
        assert [one.low > 1e-9 or one.high < -1e-9 for one in single] == wrong(
            points, 1 / images, overlap, intervals
        ).tolist()


def _runs(values: np.ndarray) -> dict[Pair, float]:
    return {(d, i): float(values[d, i]) for d, i in np.ndindex(values.shape)}


@pytest.mark.parametrize(("data", "init"), [(2, 3), (3, 2), (3, 4)])
def test_crossed_seeds(data: int, init: int, draw: np.random.Generator) -> None:
    """Half of a difference's variance comes from the sub-sample, which the runs of a data seed share."""
    runs = draw.standard_normal((STUDIES, data, 1)) + draw.standard_normal((STUDIES, data, init))
    assert wrong(runs.mean(axis=2)).mean() <= MOST
    if data > 2:
        assert wrong(runs.reshape(STUDIES, -1)).mean() > 0.1  # what runs taken as independent would give


def test_a_column_of_rows_against_one_reference(draw: np.random.Generator) -> None:
    """Eleven rows and their reference with 5 x 2 crossed seeds: how often Holm's correction leaves a p below 0.05."""
    shape = (1500, 12, 5, 2)
    runs = draw.standard_normal((*shape[:3], 1)) + draw.standard_normal(shape)
    found = 0
    for study in runs:
        rows = [Sample.of(_runs(row / 100)) for row in study]
        every = corrected({row: difference(own, rows[0]) for row, own in enumerate(rows) if row})
        found += min(one.holm for one in every.values()) < 0.05
    assert found / len(runs) <= MOST


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_bootstrap_covers_other_images_of_the_same_kind(seeds: int, draw: np.random.Generator) -> None:
    """A row's advantage is the mean influence of the 200 images it trains on, and of its initialisation as much."""
    images = draw.standard_normal((STUDIES, 200))
    start = draw.standard_normal((STUDIES, seeds)) / sqrt(200)
    drawn = images @ draw.multinomial(200, np.full(200, 1 / 200), size=seeds).T / 200 + start
    overlap = Sample.of({(seed, seed): 0.0 for seed in range(seeds)}, "bootstrap").overlap
    assert wrong(drawn, overlap=overlap).mean() <= MOST
    assert wrong(drawn).mean() > 0.1
    fixed = images.mean(axis=1, keepdims=True) + start
    assert wrong(fixed).mean() > 0.1  # of other images it says nothing,
    assert wrong(fixed - images.mean(axis=1, keepdims=True)).mean() <= MOST  # of these it does


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("images", [10, 20, 50])
def test_groups_of_few_sealed_images(seeds: int, images: int, draw: np.random.Generator) -> None:
    for accuracy in (0.03, 0.1, 0.3, 0.5):
        own, base = (draw.binomial(images, accuracy, (STUDIES, seeds)) / images for _ in range(2))
        assert wrong(100 * (own - base), 1 / images).mean() <= MOST


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_three_sentences_together(seeds: int, draw: np.random.Generator) -> None:
    """Tail, head and mean of four groups, the smaller the more uncertain."""
    groups = np.array([0.5, 1, 2, 4])[:, None, None] * draw.standard_normal((4, STUDIES, seeds))
    three = groups[2:].mean(axis=0), groups[0], groups.mean(axis=0)
    assert np.any([wrong(one, intervals=3) for one in three], axis=0).mean() <= MOST
    assert np.any([wrong(one) for one in three], axis=0).mean() > 0.1


@pytest.mark.parametrize("rows", [2, 12])
@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("most", [1.0, 4.0])
def test_rows_as_good_as_the_best_are_tied_with_it(
    rows: int, seeds: int, most: float, draw: np.random.Generator
) -> None:
    """Also where one row varies ``most`` times as much as the others."""
    values = draw.standard_normal((STUDIES, rows, seeds)) * np.r_[most, np.ones(rows - 1)][:, None]
    best = values.mean(axis=2).argmax(axis=1)
    gaps = values[np.arange(STUDIES), best][:, None] - values
    errors = gaps.std(axis=2, ddof=1) / sqrt(seeds)
    t = gaps.mean(axis=2) / np.where(errors > 0, errors, 1)  # 0 for the best itself
    left_out = t.max(axis=1) > critical(rows, seeds)
    assert left_out.mean() <= MOST
    for study in range(40):
        own = {str(row): Sample(dict(enumerate(values[study, row] / 100))) for row in range(rows)}
        assert (len(tied(own, str(best[study]))) < rows - 1) == left_out[study]
