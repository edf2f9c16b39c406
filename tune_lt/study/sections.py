"""Data, model, loss and recipe of a study file, checked against the signatures of what they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge

from tune_lt import data, losses, models, registry
from tune_lt.config import Recipe
from tune_lt.study.checks import Problems, known_fields, section

LONG_TAIL: dict[str, tuple[Any, Any]] = {
    "imbalance": (Annotated[float, Ge(1)] | None, None),
    "profile": (Literal[tuple(data.PROFILES)], "exponential"),
    "largest": (Annotated[int, Ge(1)] | None, None),
    "sealed": (Annotated[int, Ge(1)] | None, None),
}
REGISTRIES: dict[str, Mapping[str, Any]] = {"loss": losses.LOSSES, "model": models.MODELS, "data": data.DATASETS}
Parameters = Mapping[str, tuple[Any, Any]]


def component_parameters(kind: str, name: str) -> Parameters:
    """What ``{name: ..., ...}`` may hold for a loss, model or data set: name -> (annotation, default)."""
    if kind == "loss":
        return {**registry.parameters(losses.LOSSES[name]), "drw": (dict[str, Any] | None, None)}
    if kind == "model":
        return registry.parameters(models.MODELS[name])
    return {**LONG_TAIL, **registry.parameters(data.DATASETS[name])}


def configuration(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Data, model, loss and recipe checked against their signatures, every default filled in. Raises Problems."""
    recipe = plain.get("recipe", {})
    return {
        "data": _component("data", plain["data"], prefix),
        "model": _component("model", plain["model"], prefix),
        "loss": _component("loss", plain["loss"], prefix),
        "recipe": _check_recipe(section(Recipe, f"{prefix}recipe", recipe), f"{prefix}recipe"),
    }


def _component(kind: str, raw: Any, prefix: str) -> dict[str, Any]:
    field = f"{prefix}{kind}"
    if not isinstance(raw, dict) or "name" not in raw:
        raise Problems(f"{field}.name: missing; {registry.names(REGISTRIES[kind])}")
    if not isinstance(raw["name"], str):
        raise Problems(f"{field}.name: found {raw['name']!r}; {registry.names(REGISTRIES[kind])}")
    if raw["name"] not in REGISTRIES[kind]:
        raise Problems(
            f"{field}.name: unknown {kind} {raw['name']!r}; {registry.names(REGISTRIES[kind], str(raw['name']))}"
        )
    known = component_parameters(kind, raw["name"])
    values = _parameters(field, {key: value for key, value in raw.items() if key != "name"}, known)
    if values.get("drw") is not None:
        values["drw"] = _parameters(f"{field}.drw", values["drw"], registry.parameters(losses.DRW))
    return {"name": raw["name"], **values}


def _parameters(field: str, raw: Mapping[str, Any], known: Parameters) -> dict[str, Any]:
    known_fields(field, raw, known)
    values = {}
    for name, (annotation, default) in known.items():
        if name in raw:
            values[name] = section(annotation, f"{field}.{name}", raw[name])
        elif default is registry.REQUIRED:
            raise Problems(f"{field}.{name}: missing")
        else:
            values[name] = default
    return values


def _check_recipe(recipe: Recipe, field: str) -> Recipe:
    schedule = recipe.schedule
    if len(schedule.milestones) != len(schedule.factors) or list(schedule.milestones) != sorted(schedule.milestones):
        raise Problems(
            f"{field}.schedule: found milestones {list(schedule.milestones)}, factors {list(schedule.factors)}; "
            "valid: rising milestones, one factor for each"
        )
    return recipe
