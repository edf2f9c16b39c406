"""Building a loss, model or data set by name, checked against the builder's own signature.

The signature is the only place where a parameter, its default and its bounds are written down, as a keyword-only
parameter: ``alpha: Annotated[float, Gt(0), Le(2)] = 0.9``. `build` checks the values that Python code passes; a study
file is checked against the same annotations.
"""

from __future__ import annotations

import difflib
import inspect
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tune_lt.errors import InputError

Builder = TypeVar("Builder", bound=Callable[..., Any])
REQUIRED = inspect.Parameter.empty  # the default of a parameter that has none

_COMPARISONS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": (">=", operator.ge),
    "gt": (">", operator.gt),
    "le": ("<=", operator.le),
    "lt": ("<", operator.lt),
}
_PLAIN: dict[Any, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
    NoneType: (NoneType, "null"),
}
# names of older versions -> what to write instead
RENAMED = {name: f"{{name: torchvision, architecture: {name}}}" for name in ("resnet18", "resnet50")}


@dataclass(frozen=True)
class Knob:
    """The range over which a search varies a parameter unless a study file gives another; part of its ``Annotated``.

    ``kind`` and ``values`` are those of a study file: (low, high) of ``uniform``, ``loguniform`` and ``int``, all the
    values of ``choice``. ``neutral``: the value with which the parameter has no effect; the one-standard-error rule
    prefers values close to it.
    """

    kind: Literal["uniform", "loguniform", "int", "choice"]
    values: tuple[Any, ...]
    neutral: float | None = None


def knob(annotation: Any) -> Knob | None:
    """The `Knob` in a parameter's annotation, or None."""
    parts = [annotation, *get_args(annotation)]  # ``Annotated[...] | None`` too
    return next((item for part in parts for item in get_args(part) if isinstance(item, Knob)), None)


def names(valid: Iterable[str], found: str | None = None) -> str:
    """The end of a message about an unknown name ``found``: its new spelling, or the closest and all valid names."""
    if found in RENAMED:
        return f"write {RENAMED[found]} instead"
    valid = sorted(valid)
    listed = ", ".join(valid) if valid else "none"
    close = difflib.get_close_matches(found, valid, n=1) if found else []
    return f"did you mean {close[0]!r}? valid: {listed}" if close else f"valid: {listed}"


def lookup(registry: Mapping[str, Builder], kind: str, name: str) -> Builder:
    """The builder called ``name``; raises InputError naming the valid ones."""
    if name not in registry:
        raise InputError(f"unknown {kind} {name!r}; {names(registry, name)}")
    return registry[name]


def parameters(builder: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Keyword-only parameters of a builder: name -> (annotation with its bounds, default or ``REQUIRED``)."""
    function = builder.__init__ if inspect.isclass(builder) else builder
    hints = get_type_hints(function, include_extras=True)
    return {
        name: (hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def build(registry: Mapping[str, Callable[..., Any]], kind: str, name: str, /, *args: Any, **params: Any) -> Any:
    """``registry[name](*args, **params)``; InputError for an unknown name or parameter, or a value out of bounds."""
    builder = lookup(registry, kind, name)
    known = parameters(builder)
    for key, value in params.items():
        if key not in known:
            raise InputError(f"{kind} {name!r} has no parameter {key!r}; {names(known, key)}")
        if problem := violation(known[key][0], value):
            raise InputError(f"{kind} {name!r}: {key} = {value!r}, but {problem}")
    return builder(*args, **params)


def register(registry: dict[str, Any], kind: str, name: str) -> Callable[[Any], Any]:
    """Decorator that adds a user's own builder to a registry; InputError where the name is taken."""

    def add(builder: Any) -> Any:
        if registry.get(name, builder) is not builder:
            raise InputError(f"a {kind} called {name!r} exists already")
        registry[name] = builder
        return builder

    return add


def violation(annotation: Any, value: Any) -> str | None:
    """What of the annotation's plain type, bounds or literal choices the value breaks, or None.

    Values of other types, such as a plugin's own classes, are not checked.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return violation(arguments[0], value) or _out_of_bounds(arguments[1:], value)
    if origin in (Union, UnionType):  # such as ``Annotated[...] | None``
        problems = [violation(member, value) for member in arguments]
        return None if None in problems else problems[0]
    if origin is Literal:
        return None if value in arguments else f"it must be one of {', '.join(map(repr, arguments))}"
    if annotation not in _PLAIN:
        return None
    accepted, words = _PLAIN[annotation]
    fits = isinstance(value, accepted) and (annotation is bool or not isinstance(value, bool))
    return None if fits else f"it must be {words}"


def _out_of_bounds(metadata: Iterable[Any], value: Any) -> str | None:
    for item in metadata:  # such as Ge(0), Interval(ge=0, lt=1) or a Knob
        for attribute, (symbol, holds) in _COMPARISONS.items():
            limit = getattr(item, attribute, None)
            if limit is not None and not holds(value, limit):
                return f"it must be {symbol} {limit}"
    return None
