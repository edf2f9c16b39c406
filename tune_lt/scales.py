"""Smaller forms of a study: the section ``scales`` of its file, chosen with ``--scale``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_lt.strict import Problems, known_fields
from tune_lt.study import FULL, overlay

MAY_CHANGE = ("data", "model", "recipe", "loss", "search", "compare", "rows", "cross", "seeds", "resources")


def scaled(raw: Mapping[str, Any], scale: str) -> dict[str, Any]:
    """A study file's content in the form ``scale``: what that one changes laid over the rest, and its name at the end.

    Mappings are merged; a ``model`` or ``loss`` with another name takes the place of the old one with its parameters.
    Every scale is checked, whichever is wanted. Raises Problems.
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
    merged = overlay(whole, scales[scale])
    for part in ("model", "loss"):
        changes = scales[scale].get(part, {})
        if isinstance(changes, dict) and "name" in changes and changes["name"] != whole.get(part, {}).get("name"):
            merged[part] = changes
    return merged | {"name": f"{raw.get('name')}-{scale}"}
