"""Nested mappings, as a study file has them: merged, and flattened."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any


def overlay(
    base: Mapping[str, Any], changes: Mapping[str, Any], replaces: Callable[..., bool] = lambda *_: False
) -> dict[str, Any]:
    """``base`` updated with ``changes``; mappings that both have are merged. Neither argument is altered.

    ``replaces(key, old, new)``: whether the new mapping takes the place of the old one instead.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not replaces(key, old, value):
            merged[key] = overlay(old, value, replaces)
        else:
            merged[key] = value
    return merged


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"loss/alpha": 0.9}`` as ``{"loss": {"alpha": 0.9}}``."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        branch = functools.reduce(lambda inner, key: {key: inner}, reversed(path.split("/")), value)
        tree = overlay(tree, branch)
    return tree


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The inverse of `nested`; an empty mapping is kept as a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= flattened(value, f"{path}/") if isinstance(value, Mapping) and value else {path: value}
    return flat
