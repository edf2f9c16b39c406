"""The ranges that a search varies: those in a study file, and those in the signature of a loss."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

from tune_lt import losses, registry
from tune_lt.config import Recipe
from tune_lt.study import Dimension
from tune_lt.study.checks import RANGES, Problems, dotted, section

SEARCHABLE = re.compile(r"loss/(?!name$).+|recipe/(optimizer/(lr|weight_decay)|clip_norm)")


def split(raw: Any, path: str = "") -> tuple[Any, dict[str, Dimension]]:
    """``raw`` with every range replaced by its first value, and the ranges by path. Raises Problems."""
    if not isinstance(raw, dict):
        return raw, {}
    kinds = [key for key in raw if key in RANGES]
    if len(kinds) == 1 and set(raw) <= {kinds[0], "when"}:
        dimension = _dimension(path, kinds[0], raw[kinds[0]], raw.get("when", {}))
        return dimension.values[0], {path: dimension}
    plain, space = {}, {}
    for key, value in raw.items():
        plain[key], found = split(value, f"{path}/{key}" if path else key)
        space.update(found)
    return plain, space


def knobs(loss: str) -> dict[str, Dimension]:
    """The ranges in a loss's signature, which a search varies if the study file gives the loss no range."""
    return {
        f"loss/{name}": Dimension(knob.kind, knob.values)
        for name, (annotation, _) in registry.parameters(losses.LOSSES[loss]).items()
        if (knob := registry.knob(annotation)) is not None
    }


def neutral(loss: str, path: str) -> float | None:
    """`Knob.neutral` of a searched parameter, the value at which the loss does least; None if it has none."""
    knob = registry.knob(parameter(loss, path)[0])
    return knob.neutral if knob else None


def parameter(loss: str, path: str) -> tuple[Any, Any]:
    """The annotation and the default of a searched parameter. The default is `registry.REQUIRED` if it has none."""
    if path.startswith("recipe/"):
        return Any, operator.attrgetter(path.removeprefix("recipe/").replace("/", "."))(Recipe())
    builder = losses.DRW if path.startswith("loss/drw/") else losses.LOSSES[loss]
    return registry.parameters(builder)[path.rsplit("/", 1)[-1]]


def ordered(space: Mapping[str, Dimension]) -> dict[str, Dimension]:
    """The dimensions, each after those that its ``when`` names. Raises Problems for conditions that can never hold."""
    for path, dimension in space.items():
        for other, values in dimension.when.items():
            field = f"{dotted(path)}.when.{dotted(other)}"
            if other not in space:
                known = ", ".join(dotted(name) for name in space if name != path) or "none"
                raise Problems(f"{field}: not searched; other parameters with a range: {known}")
            named = space[other]
            if named.points() is None:
                raise Problems(f"{field}: has a continuous range; valid: a parameter with choice or int")
            if wrong := [value for value in values if not _among(value, named)]:
                raise Problems(f"{field}: found {wrong[0]!r}; valid: {named.kind} {list(named.values)}")
    done: dict[str, Dimension] = {}
    while left := {path: dimension for path, dimension in space.items() if path not in done}:
        free = {path: dimension for path, dimension in left.items() if dimension.when.keys() <= done.keys()}
        if not free:
            raise Problems(f"{dotted(next(iter(left)))}.when: the conditions form a circle; valid: none that does")
        done |= free
    return done


def defaults(loss: str, space: Mapping[str, Dimension]) -> dict[str, Any]:
    """The default of each dimension with a ``when``, for where it does not hold. Raises Problems if one has none."""
    values = {path: parameter(loss, path)[1] for path, dimension in space.items() if dimension.when}
    for path, value in values.items():
        if value is registry.REQUIRED:
            raise Problems(f"{dotted(path)}.when: found a parameter without a default; valid: one that has a default")
    return values


def _dimension(path: str, kind: Any, raw: Any, when: Any) -> Dimension:
    field = dotted(path)
    if not SEARCHABLE.fullmatch(path):
        raise Problems(
            f"{field}: cannot be searched; searchable: the loss's parameters, "
            "recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.clip_norm"
        )
    if not isinstance(raw, list) or (kind != "choice" and len(raw) != 2):
        raise Problems(f"{field}.{kind}: found {raw!r}; valid: {'[value, …]' if kind == 'choice' else '[low, high]'}")
    values = section(RANGES[kind], f"{field}.{kind}", raw)
    if kind != "choice" and values[0] >= values[1]:
        raise Problems(f"{field}.{kind}: found {raw}; valid: [low, high], low < high")
    if any(isinstance(value, dict | list) for value in values) or len(set(map(repr, values))) < len(values):
        raise Problems(f"{field}.{kind}: found {raw}; valid: different plain values")
    return Dimension(kind, values, _conditions(field, when))


def _conditions(field: str, when: Any) -> dict[str, tuple[Any, ...]]:
    """``{"loss.weight": "effective"}`` as ``{"loss/weight": ("effective",)}``."""
    if not isinstance(when, dict) or not all(value is not None and value != [] for value in when.values()):
        raise Problems(f"{field}.when: found {when!r}; valid: another parameter and its values, {{loss.aura: true}}")
    return {
        path.replace(".", "/"): tuple(values) if isinstance(values, list) else (values,)
        for path, values in when.items()
    }


def _among(value: Any, dimension: Dimension) -> bool:
    if dimension.kind == "int":
        return type(value) is int and dimension.values[0] <= value <= dimension.values[1]
    return any(value == other and type(value) is type(other) for other in dimension.values)  # 1 == True
