"""What `tune-lt plan` shows: the whole study with its defaults, what is done, what is left and what that costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import yaml

from tune_lt.plan.cost import STARTUP_SECONDS, Estimate, Outlook
from tune_lt.study import Space, Study, flattened, smaller
from tune_lt.study.checks import dotted
from tune_lt.texts import duration


def lines(study: Study, about: Sequence[str], seen: Outlook, cost: Estimate | None) -> list[str]:
    """What `plan` prints, line by line. ``about``: lines about the study's images."""
    shown = [yaml.safe_dump(_defaults(study), sort_keys=False, allow_unicode=True).rstrip()]
    if warning := smaller(study.scale):
        shown.append(f"# {warning}")
    for space in study.searches.values():
        of = f" of {space.name}" if len(study.searches) > 1 else ""
        for path, dimension in space.space.items():
            when = "".join(f", where {dotted(other)} is in {list(values)}" for other, values in dimension.when.items())
            shown.append(f"# searched{of}: {dotted(path)} {dimension.kind} {list(dimension.values)}{when}")
    shown += ["", *about, *(_search_line(study, space, seen) for space in study.searches.values())]
    crossed = f" x {len(study.columns)} imbalance factors" if len(study.columns) > 1 else ""
    size = f"{len(study.rows)} rows{crossed} x {len(study.seeds)} seeds"
    epochs = _epochs(seen, "tables")["mean"]
    left = f", {epochs:.0f} epochs left" if epochs else ""
    shown.append(f"tables: {size} = {len(seen.cells)} cells, {seen.cells_done} done{left}")
    for row, written in study.rows.items():
        own = next(cell for cell in seen.cells if cell.row == row)
        loss = ", ".join(f"{key} {value}" for key, value in flattened(own.cell.loss).items() if value is not None)
        waits = set(study.searches) - set(seen.found) and "name" not in written.get("loss", {})
        shown.append(f"  {row}: {loss}" + (" (searched values: not known yet)" if waits else ""))
    return shown + _cost_lines(cost)


def content(study: Study, about: Sequence[str], seen: Outlook, cost: Estimate | None) -> dict[str, Any]:
    """What `plan --json` prints, for scripts: times in the units that their names say, memory in bytes."""
    searches = {
        name: {
            "trials": space.search.budget,
            "units": len(study.units(space)),
            "epochs": study.recipe.epochs,
            "done": seen.trials_done[name],
        }
        for name, space in study.searches.items()
    }
    tables = {
        "rows": list(study.rows),
        "imbalance": list(study.columns),
        "seeds": _seeds(study),
        "cells": len(seen.cells),
        "done": seen.cells_done,
        "epochs_left": _epochs(seen, "tables"),
    }
    estimated = None
    if cost is not None:
        values = {"hours": cost.hours, "cpu_hours": cost.hours * cost.cpus, "gpu_hours": cost.hours * cost.gpus}
        estimated = dataclasses.asdict(cost) | {name: _ends(value, cost.factor) for name, value in values.items()}
        start = min(STARTUP_SECONDS, cost.wall_seconds)  # of Ray, which does not depend on the training
        wall = _ends(cost.wall_seconds - start, cost.factor)
        estimated["wall_seconds"] = {end: start + seconds for end, seconds in wall.items()}
    search = {"searches": searches, "epochs_left": _epochs(seen, "search")} if searches else None
    described = {"name": study.name, "scale": study.scale, "data": list(about)}
    return described | {"search": search, "tables": tables, "estimate": estimated}


def _search_line(study: Study, space: Space, seen: Outlook) -> str:
    done, budget = seen.trials_done[space.name], space.search.budget
    units = len(study.units(space))
    length = f"{units} x {study.recipe.epochs}" if units > 1 else str(study.recipe.epochs)
    epochs = _epochs(seen, "search")["mean"]
    state = "done" if done == budget else f"{done} done" if done else "to do"
    left = f", about {epochs:.0f} epochs left" if epochs and len(study.searches) == 1 else ""
    return f"{study.label(space)}: {budget} trials of at most {length} epochs, {state}{left}"


def _epochs(seen: Outlook, phase: str) -> dict[str, float]:
    """The epochs that are left to train in a phase."""
    left = [work for work in seen.work if work.phase == phase]
    mean, high = sum(work.epochs for work in left), sum(work.epochs * work.factor for work in left)
    return _ends(mean, high / mean if mean else 1)


def _ends(mean: float, factor: float) -> dict[str, float]:
    """The estimate, and the ends between which the true value should lie."""
    return {"mean": mean, "low": mean / factor, "high": mean * factor}


def _defaults(study: Study) -> dict[str, Any]:
    """The whole study with every default, as its file would say it."""
    shown = {"name": study.name} | study.base()
    shown["data"]["validation"] = dataclasses.asdict(study.validation)
    shared = next(iter(study.searches.values()), None)
    shown["search"] = dataclasses.asdict(shared.search) if shared else None
    return shown | {"seeds": _seeds(study), "resources": dataclasses.asdict(study.resources)}


def _seeds(study: Study) -> Any:
    if study.resample:
        return {"resample": [data for data, _ in study.seeds]}
    if all(data == init for data, init in study.seeds):
        return [data for data, _ in study.seeds]
    return {"data": sorted({data for data, _ in study.seeds}), "init": sorted({init for _, init in study.seeds})}


def _cost_lines(cost: Estimate | None) -> list[str]:
    if cost is None:
        return ["estimated cost: unknown; there is no past run on this store, and no GPU here to time some steps on"]
    if cost.hours == 0:
        return ["nothing is left to train"]
    unit, factor = ("GPU", cost.gpus) if cost.gpus else ("CPU", cost.cpus)
    mean, low, high = map(_hours, _ends(cost.hours * factor, cost.factor).values())
    wall = f"about {duration(cost.wall_seconds)} with {cost.at_once} at once"
    lines = [f"estimated {mean} {unit}-hours ({low} to {high}), {wall}, from {cost.source}"]
    if not cost.fits:
        needs = f"{cost.cpus:g} CPUs" + (f" and {cost.gpus:g} GPUs" if cost.gpus else "")
        lines.append(f"a trial takes {needs}, more than this machine has; the time is of one that has just these")
    if cost.memory_bytes is not None:
        lines.append(f"peak memory per trial {cost.memory_bytes / 1e9:.2f} GB")
    return lines


def _hours(hours: float) -> str:
    return "<0.001" if 0 < hours < 0.001 else f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"
