"""The searches of a study file: over its own loss and those that it is compared with; scheduler and trials."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tune_lt.study import MOST_TRIALS, Dimension, Search, Space, Validation, grid, nested, overlay, ranges
from tune_lt.study.checks import Problems, dotted, section
from tune_lt.study.sections import check_name, configuration

TRIALS = 20  # of a search, unless the file says otherwise
Compared = tuple[dict[str, Any], dict[str, Dimension]]  # what a compared loss changes in the study, and its ranges


def comparison(entry: Any, field: str) -> Compared:
    """A loss that ``compare`` lists, the file's ``field``: a name, or ``{loss: ..., model: ...}``. Raises Problems.

    Its ranges are those that the file gives it; if it gives none, those of the loss's signature.
    """
    where, entry = (field, {"loss": {"name": entry}}) if isinstance(entry, str) else (f"{field}.loss.name", entry)
    if isinstance(entry, dict) and "name" in entry:  # as older versions had it
        raise Problems(f"{field}: found a loss with its parameters; write {{loss: {{name: …}}}} instead")
    section(dict[Literal["loss", "model"], Any], field, entry)
    name = check_name("loss", entry.get("loss"), where)
    section(dict[str, Any], f"{field}.model", entry.get("model", {}))
    changes, own = ranges.split(entry)
    if not own:
        own = {path: knob for path, knob in ranges.knobs(name).items() if path[5:] not in changes["loss"]}
    return changes, own


def searches(
    search: Search | None,
    plain: Mapping[str, Any],
    space: Mapping[str, Dimension],
    validation: Validation,
    compared: Sequence[Compared],
) -> dict[str, Space]:
    """The searches by the name of their loss, all with the same number of trials. Raises Problems.

    ``plain``: the study's configuration with the first value of each range. ``space``: its ranges by path.
    """
    searched = [("", {"loss": plain["loss"]}, dict(space))] if space else []  # where it stands, changes, ranges
    names = [changes["loss"]["name"] for changes, _ in compared] + [
        changes["loss"]["name"] for _, changes, _ in searched
    ]
    if len(set(names)) < len(names):
        raise Problems(
            f"compare.losses: found {', '.join(names)}; valid: each loss once, not the study's own with ranges"
        )
    shared = {path: dimension for path, dimension in space.items() if path.startswith("recipe/")}
    for index, (changes, own) in enumerate(compared):
        if shared | own:  # else nothing in it can be searched, and it is trained at its defaults
            searched.append((f"compare.losses[{index}].", changes, ranges.ordered(shared | own)))
    if searched and search is None:
        found = ", ".join(map(dotted, space)) or "compare"
        raise Problems(f"search: missing, but {found} has a range to search")
    if search is None:
        return {}
    if not searched:
        raise Problems("search: the file searches nothing; give a parameter a range, loss.alpha: {uniform: [0.3, 1.0]}")
    search = _search(search, validation)
    spaces = {}
    for where, changes, own in searched:
        start = overlay(plain, changes) | {"loss": changes["loss"]}
        if "name" in changes.get("model", {}):
            start["model"] = changes["model"]
        for path, dimension in own.items():  # both ends of every range and every choice must be valid
            for value in dimension.values:
                configuration(overlay(start, nested({path: value})), where)
        config = configuration(overlay(start, nested({path: own[path].values[0] for path in own})), where)
        name = config["loss"]["name"]
        budget, defaults = _budget(search, own, len(searched)), ranges.defaults(name, own)
        spaces[name] = Space(name, config["loss"], config["model"], own, budget, defaults)
    return spaces


def _search(search: Search, validation: Validation) -> Search:
    """The section ``search`` with its scheduler; by default, the one that suits the validation. Raises Problems."""
    several = validation.folds is not None or len(validation.seeds or ()) > 1
    if len(search.objectives) != len(set(search.objectives)):
        raise Problems(f"search.metric: found {list(search.objectives)}; valid: one metric, or two different ones")
    by_one = len(search.objectives) == 1 and not search.constraints  # schedulers compare trials by a single metric
    if search.scheduler is None:
        stop: Literal["asha", "racing"] = "racing" if several else "asha"
        return dataclasses.replace(search, scheduler=stop if by_one and search.sampler != "grid" else "none")
    if not by_one and search.scheduler != "none":
        raise Problems(f"search.scheduler: found {search.scheduler} with two metrics or constraints; valid: none")
    if search.scheduler == "racing" and not several:
        raise Problems("search.scheduler: found racing without folds; valid: asha, none, or data.validation.folds")
    return search


def _budget(search: Search, space: Mapping[str, Dimension], searches: int) -> Search:
    """The search with its number of trials. Raises Problems. ``searches``: how many the study has."""
    if search.sampler != "grid":
        return dataclasses.replace(search, trials=search.trials or TRIALS)
    if searches > 1:
        raise Problems("search.sampler: found grid with compare; valid: tpe, random, so that all have as many trials")
    endless = [dotted(path) for path, dimension in space.items() if dimension.points() is None]
    if endless:
        raise Problems(f"search.sampler: found grid, but {endless[0]} is continuous; valid: choice, int")
    size = sum(1 for _ in itertools.islice(grid(space), MOST_TRIALS + 1))
    if size > MOST_TRIALS:
        raise Problems(f"search.sampler: found a grid of more than {MOST_TRIALS} points; valid: a smaller one")
    if search.trials not in (None, size):
        raise Problems(f"search.trials: found {search.trials}, but the grid has {size} points; leave it out")
    return dataclasses.replace(search, trials=size)
