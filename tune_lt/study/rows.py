"""The rows of a study file, written one by one or as a design over factors."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from tune_lt.config import _STRICT
from tune_lt.study import overlay
from tune_lt.study.checks import Problems, section

Row = dict[str, dict[str, Any]]
ONE_SE = "one_standard_error"
_ROW: Any = dict[Literal["loss", "model", "recipe"], dict[str, Any]]  # a `Row` as it is checked
MOST_ROWS = 10_000
BASE = "base"  # the row that has none of the factors
REFERENCE = "softmax"  # plain cross-entropy, which all losses are compared with: the loss, and the row that has it


@dataclass(frozen=True)
class Ablation:
    """The section ``ablation``: rows by a design over factors.

    A factor has either ``with`` or ``without``, what changes in the study's own configuration when the factor is added
    or taken away, or ``levels``, the first of which is the base. ``factorial``: all combinations. ``one_at_a_time``:
    the base, which has no factor, then each factor alone. ``leave_one_out``: all factors, then all but each.
    """

    __pydantic_config__ = _STRICT
    factors: Annotated[dict[str, dict[Literal["with", "without", "levels"], dict[str, Any]]], MinLen(1)]
    design: Literal["factorial", "one_at_a_time", "leave_one_out"] = "factorial"


def written(raw: Any) -> dict[str, Row]:
    """The rows of the section ``rows``. Their values are checked later, by `row_config`. Raises Problems."""
    rows: dict[str, Row] = section(dict[str, _ROW], "rows", raw)
    for name, row in rows.items():
        check_name("rows", name)
        loss = row.get("loss", {})
        if "best" in loss and "name" in loss:
            raise Problems(f"rows.{name}.loss: found best and a name; valid: one of the two")
    return rows


def designed(ablation: Ablation) -> dict[str, Row]:
    """The rows of an ablation, each called by its factors. Raises Problems."""
    full = ablation.design == "leave_one_out"
    factors = [_levels(name, factor, full) for name, factor in ablation.factors.items()]
    every = [list(levels) for levels in factors]
    if ablation.design == "factorial":
        if (size := math.prod(map(len, every))) > MOST_ROWS:
            raise Problems(f"ablation.factors: found {size:,} combinations; valid: up to {MOST_ROWS:,}")
        chosen = list(itertools.product(*every))
    else:
        start = tuple(levels[0] for levels in every)
        chosen = [start]
        for index, levels in enumerate(every):
            chosen += [(*start[:index], level, *start[index + 1 :]) for level in levels[1:]]
    rows: dict[str, Row] = {}
    for combination in chosen:
        name = "+".join(part for part in combination if part not in ("", "none")) or BASE
        check_name("ablation.factors", name)
        if name in rows:
            raise Problems(f"ablation.factors: two rows are called {name!r}; name the levels differently")
        changes = (levels[level] for levels, level in zip(factors, combination, strict=True))
        rows[name] = functools.reduce(overlay, changes, {})
    return rows


def _levels(name: str, factor: Mapping[Any, dict[str, Any]], full: bool) -> dict[str, Row]:
    """What each level of a factor changes, by the part that the level gives to a row's name: "" gives none.

    The first level is that of the row which a design starts from; ``full``: it starts from all factors, not from none.
    """
    field = f"ablation.factors.{name}"
    if len(factor) != 1:
        raise Problems(f"{field}: found {', '.join(factor) or 'nothing'}; valid: one of with, without, levels")
    ((kind, content),) = factor.items()
    if kind != "levels":
        change = section(_ROW, f"{field}.{kind}", content)
        absent, present = ({}, change) if kind == "with" else (change, {})
        return {name: present, "": absent} if full else {"": absent, name: present}
    levels: dict[str, Row] = section(dict[str, _ROW], f"{field}.levels", content)
    if len(levels) < 2:
        raise Problems(f"{field}.levels: found {len(levels)}; valid: at least two")
    return levels


def plain_row(rows: Collection[str]) -> str | None:
    """The row of plain cross-entropy, else the base of an ablation, else None."""
    return next((name for name in (REFERENCE, BASE) if name in rows), None)


def check_name(field: str, name: str) -> None:
    """Raise Problems for what cannot be a row's name."""
    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise Problems(f"{field}: found a row called {name!r}; valid: up to 100 printable characters")


def check_best(rows: Mapping[str, Row], own: str, searched: Collection[str]) -> None:
    """Raise Problems if a row's ``best`` names a search that the study does not have.

    ``own``: the study's own loss; ``searched``: all losses that are searched.
    """
    valid: list[Any] = ([True, ONE_SE] if own in searched else []) + sorted({*searched} - {own})
    for name, row in rows.items():
        best = row.get("loss", {}).get("best", False)
        if best is not False and not any(best == one and type(best) is type(one) for one in valid):
            shown = ", ".join("true" if one is True else one for one in valid)
            raise Problems(
                f"rows.{name}.loss.best: found {best!r}; valid: {shown or 'nothing, since there is no search'}"
            )
