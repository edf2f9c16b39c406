"""Data, model, loss and recipe of a study file, checked against the signatures of what they name."""

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
    """Data, model, loss and recipe checked against their signatures, every default filled in. Raises Problems."""
    recipe = section(Recipe, f"{prefix}recipe", plain.get("recipe", {}))
    return {
        **{kind: _component(kind, plain[kind], f"{prefix}{kind}") for kind in ("data", "model", "loss")},
        "recipe": _check_recipe(recipe, f"{prefix}recipe"),
    }


def check_name(kind: str, raw: Any, field: str) -> str:
    """The name, the file's ``field``, in ``{name: ..., ...}`` of a loss, model or data set. Raises Problems."""
    known = REGISTRIES[kind]
    if not isinstance(raw, dict) or "name" not in raw:
        raise Problems(f"{field}: missing; {registry.names(known)}")
    name = raw["name"]
    if not isinstance(name, str) or name not in known:
        raise Problems(f"{field}: unknown {kind} {name!r}; {registry.names(known, str(name))}")
    return name


@functools.cache
def component(kind: str, builder: Callable[..., Any]) -> Any:
    """The dataclass that a loss, model or data set in a file is checked against, made of its builder's signature."""
    more = {"loss": {"drw": (_DRW | None, None)}, "data": LONG_TAIL}.get(kind, {})
    return _dataclass({"name": (str, registry.REQUIRED)} | more | registry.parameters(builder))


def _dataclass(parameters: Mapping[str, tuple[Any, Any]]) -> Any:
    fields: list[Any] = []
    for key, (annotation, default) in parameters.items():
        factory: Any = dataclasses.MISSING if default is registry.REQUIRED else lambda default=default: default
        fields.append((key, annotation, dataclasses.field(default_factory=factory)))
    return dataclasses.make_dataclass("Component", fields, kw_only=True, namespace={"__pydantic_config__": _CONFIG})


_DRW = _dataclass(registry.parameters(losses.DRW))


def _component(kind: str, raw: Any, field: str) -> dict[str, Any]:
    builder = REGISTRIES[kind][check_name(kind, raw, f"{field}.name")]
    return dataclasses.asdict(section(component(kind, builder), field, raw))


def _check_recipe(recipe: Recipe, field: str) -> Recipe:
    schedule = recipe.schedule
    if len(schedule.milestones) != len(schedule.factors) or list(schedule.milestones) != sorted(schedule.milestones):
        raise Problems(
            f"{field}.schedule: found milestones {list(schedule.milestones)}, factors {list(schedule.factors)}; "
            "valid: rising milestones, one factor for each"
        )
    return recipe
