"""The rows of the tables: as a study file writes them one by one, or as a design over factors; and their cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tune_lt.config import CellConfig
from tune_lt.study import Study, nested, overlay
from tune_lt.study.checks import Problems, known_fields, section

Row = dict[str, dict[str, Any]]
Found = Mapping[str, Mapping[str, Any]]  # search -> path -> value, see `row_config`
ONE_SE = "one_standard_error"
_ROW: Any = dict[Literal["loss", "model", "recipe"], dict[str, Any]]  # a `Row` as it is checked
DESIGNS = ("factorial", "one_at_a_time", "leave_one_out")
MOST_ROWS = 10_000
BASE = "base"  # the row that has none of the factors
REFERENCE = "softmax"  # plain cross-entropy, which everything is compared with: a loss, and the row that has it


@dataclass(frozen=True)
class _Factor:
    """Something that varies over rows: its levels, by the part each gives to a row's name; the first is the base's."""

    levels: Mapping[str, Row]
    switch: bool


def written(raw: Any) -> dict[str, Row]:
    """The section ``rows``, checked as far as it can be alone. Raises Problems."""
    rows: dict[str, Row] = section(dict[str, _ROW], "rows", raw)
    for name, row in rows.items():
        check_name("rows", name)
        loss = row.get("loss", {})
        if "best" in loss and "name" in loss:
            raise Problems(f"rows.{name}.loss: found best and a name; valid: one of the two")
    return rows


def designed(raw: Any) -> dict[str, Row]:
    """The rows of the section ``ablation``: a design over named factors. Raises Problems.

    A factor either has ``with`` or ``without``, what the study's own configuration changes to when it is added or
    taken away, or ``levels``, the first of which is the base. ``factorial``: all combinations. ``one_at_a_time``: the
    base, which has none, then each alone. ``leave_one_out``: all, then all but each.
    """
    known_fields("ablation", raw, ("design", "factors"))
    design = section(Literal[DESIGNS], "ablation.design", raw.get("design", DESIGNS[0]))
    if not isinstance(raw.get("factors"), dict) or not raw["factors"]:
        raise Problems("ablation.factors: missing; valid: at least one factor, by name")
    factors = [_factor(name, factor) for name, factor in raw["factors"].items()]
    every = [list(factor.levels) for factor in factors]
    if design == "factorial" and math.prod(map(len, every)) > MOST_ROWS:
        raise Problems(
            f"ablation.factors: found {math.prod(map(len, every)):,} combinations; valid: up to {MOST_ROWS:,}"
        )
    if design == "factorial":
        chosen = list(itertools.product(*every))
    else:
        full = design == "leave_one_out"
        start = [
            levels[-1] if full and factor.switch else levels[0] for factor, levels in zip(factors, every, strict=True)
        ]
        chosen = [tuple(start)]
        for index, levels in enumerate(every):
            chosen += [(*start[:index], level, *start[index + 1 :]) for level in levels if level != start[index]]
    rows = {}
    for combination in chosen:
        row: Row = {}
        for factor, level in zip(factors, combination, strict=True):
            row = overlay(row, factor.levels[level])
        name = "+".join(part for part in combination if part not in ("", "none")) or BASE
        check_name("ablation.factors", name)
        if name in rows:
            raise Problems(f"ablation.factors: two rows are called {name!r}; name the levels differently")
        rows[name] = row
    return rows


def plain_row(rows: Collection[str]) -> str | None:
    """The row of plain cross-entropy, else the base of an ablation, if one of them is there."""
    return next((name for name in (REFERENCE, BASE) if name in rows), None)


def check_name(field: str, name: str) -> None:
    """Raise Problems for what cannot be a row's name."""
    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise Problems(f"{field}: found a row called {name!r}; valid: up to 100 printable characters")


def check_best(rows: Mapping[str, Mapping[str, Any]], own: bool, searched: set[str]) -> None:
    """Raise Problems for a row that takes the best of a search the study does not have.

    ``own``: whether the study's own loss is searched; ``searched``: the losses it is compared with.
    """
    valid: list[Any] = ([True, ONE_SE] if own else []) + sorted(searched)
    for name, row in rows.items():
        best = row.get("loss", {}).get("best", False)
        if best is not False and not any(best == one and type(best) is type(one) for one in valid):
            if not valid:
                raise Problems(f"rows.{name}.loss.best: the study has no search to take the best of")
            shown = ", ".join("true" if one is True else one for one in valid)
            raise Problems(f"rows.{name}.loss.best: found {best!r}; valid: {shown}")


def row_config(study: Study, row: str, found: Found, configuration: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A row's resolved configuration ``{data, model, loss, recipe}``.

    A row's ``loss`` with a name is another loss at its defaults; without one it is the study's own with what its search
    found, the row's values laid over it; ``best`` chooses what it starts from: ``true`` that too,
    ``one_standard_error`` the plainest configuration within a standard error of it, the name of a compared loss what
    that one's search found. ``model`` and ``recipe`` are laid over the study's. ``found``: a search's name (or that and
    ``/one_standard_error``) -> flat values; what is missing is taken as in the file. ``configuration`` checks.
    """
    changes = {key: dict(value) for key, value in study.rows[row].items()}
    loss = changes.pop("loss", {})
    best = loss.pop("best", True)
    own = study.own_search()
    name = best if isinstance(best, str) and best != ONE_SE else own.name if own else ""
    base = study.base()
    if name in study.searches:
        space = study.searches[name]
        base |= {"loss": dict(space.loss), "model": dict(space.model)}
        plainest = found.get(f"{name}/{ONE_SE}") if best == ONE_SE else None
        chosen = plainest or found.get(name)  # the best itself where nothing plainer is as good
        values = space.complete(chosen) if chosen is not None else {}
        if "name" in loss:  # another loss shares what was found of the recipe, not of the loss
            values = {path: value for path, value in values.items() if not path.startswith("loss/")}
        base = overlay(base, nested(values))
    if "name" in loss:
        base["loss"] = loss
    else:
        base["loss"] = overlay(base["loss"], loss)
    if "name" in changes.get("model", {}):
        base["model"] = {}  # another network does not inherit this one's parameters
    return configuration(overlay(base, changes), f"rows.{row}.")


def cell(
    config: Mapping[str, Any], *, data_seed: int, init_seed: int, fold: str | None = None, holdout: float | None = None
) -> CellConfig:
    """The cell of a resolved configuration, trained on what ``fold`` leaves of the training split.

    ``fold`` is ``full``, ``holdout`` or ``k/K``; by default ``holdout`` where that is given, else ``full``.
    """
    fold = fold or ("full" if holdout is None else "holdout")
    aside = holdout if fold == "holdout" else None
    return CellConfig(**config, data_seed=data_seed, init_seed=init_seed, fold=fold, holdout=aside)


def _factor(name: str, raw: Any) -> _Factor:
    field = f"ablation.factors.{name}"
    known_fields(field, raw, ("with", "without", "levels"))
    if len(raw) != 1:
        raise Problems(f"{field}: found {', '.join(raw) or 'nothing'}; valid: one of with, without, levels")
    kind, content = next(iter(raw.items()))
    if kind != "levels":
        change = section(_ROW, f"{field}.{kind}", content)
        return _Factor({"": change, name: {}} if kind == "without" else {"": {}, name: change}, switch=True)
    levels = section(dict[str, _ROW], f"{field}.levels", content)
    if len(levels) < 2:
        raise Problems(f"{field}.levels: found {len(levels)}; valid: at least two")
    return _Factor(levels, switch=False)
