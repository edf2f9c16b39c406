"""Small pieces of messages: a few of many names, an error in one line, a number, a duration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def some(names: Sequence[str], most: int = 5, *, separator: str = ", ") -> str:
    """The first ``most`` names; where there are others, "and 3 more" comes last."""
    left = len(names) - most
    return separator.join([*names[:most], f"and {left} more"] if left > 0 else names)


def first_line(error: BaseException) -> str:
    """The first line of the error's text, and the name of its class where it has no text."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def found_values(found: Mapping[str, Any]) -> str:
    """What a search found, in one line: alpha 0.7, regions 20."""
    return ", ".join(f"{short(path)} {number(value)}" for path, value in found.items())


def short(path: str) -> str:
    """A searched field as tables and figures call it: loss/alpha is alpha."""
    return path.removeprefix("loss/").removeprefix("recipe/")


def number(value: Any) -> str:
    """A fraction with three digits; any other value as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """In the unit that fits: 42 s, 12 min, 3.5 h, 2.5 days."""
    for unit, length, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds / length < limit:
            return f"{seconds / length:.1f} h" if unit == "h" else f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"
