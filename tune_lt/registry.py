"""Building a loss, model or data set by name, checked against the builder's own signature.

A builder's keyword-only parameters are the only place where a parameter, its default and its bounds are written
down: ``alpha: Annotated[float, Gt(0), Le(2)] = 0.9``. ``build`` checks them here for Python users; the study file is
checked against the same annotations.
"""

from __future__ import annotations

import difflib
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import annotated_types

from tune_lt.errors import InputError

Builder = TypeVar("Builder", bound=Callable[..., Any])
REQUIRED = inspect.Parameter.empty  # the default of a parameter that has none

_COMPARISONS: dict[type, tuple[str, str, Callable[[Any, Any], bool]]] = {
    annotated_types.Ge: ("ge", ">=", lambda value, bound: value >= bound),
    annotated_types.Gt: ("gt", ">", lambda value, bound: value > bound),
    annotated_types.Le: ("le", "<=", lambda value, bound: value <= bound),
    annotated_types.Lt: ("lt", "<", lambda value, bound: value < bound),
}

_PLAIN: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
}


@dataclass(frozen=True)
class Knob:
    """How a search varies a parameter unless a study file says otherwise, in the parameter's ``Annotated``.

    ``kind`` and ``values`` as in a study file: ``uniform``, ``loguniform``, ``int`` (low, high), ``choice`` of values.
    ``neutral``: where the loss does least; the one-standard-error rule leans towards it.
    """

    kind: Literal["uniform", "loguniform", "int", "choice"]
    values: tuple[Any, ...]
    neutral: float | None = None


def knob(annotation: Any) -> Knob | None:
    """The `Knob` in a parameter's annotation, or None."""
    parts = [annotation, *get_args(annotation)]  # ``Annotated[...] | None`` too
    metadata = [item for part in parts if get_origin(part) is Annotated for item in get_args(part)[1:]]
    return next((item for item in metadata if isinstance(item, Knob)), None)


def names(valid: Iterable[str], found: str | None = None) -> str:
    """The valid names as a readable list, the one closest to ``found`` suggested first."""
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
    """Keyword-only parameters of a builder: name -> (annotation with its bounds, default).

    The default is ``REQUIRED`` where there is none.
    """
    function = builder.__init__ if inspect.isclass(builder) else builder
    hints = get_type_hints(function, include_extras=True)
    return {
        name: (hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def build(registry: Mapping[str, Callable[..., Any]], kind: str, name: str, /, *args: Any, **params: Any) -> Any:
    """``registry[name](*args, **params)`` after checking the name, the parameters' names and their bounds.

    Raises InputError saying what was found and what is valid.
    """
    builder = lookup(registry, kind, name)
    known = parameters(builder)
    for key, value in params.items():
        if key not in known:
            raise InputError(f"{kind} {name!r} has no parameter {key!r}; {names(known, key)}")
        problem = violation(known[key][0], value)
        if problem:
            raise InputError(f"{kind} {name!r}: {key} = {value!r}, but {problem}")
    return builder(*args, **params)


def register(registry: dict[str, Any], kind: str, name: str) -> Callable[[Any], Any]:
    """Decorator that adds a user's own builder to a registry; an existing name is never replaced."""

    def add(builder: Any) -> Any:
        if registry.get(name, builder) is not builder:
            raise InputError(f"a {kind} called {name!r} exists already")
        registry[name] = builder
        return builder

    return add


def violation(annotation: Any, value: Any) -> str | None:
    """What of the annotation's plain type, bounds or literal choices the value breaks, or None."""
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        return None if value in choices else f"it must be one of {', '.join(map(repr, choices))}"
    if annotation in _PLAIN:
        return _wrong_type(annotation, value)
    if get_origin(annotation) is not Annotated:  # an optional bound, ``Annotated[...] | None``
        if value is None:
            return None
        problems = [violation(member, value) for member in get_args(annotation) if get_origin(member) is Annotated]
        return next((problem for problem in problems if problem), None)
    plain = get_args(annotation)[0]
    if wrong := _wrong_type(plain, value):
        return wrong
    for bound in _flatten(get_args(annotation)[1:]):
        attribute, symbol, holds = _COMPARISONS[type(bound)]
        limit = getattr(bound, attribute)
        if not holds(value, limit):
            return f"it must be {symbol} {limit}"
    return None


def _wrong_type(plain: Any, value: Any) -> str | None:
    if plain not in _PLAIN:
        return None
    accepted, words = _PLAIN[plain]
    fits = isinstance(value, accepted) and (plain is bool or not isinstance(value, bool))
    return None if fits else f"it must be {words}"


def _flatten(metadata: Iterable[Any]) -> Iterable[Any]:
    for item in metadata:
        if isinstance(item, annotated_types.GroupedMetadata):
            yield from _flatten(item)
        elif type(item) in _COMPARISONS:
            yield item
