"""A JSON schema of the study file for editors, from the same signatures the file is checked against.

``python -m tune_lt.study.schema`` prints it; ``make schema`` writes search_spaces/schema.json.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from tune_lt import losses, registry
from tune_lt.config import STUDY_NAME, Optimizer, Recipe
from tune_lt.study import Resources, Search, Seeds, Validation
from tune_lt.study.checks import KINDS
from tune_lt.study.reader import MAY_CHANGE
from tune_lt.study.rows import DESIGNS
from tune_lt.study.sections import REGISTRIES, component_parameters

WHEN = {"type": "object", "minProperties": 1}
ENDS = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a study file."""
    drw = _object({name: _plain(annotation) for name, (annotation, _) in registry.parameters(losses.DRW).items()})
    loss = _component("loss", {"drw": {"anyOf": [drw, {"type": "null"}]}}, searchable=True)
    model, data = _component("model", {}), _component("data", {"validation": _plain(Validation)})
    optimizer = _plain(Optimizer)
    for name in ("lr", "weight_decay"):
        optimizer["properties"][name] = _searchable(optimizer["properties"][name])
    recipe = _plain(Recipe)
    recipe["properties"]["optimizer"] = optimizer
    recipe["properties"]["clip_norm"] = _searchable(recipe["properties"]["clip_norm"])
    own = {"type": "object", "not": {"required": ["name"]}, "properties": {"best": {"type": ["boolean", "string"]}}}
    a_loss, a_row = {"$ref": "#/$defs/loss"}, {"$ref": "#/$defs/row"}
    row = _object({"loss": {"anyOf": [a_loss, own]}, "model": {"type": "object"}, "recipe": recipe})
    rows = {"type": "object", "additionalProperties": a_row}
    compared = {"anyOf": [{"type": "string"}, a_loss, _object({"loss": a_loss, "model": {"type": "object"}}, ["loss"])]}
    parts = {"with": a_row, "without": a_row, "levels": rows}
    factor = {"anyOf": [_object({name: part}, [name]) for name, part in parts.items()]}
    seeds = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True}
    properties = {
        "name": {"type": "string", "pattern": f"^{STUDY_NAME}$"},
        "plugins": {"type": "array", "items": {"type": "string"}},
        "data": data,
        "model": model,
        "recipe": recipe,
        "loss": a_loss,
        "search": _plain(Search),
        "compare": _object(
            {"losses": {"type": "array", "items": compared, "minItems": 1}, "trials": {"type": "integer", "minimum": 1}}
        ),
        "rows": rows,
        "ablation": _object(
            {
                "design": {"enum": list(DESIGNS)},
                "factors": {"type": "object", "minProperties": 1, "additionalProperties": factor},
            },
            ["factors"],
        ),
        "cross": _object({"imbalance": {"type": "array", "items": {"type": "number", "minimum": 1}, "minItems": 1}}),
        "seeds": {"anyOf": [seeds, _plain(Seeds)]},
        "resources": _plain(Resources),
        "table": {"enum": [1, 2, 3]},
        "small": {"type": "object", "propertyNames": {"enum": [*MAY_CHANGE]}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tune_lt study",
        **_object(properties, ["name", "data", "model", "loss"]),
        "$defs": {"range": {"anyOf": [_range(kind) for kind in KINDS]}, "ends": ENDS, "loss": loss, "row": row},
    }


def _component(kind: str, extra: dict[str, Any], *, searchable: bool = False) -> dict[str, Any]:
    """One alternative for each registered name, and an open one for a plugin's."""
    known = []
    for name in REGISTRIES[kind]:
        parameters = component_parameters(kind, name)
        fields = {key: _plain(annotation) for key, (annotation, _) in parameters.items()}
        if searchable:
            fields = {key: _searchable(field) for key, field in fields.items()}
        required = ["name", *(key for key, (_, default) in parameters.items() if default is registry.REQUIRED)]
        known.append(_object({"name": {"const": name}, **fields, **extra}, required))
    plugin = {"type": "object", "required": ["name"], "properties": {"name": {"not": {"enum": list(REGISTRIES[kind])}}}}
    return {"anyOf": [*known, plugin]}


def _range(kind: str) -> dict[str, Any]:
    values = {"type": "array", "minItems": 1} if kind == "choice" else {"$ref": "#/$defs/ends"}
    return _object({kind: values, "when": WHEN}, [kind])


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}


def _searchable(field: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [field, {"$ref": "#/$defs/range"}]}


def _plain(annotation: Any) -> dict[str, Any]:
    """pydantic's schema with its references resolved in place."""
    raw = TypeAdapter(annotation).json_schema()
    definitions = raw.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(raw)
    return resolved


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
