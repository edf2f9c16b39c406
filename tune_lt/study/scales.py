"""Smaller forms of a study: the section ``scales`` of its file, chosen with ``--scale``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_lt.study import FULL, scaled_name
from tune_lt.study.checks import KINDS, Problems, known_fields

MAY_CHANGE = ("data", "model", "recipe", "loss", "search", "compare", "rows", "cross", "seeds", "resources")


def scaled(raw: Mapping[str, Any], scale: str) -> dict[str, Any]:
    """A study file's content in the form ``scale``: what that one changes laid over the rest, and its name at the end.

    Mappings are merged. What has another ``name`` takes the place of the old one with its parameters; so do a range and
    a ``validation``; null takes a section away. Raises Problems, for the names of all scales too.
    """
    scales = raw.get("scales", {})
    if not isinstance(scales, dict):
        raise Problems(f"scales: found {type(scales).__name__}; valid: a mapping such as {{small: {{seeds: [0]}}}}")
    for name, changes in scales.items():
        if name == FULL:
            raise Problems(f"scales.{FULL}: is the study without changes; call this one differently")
        known_fields(f"scales.{name}", changes, MAY_CHANGE)
    whole = {key: value for key, value in raw.items() if key != "scales"}
    if scale == FULL:
        return whole
    if scale not in scales:
        raise Problems(f"scales: the study has no scale {scale!r}; valid: {', '.join([FULL, *scales])}")
    merged = _laid_over(whole, scales[scale])
    kept = {key: value for key, value in merged.items() if value is not None}
    return kept | {"name": scaled_name(str(raw.get("name")), scale)}


def _laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if not isinstance(old, Mapping) or not isinstance(value, Mapping) or _replaces(key, old, value):
            merged[key] = value
        else:
            merged[key] = _laid_over(old, value)
    return merged


def _replaces(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a mapping is another thing than the old one, not a change of it."""
    ranged = any(kind in one for kind in KINDS for one in (old, new))
    return key == "validation" or ranged or ("name" in new and new["name"] != old.get("name"))
