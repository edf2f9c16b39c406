"""Checking plain values, as YAML gives them, against types and dataclasses, without any conversion."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tune_lt import registry

RENAMED = {  # fields of older versions -> what they are now
    "scales": "small: {…}",
    "data.head": "data.largest",
    "compare.trials": "search.trials",
}
KINDS = ("uniform", "loguniform", "int", "choice")  # of a range


class Problems(Exception):
    """Mistakes in a study file, each "field: what is wrong"; `read` turns them into one InputError."""


def known_fields(field: str, raw: Any, known: Any) -> None:
    """Raise Problems unless ``raw`` is a mapping whose keys are all ``known``."""
    where = f"{field}." if field else ""
    if not isinstance(raw, dict):
        raise Problems(f"{field}: found {raw!r}; valid: a mapping with {', '.join(known) or 'nothing'}")
    unknown = [
        _unknown(f"{where}{key}", value, registry.names(known, key)) for key, value in raw.items() if key not in known
    ]
    if unknown:
        raise Problems(*unknown)


def _unknown(path: str, value: Any, valid: str) -> str:
    if path not in RENAMED:
        return f"{path}: unknown; {valid}"
    return f"{path}: found {list(value) if isinstance(value, dict) else value!r}; write {RENAMED[path]} instead"


def section(annotation: Any, field: str, raw: Any) -> Any:
    """``raw`` checked against a type or dataclass with its bounds, without any conversion (1.0 for 1 apart)."""
    if dataclasses.is_dataclass(annotation) and dataclasses.is_dataclass(raw):
        return raw
    try:
        return _adapter(annotation).validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise Problems(*(_describe(field, annotation, item) for item in error.errors(include_url=False))) from None


@functools.cache  # building one costs more than using it, and every trial's configuration is checked
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def _describe(field: str, annotation: Any, item: Any) -> str:
    inner = [
        str(part)
        for part in item["loc"]
        if not (isinstance(part, str) and re.search(r"[\[\]]|^(int|float|str|none|bool)$", part))
    ]
    where = ".".join([field, *inner])
    if item["type"] == "unexpected_keyword_argument":
        target = annotation
        for part in inner[:-1]:
            hint = get_type_hints(target)[part]
            target = next(one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one))
        return _unknown(where, item["input"], registry.names([f.name for f in dataclasses.fields(target)], inner[-1]))
    if item["type"] == "literal_error" and item["loc"][-1:] == ("[key]",):
        known = re.findall("'(.+?)'", item["ctx"]["expected"])
        return f"{where}: unknown; {registry.names(known, inner[-1])}"
    if item["type"] == "missing":
        return f"{where}: missing"
    hint = f", or a range: one of {', '.join(KINDS)}" if isinstance(item["input"], dict) else ""
    wrong = item["msg"][0].lower() + item["msg"][1:].replace("an object", "a mapping")
    return f"{where}: found {json.dumps(item['input'])}; {wrong}{hint}"


def dotted(path: str) -> str:
    """``loss/alpha`` as people write it, loss.alpha."""
    return path.replace("/", ".")
