"""Counts per class against the published totals and against exact integer arithmetic."""

from __future__ import annotations

import math

import pytest

from tune_lt.data import PROFILES, exponential, step
from tune_lt.errors import InputError


@pytest.mark.parametrize(
    ("largest", "classes", "imbalance", "total", "last"),
    [
        (5000, 10, 10, 20431, 500),
        (5000, 10, 50, 13996, 100),
        (5000, 10, 100, 12406, 50),
        (5000, 10, 500, 10011, 10),
        (500, 100, 10, 19573, 50),
        (500, 100, 50, 12608, 10),
        (500, 100, 100, 10847, 5),
        (500, 100, 500, 8155, 1),
    ],
)
def test_exponential_has_the_published_totals(
    largest: int, classes: int, imbalance: float, total: int, last: int
) -> None:
    """CIFAR-LT of Cui et al. 2019 and Cao et al. 2019."""
    counts = exponential(largest, imbalance, classes)
    assert (sum(counts), counts[0], counts[-1], len(counts)) == (total, largest, last, classes)
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(("largest", "classes"), [(5000, 10), (500, 100), (1000, 100), (500, 200)])
@pytest.mark.parametrize("imbalance", [1, 2, 5, 10, 20, 50, 100, 200, 250, 500])
def test_exponential_has_the_counts_of_the_public_code(largest: int, classes: int, imbalance: int) -> None:
    """CIFAR-10, CIFAR-100 and both Tiny-ImageNets, in the arithmetic of LDAM-DRW."""
    public = [int(largest * ((1 / imbalance) ** (c / (classes - 1.0)))) for c in range(classes)]
    assert exponential(largest, imbalance, classes) == public


def _exact(largest: int, imbalance: int, c: int, classes: int) -> int:
    """floor(n · IF^(−c/(C−1))) in whole numbers: the largest k with k^(C−1) · IF^c ≤ n^(C−1)."""
    power = classes - 1
    k = int(largest * imbalance ** (-c / power)) + 2
    while k**power * imbalance**c > largest**power:
        k -= 1
    return max(k, 1)


def test_no_count_falls_to_rounding() -> None:
    for imbalance in (1, 2, 3, 7, 9, 20, 64, 100, 125, 500, 1000):
        for classes in (2, 3, 4, 7, 10, 101):
            for largest in (6, 120, 500, 1000, 1280, 4096, 4999, 64000):
                expected = [_exact(largest, imbalance, c, classes) for c in range(classes)]
                assert exponential(largest, imbalance, classes) == expected


def test_a_count_just_below_a_whole_number_is_that_number() -> None:
    """1280 / 64^(5/6) is 1280 / 32 = 40 images, but 39.99999999999999 in the recipe's arithmetic."""
    assert math.floor(1280 * (1 / 64) ** (5 / 6)) == 39, "the trap this guards against"
    assert exponential(1280, 64, 7) == [1280, 640, 320, 160, 80, 40, 20]


def test_the_digits_profile() -> None:
    counts = exponential(120, 20, 10)
    assert (counts[0], counts[-1], min(counts)) == (120, 6, 6)


def test_step_is_flat_in_two_halves() -> None:
    assert step(5000, 100, 10) == [5000] * 5 + [50] * 5
    assert step(7, 2, 5) == [7, 7, 7, 3, 3]


def test_no_class_is_left_without_an_image() -> None:
    assert exponential(10, 1000, 4)[-1] == 1
    assert step(10, 1000, 4) == [10, 10, 1, 1]


@pytest.mark.parametrize("name", sorted(PROFILES))
@pytest.mark.parametrize(
    ("largest", "imbalance", "classes", "found"),
    [(0, 10, 3, "largest = 0"), (10, 0.5, 3, "imbalance = 0.5"), (10, math.nan, 3, "imbalance = nan"),
     (10, math.inf, 3, "imbalance = inf"), (10, 10, 0, "classes = 0")],
)  # fmt: skip
def test_what_makes_no_profile_is_refused(name: str, largest: int, imbalance: float, classes: int, found: str) -> None:
    with pytest.raises(InputError, match=f"{found}, but it must be a number of at least 1"):
        PROFILES[name](largest, imbalance, classes)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_limits(name: str) -> None:
    assert PROFILES[name](50, 1, 4) == [50] * 4
    assert PROFILES[name](50, 1.0, 1) == [50]
    assert PROFILES[name](50, 10, 1) == [50]
