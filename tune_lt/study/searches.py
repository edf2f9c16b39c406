"""What a study file searches: its own loss and those it is compared with, their ranges, scheduler and budget."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tune_lt.study import MOST_TRIALS, Dimension, Search, Space, Validation, grid, nested, overlay, ranges
from tune_lt.study.checks import Problems, dotted, known_fields, section
from tune_lt.study.sections import check_name, configuration

TRIALS = 20  # of a search, unless the file says otherwise
Compared = tuple[dict[str, Any], dict[str, Dimension]]  # a loss to compare with: what it changes, its ranges


def comparison(raw: Any) -> list[Compared]:
    """The losses of the section ``compare``, with what each changes. Raises Problems."""
    known_fields("compare", raw, ("losses",))
    entries = section(list[Any], "compare.losses", raw.get("losses", []))
    compared = [_compared(entry, f"compare.losses[{index}]") for index, entry in enumerate(entries)]
    names = [changes["loss"]["name"] for changes, _ in compared]
    if len(set(names)) < len(names):
        raise Problems(f"compare.losses: found {', '.join(names)}; valid: each loss once")
    return compared


def searches(
    raw: Mapping[str, Any],
    plain: Mapping[str, Any],
    space: Mapping[str, Dimension],
    validation: Validation,
    compared: Sequence[Compared],
) -> dict[str, Space]:
    """Everything the study searches, by name, with one budget for all. Raises Problems."""
    bases: dict[str, tuple[dict[str, Any], dict[str, Dimension], str]] = {}  # the last: where it stands in the file
    if space:
        bases[str(plain["loss"]["name"])] = ({}, dict(space), "")
    shared = {path: dimension for path, dimension in space.items() if not path.startswith("loss/")}
    for index, (changes, own) in enumerate(compared):
        name = changes["loss"]["name"]
        if name in bases:
            raise Problems(f"compare.losses[{index}]: {name!r} is searched already")
        if shared | own:  # else it is trained as it is, nothing in it can be searched
            bases[name] = (changes, ranges.ordered(shared | own), f"compare.losses[{index}].")
    searching = bool(bases)
    if searching != ("search" in raw):
        raise Problems(
            f"search: missing, but {', '.join(dotted(path) for path in space) or 'compare'} has a range to search"
            if searching
            else "search: the file searches nothing; give a parameter a range such as loss.alpha: {uniform: [0.3, 1.0]}"
        )
    search = _search(raw.get("search", {}), validation)
    found = {}
    for name, (changes, own, where) in bases.items():
        start = overlay(plain, changes) | ({"loss": changes["loss"]} if changes else {})
        if "name" in changes.get("model", {}):
            start["model"] = changes["model"]
        for path, dimension in own.items():  # both ends of every range, and every choice, must be what the field takes
            for value in dimension.values:
                configuration(overlay(start, nested({path: value})), where)
        config = configuration(overlay(start, nested({path: own[path].values[0] for path in own})), where)
        defaults = ranges.defaults(name, own)
        found[name] = Space(name, config["loss"], config["model"], own, _budget(search, own, len(bases)), defaults)
    return found


def _compared(entry: Any, field: str) -> Compared:
    """What a loss to compare with changes of the study's configuration, and its ranges: the signature's, or its own."""
    where, entry = (field, {"loss": {"name": entry}}) if isinstance(entry, str) else (f"{field}.loss.name", entry)
    known_fields(field, entry, ("loss", "model"))
    name = check_name("loss", entry.get("loss"), where)
    section(dict[str, Any], f"{field}.model", entry.get("model", {}))
    changes, own = ranges.split(entry)
    if not own:
        own = {path: knob for path, knob in ranges.knobs(name).items() if path[5:] not in changes["loss"]}
    return changes, own


def _search(raw: Any, validation: Validation) -> Search:
    """The section ``search`` with the scheduler that suits the validation where it names none."""
    search: Search = section(Search, "search", raw)
    several = validation.folds is not None or len(validation.seeds or ()) > 1
    if len(search.objectives) != len(set(search.objectives)):
        raise Problems(f"search.metric: found {list(search.objectives)}; valid: one metric, or two different ones")
    whole = search.sampler == "grid" or len(search.objectives) > 1 or bool(search.constraints)
    if search.scheduler is None:
        pruning: Literal["asha", "racing", "none"] = "none" if whole else "racing" if several else "asha"
        return dataclasses.replace(search, scheduler=pruning)
    if len(search.objectives) > 1 and search.scheduler != "none":
        raise Problems(f"search.scheduler: found {search.scheduler} with two metrics; valid: none")
    if search.constraints and search.scheduler != "none":  # it would stop what keeps them for what does not
        raise Problems(f"search.scheduler: found {search.scheduler} with constraints; valid: none")
    if search.scheduler == "racing" and not several:
        raise Problems("search.scheduler: found racing without folds; valid: asha, none, or data.validation.folds")
    return search


def _budget(search: Search, space: Mapping[str, Dimension], searches: int) -> Search:
    """The search with its number of trials."""
    if search.sampler != "grid":
        return dataclasses.replace(search, trials=search.trials or TRIALS)
    if searches > 1:
        raise Problems("search.sampler: found grid with compare; valid: tpe, random, so that budgets are equal")
    endless = [dotted(path) for path, dimension in space.items() if dimension.points() is None]
    if endless:
        raise Problems(f"search.sampler: found grid, but {endless[0]} is continuous; valid there: choice, int")
    size = sum(1 for _ in itertools.islice(grid(space), MOST_TRIALS + 1))
    if size > MOST_TRIALS:
        raise Problems(f"search.sampler: found grid over more points than the {MOST_TRIALS} that are valid")
    if search.trials not in (None, size):
        raise Problems(f"search.trials: found {search.trials}, but the grid has {size} points; leave it out")
    return dataclasses.replace(search, trials=size)
