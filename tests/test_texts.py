"""The small pieces of messages."""

from __future__ import annotations

import pytest

from tune_lt import texts


def test_some_of_many_names() -> None:
    assert texts.some(["a", "b"], 2) == "a, b"
    assert texts.some(["a", "b", "c", "d"], 2) == "a, b, and 2 more"
    assert texts.some(["a", "b", "c"], 2, separator="\n") == "a\nb\nand 1 more"


def test_an_error_in_one_line() -> None:
    assert texts.first_line(ValueError("\n  this went wrong\nand so did that")) == "this went wrong"
    assert texts.first_line(MemoryError()) == "MemoryError"
    assert texts.first_line(ValueError(" \n")) == "ValueError"


def test_a_number_has_three_digits_where_it_is_a_fraction() -> None:
    assert [texts.number(value) for value in (0.12345, 2.0, 12345, True, "cosine", None)] == [
        "0.123", "2", "12345", "True", "cosine", "None"
    ]  # fmt: skip


def test_what_a_search_found_is_one_line() -> None:
    found = {"loss/alpha": 0.71234, "loss/regions": 20, "recipe/optimizer/lr": 0.1, "loss/aura": True}
    assert texts.found_values(found) == "alpha 0.712, regions 20, optimizer/lr 0.1, aura True"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (89 * 60, "89 min"),
        (90 * 60, "1.5 h"),
        (47 * 3600, "47.0 h"),
        (60 * 3600, "2.5 days"),
    ],
)
def test_a_duration_has_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert texts.duration(seconds) == shown
