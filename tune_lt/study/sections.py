"""Data, model, loss and recipe of a study file, checked against the signatures of the builders they name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge

from tune_lt import data, losses, models, registry
from tune_lt.config import _STRICT, Recipe
from tune_lt.study.checks import Problems, section

LONG_TAIL: dict[str, tuple[Any, Any]] = {
    "imbalance": (Annotated[float, Ge(1)] | None, None),
    "profile": (Literal[tuple(data.PROFILES)], "exponential"),
    "largest": (Annotated[int, Ge(1)] | None, None),
    "sealed": (Annotated[int, Ge(1)] | None, None),
}
REGISTRIES: dict[str, Mapping[str, Any]] = {"loss": losses.LOSSES, "model": models.MODELS, "data": data.DATASETS}
_CONFIG = _STRICT | {"arbitrary_types_allowed": True}  # a plugin's parameter may have any class


def configuration(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``plain`` with its data, model, loss and recipe checked and every default filled in. Raises Problems.

    ``prefix``: what stands before their names in the file, such as ``rows.base.``.
    """
    recipe: Recipe = section(Recipe, f"{prefix}recipe", plain.get("recipe", {}))
    milestones, factors = list(recipe.schedule.milestones), list(recipe.schedule.factors)
    if len(milestones) != len(factors) or milestones != sorted(milestones):
        raise Problems(
            f"{prefix}recipe.schedule: found milestones {milestones}, factors {factors}; "
            "valid: rising milestones, one factor for each"
        )
    filled = {kind: with_defaults(kind, plain[kind], f"{prefix}{kind}") for kind in ("data", "model", "loss")}
    return {**filled, "recipe": recipe}


def with_defaults(kind: str, raw: Any, field: str) -> dict[str, Any]:
    """``{name: ..., ...}`` of a loss, model or data set, the file's ``field``, with every default. Raises Problems."""
    name = check_name(kind, raw, f"{field}.name")
    return dataclasses.asdict(section(component(kind, name, REGISTRIES[kind][name]), field, raw))


def check_name(kind: str, raw: Any, field: str) -> str:
    """The name in ``{name: ..., ...}`` of a loss, model or data set; ``field`` is its place. Raises Problems."""
    known = REGISTRIES[kind]
    if not isinstance(raw, dict) or "name" not in raw:
        raise Problems(f"{field}: missing; {registry.names(known)}")
    name = raw["name"]
    if not isinstance(name, str) or name not in known:
        raise Problems(f"{field}: unknown {kind} {name!r}; {registry.names(known, str(name))}")
    return name


@functools.cache
def component(kind: str, name: str, builder: Callable[..., Any]) -> Any:
    """A dataclass with the parameters of a builder, to check a loss, model or data set in a file against."""
    more = {"loss": {"drw": (_DRW | None, None)}, "data": LONG_TAIL}.get(kind, {})
    return _dataclass({"name": (Literal[name], registry.REQUIRED)} | more | registry.parameters(builder))


def _dataclass(parameters: Mapping[str, tuple[Any, Any]]) -> Any:
    fields: list[Any] = []
    for key, (annotation, default) in parameters.items():
        factory: Any = dataclasses.MISSING if default is registry.REQUIRED else lambda default=default: default
        fields.append((key, annotation, dataclasses.field(default_factory=factory)))
    return dataclasses.make_dataclass("Component", fields, kw_only=True, namespace={"__pydantic_config__": _CONFIG})


_DRW = _dataclass(registry.parameters(losses.DRW))
