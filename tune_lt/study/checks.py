"""Checking plain values, as YAML gives them, against types and dataclasses, without any conversion."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from typing import Annotated, Any, get_args, get_type_hints

from annotated_types import Gt, MinLen
from pydantic import TypeAdapter, ValidationError

from tune_lt import registry
from tune_lt.errors import InputError

RENAMED = {  # fields of older versions -> what to do
    "scales": "write small: {…} instead",
    "data.head": "write data.largest instead",
    "compare.trials": "write search.trials instead",
    "search.mode": "leave it out, the highest accuracy is best",
}
RANGES: dict[str, Any] = {  # kinds of ranges -> what a study file says of each
    "uniform": tuple[float, float],
    "loguniform": tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]],
    "int": tuple[int, int],
    "choice": Annotated[tuple[Any, ...], MinLen(1)],
}


class Problems(InputError):
    """Mistakes in a study file, each "field: what is wrong"; `reader.read` puts the file's name before each."""


def section(annotation: Any, field: str, raw: Any) -> Any:
    """``raw``, the file's ``field``, as an instance of a type or dataclass; 1 is taken for 1.0, nothing else converted.

    Raises Problems with one entry for each mistake.
    """
    try:
        return _adapter(annotation).validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:  # what is missing comes last: an unknown field may be it, misspelt
        items = sorted(error.errors(include_url=False), key=lambda item: item["type"] == "missing")
        wrong = [item["loc"][:-1] for item in items if _is_key(item)]  # what stands there need not be valid, too
        items = [i for i in items if _is_key(i) or not any(i["loc"][: len(key)] == key for key in wrong)]
        raise Problems(*(_describe(field, annotation, item) for item in items)) from None


@functools.cache  # building one costs more than using it, and every trial's configuration is checked
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def _is_key(item: Any) -> bool:
    """Whether the mistake is the key of a mapping."""
    return bool(item["type"] == "literal_error" and item["loc"][-1:] == ("[key]",))


def _describe(field: str, annotation: Any, item: Any) -> str:
    # beside fields, pydantic's path has the types that it tried, such as tuple[int,...], and [key] after a wrong key
    parts = [str(part) for part in (item["loc"][:-1] if _is_key(item) else item["loc"])]
    own = parts[-1:] if _is_key(item) or item["type"] == "unexpected_keyword_argument" else []
    tried = parts[: len(parts) - len(own)]
    path = [part for part in tried if not re.fullmatch(r"int|float|str|none|bool|[a-z-]+\[.*\]", part)] + own
    where = ".".join([field, *path] if field else path)
    known: list[str] = []
    if item["type"] == "unexpected_keyword_argument":
        target = annotation
        for part in path[:-1]:
            hint = get_type_hints(target)[part]
            target = next(one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one))
        known = [one.name for one in dataclasses.fields(target)]
    elif _is_key(item):
        known = re.findall("'(.+?)'", item["ctx"]["expected"])
    if known:
        valid = RENAMED.get(where) or registry.names(known, parts[-1])
        return f"{where}: unknown; {valid}"
    if item["type"] == "missing":
        return f"{where}: missing"
    ranged = isinstance(item["input"], dict) and re.search(r"\b(loss|recipe)\.", where)
    hint = f", or a range: one of {', '.join(RANGES)}" if ranged else ""
    wrong = item["msg"].replace("an object", "a mapping").removesuffix(" after validation, not 0")
    return f"{where}: found {json.dumps(item['input'])}; {wrong[0].lower()}{wrong[1:]}{hint}"


def dotted(path: str) -> str:
    """``loss/alpha`` as people write it, loss.alpha."""
    return path.replace("/", ".")
