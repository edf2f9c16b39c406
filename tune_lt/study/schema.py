"""A JSON schema of the study file for editors, from the same signatures the file is checked against.

``python -m tune_lt.study.schema`` prints it; ``make schema`` writes search_spaces/schema.json.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from tune_lt.config import STUDY_NAME, Recipe
from tune_lt.study import Validation
from tune_lt.study.checks import RANGES
from tune_lt.study.ranges import SEARCHABLE
from tune_lt.study.reader import File
from tune_lt.study.sections import REGISTRIES, component


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a study file."""
    data, model, loss, recipe = _component("data"), _component("model"), _component("loss"), _plain(Recipe)
    for known in data["anyOf"]:
        known["properties"]["validation"] = _plain(Validation)
    _allow_ranges(loss, "loss")
    _allow_ranges(recipe, "recipe")
    own = {"type": "object", "not": {"required": ["name"]}, "properties": {"best": {"type": ["boolean", "string"]}}}
    a_loss, a_row = {"$ref": "#/$defs/loss"}, {"$ref": "#/$defs/row"}
    row = _object({"loss": {"anyOf": [a_loss, own]}, "model": {"type": "object"}, "recipe": recipe})
    rows = {"type": "object", "additionalProperties": a_row}
    compared = {"anyOf": [{"type": "string"}, _object({"loss": a_loss, "model": {"type": "object"}}, ["loss"])]}
    losses = {"type": "array", "items": compared, "minItems": 1}
    parts = {"with": a_row, "without": a_row, "levels": rows}
    seeds = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True}
    study = _plain(File)
    study["properties"] |= {
        "name": {"type": "string", "pattern": f"^{STUDY_NAME}$"},
        "data": data,
        "model": model,
        "recipe": recipe,
        "loss": a_loss,
        "compare": {"anyOf": [_object({"losses": losses}, ["losses"]), {"type": "null"}]},
        "rows": rows,
        "seeds": {
            "anyOf": [seeds, _object({"data": seeds, "init": seeds}), _object({"resample": seeds}, ["resample"])]
        },
    }
    ablation = study["properties"]["ablation"]["anyOf"][0]["properties"]
    ablation["factors"]["additionalProperties"] = {
        "anyOf": [_object({name: one}, [name]) for name, one in parts.items()]
    }
    when = {"type": "object", "minProperties": 1}
    ranges = [_object({kind: _plain(values), "when": when}, [kind]) for kind, values in RANGES.items()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tune_lt study",
        **study,
        "$defs": {"range": {"anyOf": ranges}, "loss": loss, "row": row},
    }


def _component(kind: str) -> dict[str, Any]:
    """One alternative for each registered name, and an open one for a plugin's."""
    known = [_plain(component(kind, name, builder)) for name, builder in REGISTRIES[kind].items()]
    plugin = {"type": "object", "required": ["name"], "properties": {"name": {"not": {"enum": list(REGISTRIES[kind])}}}}
    return {"anyOf": [*known, plugin]}


def _allow_ranges(node: dict[str, Any], path: str) -> None:
    """Let a range stand in place of each value below ``node`` that can be searched."""
    for option in node.get("anyOf", [node]):
        for key, field in option.get("properties", {}).items():
            inner = f"{path}/{key}"
            if any("properties" in one for one in field.get("anyOf", [field])):
                _allow_ranges(field, inner)
            elif SEARCHABLE.fullmatch(inner):
                option["properties"][key] = {"anyOf": [field, {"$ref": "#/$defs/range"}]}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}


def _plain(annotation: Any) -> dict[str, Any]:
    """pydantic's schema with its references resolved in place, without the titles it makes of the fields' names."""
    raw = TypeAdapter(annotation).json_schema()
    definitions = raw.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
            kept = {key: value for key, value in node.items() if key != "title" or not isinstance(value, str)}
            return {key: resolve(value) for key, value in kept.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(raw)
    return resolved


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
