"""YAML text to values: numbers as YAML 1.2 and JSON write them, texts that a JSON library escaped, names as written."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_lt.study import yaml_text
from tune_lt.study.checks import Problems

EXAMPLES = settings(derandomize=True, max_examples=200, deadline=None, database=None)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x7f"), max_size=8)
NAMES = st.text(max_size=8).filter(str.isprintable)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(width=32, allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@EXAMPLES
@given(st.dictionaries(NAMES, JSON, max_size=3), st.sampled_from([None, 2, "\t"]))
def test_what_a_json_library_writes_reads_as_what_it_wrote(value: dict[str, Any], indent: int | str | None) -> None:
    read = yaml_text.load(json.dumps(value, indent=indent))
    assert read == value
    assert repr(read) == repr(value), "1 is not 1.0, and no string is a number"


@EXAMPLES
@given(st.text("0123456789_+-.:eExobnaift", min_size=1, max_size=9))
def test_what_was_a_number_in_yaml_1_1_is_the_same_one(text: str) -> None:
    try:
        before = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return
    if isinstance(before, bool | int) or (isinstance(before, float) and abs(before) < 1e38):
        assert yaml_text.load(f"a: {text}") == {"a": before}
    elif isinstance(before, float):
        with pytest.raises(Problems, match="a finite number"):
            yaml_text.load(f"a: {text}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-1", 0.1),
        ("1e5", 100_000.0),
        ("+1E+3", 1000.0),
        ("-2.5e3", -2500.0),
        (".5e1", 5.0),
        ("-.5", -0.5),
        ("0o17", 15),
        ("1_000", 1000),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1e5x", "1e5x"),
        ("08", "08"),
        ("'1e5'", "1e5"),
        ("!!str 1e5", "1e5"),
        (r'"\ud83d\ude42 \ud83d\ude42"', "🙂 🙂"),
    ],
)
def test_a_plain_value(text: str, value: Any) -> None:
    read = yaml_text.load(f"a: {text}")["a"]
    assert (type(read), read) == (type(value), value)


def test_a_key_is_a_string_as_it_is_written() -> None:
    text = r'{on: 1, No: 2, 1e-3: 3, 0.10: 4, 010: 5, "\ud83d\ude42": 6}'
    assert yaml_text.load(text) == {"on": 1, "No": 2, "1e-3": 3, "0.10": 4, "010": 5, "🙂": 6}
    with pytest.raises(Problems, match="line 2: '1' is written twice"):
        yaml_text.load("1: a\n'1': b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1e999", "a: found '1e999'; valid: a finite number"),
        ("a: -.inf", "a: found '-.inf'; valid: a finite number"),
        ("a: .NaN", "a: found '.NaN'; valid: a finite number"),
        ("a: 4.0e+38", "a: found '4.0e+38'; valid: a finite number, at most 3.4e+38"),
        ("~: 1", "line 1: found the key '~'; valid: a string, in quotes"),
        ('b: 1\na: ["\\ud83d x"]', r"a[0]: found '\ud83d x'; valid: a string of Unicode characters"),
        ('b: 1\n"\\ude42\\ud83d": 1', "line 2: found the key"),
    ],
)
def test_what_is_refused_is_quoted_as_it_is_written(text: str, message: str) -> None:
    with pytest.raises(Problems, match=re.escape(message)):
        yaml_text.load(text)
