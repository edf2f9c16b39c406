"""Parts of messages: the first of many names, an error in one line, a number, a duration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def some(names: Sequence[str], most: int = 5, *, separator: str = ", ") -> str:
    """The first ``most`` names in one text, and at its end how many others there are: "a, b, and 3 more"."""
    left = len(names) - most
    return separator.join([*names[:most], f"and {left} more"] if left > 0 else names)


def first_line(error: BaseException) -> str:
    """The first line of the error's text, and the name of its class where it has no text."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def found_values(found: Mapping[str, Any]) -> str:
    """The values that a search found, in one line: alpha 0.7, regions 20."""
    return ", ".join(f"{short(path)} {number(value)}" for path, value in found.items())


def short(path: str) -> str:
    """The name of a searched field in tables and figures: alpha for loss/alpha."""
    return path.removeprefix("loss/").removeprefix("recipe/")


def number(value: Any) -> str:
    """A float with three significant digits, any other value unchanged, as text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A duration in a fitting unit: 42 s, 12 min, 3.5 h, 2.5 days."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 90:
        return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{days:.1f} days"
