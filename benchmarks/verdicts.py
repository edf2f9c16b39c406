"""How often the report says that equal rows differ, in percent of simulated studies; an interval of 95 % claims 5.

"before": the rule of commit 38b4054: Student's t over all runs as if they were independent, no least standard error,
no correction over the three sentences of a recommendation, and ≈ by Holm's correction over the tests against the best
row. "now": `tune_lt.report.tables.differences`. Both judge the same studies.

    python benchmarks/verdicts.py                # a minute on an idle core
    python benchmarks/verdicts.py --studies 2000
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import sqrt

import numpy as np
from scipy import stats

from tune_lt.report.tables.differences import LEAST, Sample, critical, interval, standard_error

GROUPS = {"many": 0.5, "medium": 1.0, "few": 2.0, "rare": 4.0}  # standard deviation of a difference, in points
IMAGES = 300  # of a folder, of which each has some influence on a difference


def before(points: np.ndarray) -> np.ndarray:
    """Whether the old interval of differences (studies, runs), in points, leaves 0 out."""
    n = points.shape[-1]
    half = stats.t.ppf(0.975, n - 1) * points.std(axis=-1, ddof=1) / sqrt(n)
    wrong: np.ndarray = np.abs(points.mean(axis=-1)) > half + 1e-9
    return wrong


def now(points: np.ndarray, step: float = 0.0, overlap: float = 0.0, intervals: int = 1) -> np.ndarray:
    """Whether today's interval of differences (studies, units), in points, leaves 0 out."""
    n = points.shape[-1]
    if n < LEAST:
        return np.zeros(len(points), dtype=bool)
    mean, error = points.mean(axis=-1), standard_error(points, step, overlap)
    low, high = interval(mean, error, n, -100, intervals)
    wrong: np.ndarray = ((low > 1e-9) | (high < -1e-9)) & (error > 0)
    return wrong


def percent(wrong: np.ndarray) -> str:
    return f"{100 * wrong.mean():.1f}"


def table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print it as Markdown."""
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")


def crossed(draw: np.random.Generator, studies: int) -> None:
    """Data seeds x init seeds: a difference is what the sub-sample gives it plus what the initialisation does."""
    lines = []
    for data, init in ((2, 3), (3, 2), (3, 4), (5, 2)):
        for share in (0.25, 0.5, 0.75):
            shape = (studies, data, init)
            runs = sqrt(share) * draw.standard_normal((studies, data, 1)) + sqrt(1 - share) * draw.standard_normal(
                shape
            )
            wrong = before(runs.reshape(studies, -1)), now(runs.mean(axis=2))
            lines.append((f"{data} x {init}", f"{100 * share:.0f} %", *map(percent, wrong)))
    table("Crossed seeds", ("data x init seeds", "variance by the data seed", "before", "now"), lines)


def own_folder(draw: np.random.Generator, studies: int) -> None:
    """All images of a folder in every run, or a bootstrap of them for each data seed.

    A row's advantage in a run is the mean influence of its training images plus an effect of the initialisation. In the
    population it is 0; on the images of one folder it is the mean influence of these.
    """
    lines = []
    for seeds in (3, 5, 10):
        for share in (0.25, 0.5, 0.75):
            images = draw.standard_normal((studies, IMAGES))
            start = sqrt((1 - share) / share / IMAGES) * draw.standard_normal((studies, seeds))
            fixed = images.mean(axis=1, keepdims=True) + start
            counts = draw.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=seeds)
            drawn = images @ counts.T / IMAGES + start
            overlap = Sample.of({(seed, seed): 0.0 for seed in range(seeds)}, "bootstrap").overlap
            wrong = (
                before(fixed),
                now(fixed - images.mean(axis=1, keepdims=True)),
                before(drawn),
                now(drawn, 0.0, overlap),
            )
            lines.append((str(seeds), f"{100 * share:.0f} %", *map(percent, wrong)))
    header = (
        "seeds",
        "variance by the images",
        "all images, before (of any images)",
        "all images, now (of these images)",
    )
    table("A folder of one's own", (*header, "bootstrap, before", "bootstrap, now (of any images)"), lines)


def rare(draw: np.random.Generator, studies: int) -> None:
    """Few sealed images: right answers are binomial in both rows."""
    lines = []
    for seeds in (2, 3, 5, 10):
        for images in (10, 20, 50):
            wrong: list[str] = []
            for accuracy in (0.1, 0.3):
                own, base = (draw.binomial(images, accuracy, (studies, seeds)) / images for _ in range(2))
                points = 100 * (own - base)
                wrong += [percent(before(points)), percent(now(points, 1 / images))]
            lines.append((str(seeds), str(images), *wrong))
    header = ("seeds", "sealed images", "before, accuracy 10 %", "now, 10 %", "before, 30 %", "now, 30 %")
    table("Rare groups", header, lines)


def sentences(draw: np.random.Generator, studies: int) -> None:
    """Tail, head and mean of a recommendation: how often at least one of the three is wrong."""
    lines = []
    for seeds in (3, 5, 10):
        groups = np.array(list(GROUPS.values()))[:, None, None] * draw.standard_normal((len(GROUPS), studies, seeds))
        three = groups[2:].mean(axis=0), groups[0], groups.mean(axis=0)
        wrong = [np.any([before(one) for one in three], axis=0)]
        wrong.append(np.any([now(one, intervals=3) for one in three], axis=0))
        lines.append((str(seeds), *map(percent, wrong)))
    table("Three sentences", ("seeds", "before", "now"), lines)


def ties(draw: np.random.Generator, studies: int) -> None:
    """How often a row as good as the best lacks its ≈: where all vary alike, and where one varies four times more."""
    lines = []
    for seeds in (5, 10):
        for rows in (2, 3, 12):
            wrong: list[str] = []
            for most in (1.0, 4.0):
                spread = np.r_[most, np.ones(rows - 1)][:, None]
                values = spread * draw.standard_normal((studies, rows, seeds))
                means = values.mean(axis=2)
                gaps = values[np.arange(studies), means.argmax(axis=1)][:, None] - values
                errors = np.maximum(gaps.std(axis=2, ddof=1) / sqrt(seeds), 1e-300)
                t = (gaps.mean(axis=2) / errors).max(axis=1)
                rest = (
                    values - means[:, :, None] - values.mean(axis=1, keepdims=True) + means.mean(axis=1)[:, None, None]
                )
                free = (rows - 1) * (seeds - 1)
                ranges = np.ptp(means, axis=1) / np.sqrt((rest**2).sum(axis=(1, 2)) / free / seeds)
                wrong += [
                    percent(t > stats.t.isf(0.025 / (rows - 1), seeds - 1)),
                    percent(ranges > stats.studentized_range.isf(0.05, rows, free)),
                    percent(t > critical(rows, seeds)),
                ]
            lines.append((str(seeds), str(rows), *wrong))
    kinds = ("before (Holm)", "studentised range", "now")
    header = ("seeds", "rows", *kinds, *(f"{kind}, one row varies more" for kind in kinds))
    table("≈, cannot be told from the best", header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20_000, help="simulated studies for each number")
    studies = parser.parse_args().studies
    print(f"False verdicts in % of {studies:,} studies without any difference (seed 0); 5 is claimed.")
    for number, part in enumerate((crossed, own_folder, rare, sentences, ties)):
        part(np.random.default_rng([0, number]), studies)


if __name__ == "__main__":
    main()
