"""What the searches of a study found, from the artifacts that each leaves when it ends; and the tables of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from tune_lt.documents import SEARCH_FILE, SearchResult, Trial, file_part
from tune_lt.report.tables.differences import Pair, difference
from tune_lt.report.tables.sheet import NONE, Sheet, difference_text, plus_minus
from tune_lt.store import Store
from tune_lt.texts import found_values

BEST, PLAIN = "best mean", "one standard error"
FRONT = "Front: trials that no other beats in one metric without losing in the other."
LEGEND = (
    "Held-out accuracy in %: mean ± standard error over the units (folds × seeds). The units are taken as independent, "
    "which folds are not, so the error is rather too small. These images chose the values: no test result."
)


def read(store: Store, run_id: str, files: Mapping[str, str] | None = None) -> list[SearchResult]:
    """The ended searches of a study's run, in order. ``files``: by search; without it every one the run has."""
    if files is None:
        names = sorted(item.path for item in store.client.list_artifacts(run_id))
        files = {match[1]: name for name in names if (match := SEARCH_FILE.fullmatch(name))}
    found = (store.read(run_id, file, partial(SearchResult.of, name)) for name, file in files.items())
    return [one for one in found if one is not None]


def finite_units(trial: Trial, metric: str) -> int:
    """How many units a trial's mean is over."""
    return sum(map(math.isfinite, trial.units.get(metric, ())))


def chosen_sheet(searched: SearchResult) -> Sheet:
    """What one search chose: a line for the best mean, one for the one-standard-error rule, those of the front."""
    return _sheet(
        f"search_{file_part(searched.name)}",
        f"Search of {searched.name}: what was chosen",
        "Choice",
        [(label, searched, trial) for label, trial in choices(searched)],
        searched.watched,
    )


def compared_sheet(all_searched: Sequence[SearchResult]) -> Sheet:
    """What several searches found, a line each, with the epochs each had."""
    watched = dict.fromkeys(name for searched in all_searched for name in searched.watched)
    lines = [(searched.name, searched, searched.best) for searched in all_searched]
    return _sheet("searches", "Searches: the best mean of each", "Search", lines, tuple(watched))


def trials_sheet(searched: SearchResult) -> Sheet:
    """Every complete trial of one search, the best first, with its distance from the best over the units of both."""
    metric = searched.metric
    complete = [point for point in searched.points if point.outcome == "complete" and finite_units(point, metric)]
    complete.sort(key=lambda point: -point.value(metric))
    lines, data = [], []
    best = _pairs(searched.best, metric)
    for point in complete:
        pairs = _pairs(point, metric)
        one = None if point is searched.best else difference(pairs, best)
        scores = plus_minus(100 * point.value(metric), 100 * point.standard_error(metric))
        lines.append((listed(point.found), scores, difference_text(one), str(len(pairs))))
        gap = {"difference": one.mean, "low": one.low, "high": one.high} if one else {}
        data.append({**point.found, metric: 100 * point.value(metric), "units": len(pairs), **gap})
    return Sheet(
        f"trials_{file_part(searched.name)}",
        f"Search of {searched.name}: its complete trials",
        ("Found", metric, "Δ vs the best [95 % CI]", "Units"),
        tuple(lines),
        pd.DataFrame(data),
        (
            LEGEND,
            "Δ: points, paired by units (folds × seeds), Student's interval; of many trials the best is better than it "
            "really is, and so are the others' distances from it.",
        ),
    )


def _pairs(trial: Trial, metric: str) -> dict[Pair, float]:
    """A trial's values by unit, as `difference` pairs them."""
    return {(0, unit): value for unit, value in enumerate(trial.units[metric]) if math.isfinite(value)}


def listed(found: Mapping[str, Any]) -> str:
    """Found values in one line."""
    return found_values(found) or NONE


def choices(searched: SearchResult) -> list[tuple[str, Trial]]:
    """What was chosen, each configuration once, by the rules that chose it."""
    rules: list[tuple[str, Trial]] = [(BEST, searched.best)]
    rules += [(PLAIN, searched.plain)] if searched.plain else []
    rules += [(f"front {index}", trial) for index, trial in enumerate(searched.front, start=1)]
    chosen: list[tuple[str, Trial]] = []
    for label, trial in rules:
        known = next((index for index, (_, other) in enumerate(chosen) if other is trial), None)
        if known is None:
            chosen.append((label, trial))
        else:
            chosen[known] = (f"{chosen[known][0]}, {label}", trial)
    return chosen


def _sheet(
    name: str, title: str, label: str, lines: Sequence[tuple[str, SearchResult, Trial]], watched: Sequence[str]
) -> Sheet:
    trials = "Trials complete / pruned / failed"
    objectives = {objective for _, searched, _ in lines for objective in searched.objectives}
    texts, data = [], []
    for first, searched, trial in lines:
        counts = searched.outcomes()
        means = [plus_minus(100 * trial.value(metric), 100 * trial.standard_error(metric)) for metric in watched]
        units, total = finite_units(trial, searched.metric), len(trial.units.get(searched.metric, ()))
        texts.append(
            (
                first,
                listed(trial.found),
                *means,
                str(units) if units == total else f"{units} of {total}",
                f"{counts['complete']} / {counts['pruned']} / {counts['failed']}",
                str(searched.epochs),
            )
        )
        data.append(
            {"search": searched.name, "choice": first if label == "Choice" else BEST}
            | dict(trial.found)
            | {metric: 100 * trial.value(metric) for metric in watched}
            | {f"{metric} standard error": 100 * trial.standard_error(metric) for metric in watched}
            | {"units": units, **{outcome: counts[outcome] for outcome in ("complete", "pruned", "failed")}}
            | {"epochs": searched.epochs}
        )
    notes = [LEGEND, "Epochs: of all trials of a search together; a trial that the store knew already took none."]
    if len(objectives) > 1:
        notes.append(f"{BEST.capitalize()}: of both metrics together. {FRONT}")
    for searched in {one.name: one for _, one, _ in lines}.values():
        notes += _notes(searched, several=label != "Choice")
    return Sheet(
        name,
        title,
        (label, "Found", *watched, "Units", trials, "Epochs"),
        tuple(texts),
        pd.DataFrame(data),
        tuple(dict.fromkeys(notes)),
        left=2,
        narrow={trials: "Complete\n/ pruned\n/ failed"},
    )


def _notes(searched: SearchResult, several: bool) -> list[str]:
    """Which trials are not counted, and what the constraints asked for."""
    start = f"{searched.name}: " if several else ""
    notes = []
    rest = searched.trials - sum(searched.outcomes()[outcome] for outcome in ("complete", "pruned", "failed"))
    if rest:
        notes.append(f"{start}{rest} of {searched.trials} trials only repeated another.")
    complete = [point for point in searched.points if point.outcome == "complete"]
    for metric, allowed in searched.constraints.items():
        base = searched.reference[metric]
        below = sum(point.value(metric) < base - allowed for point in complete)
        notes.append(
            f"{start}{metric} may fall to {100 * (base - allowed):.2f} (softmax {100 * base:.2f} on the same images, "
            f"less {100 * allowed:g}); {below} of {len(complete)} complete trials fall lower."
        )
    broken = searched.violation(searched.best)
    if broken > 0:
        notes.append(
            f"{start}No trial keeps the constraints; this one breaks them least, by {100 * broken:.2f} points."
        )
    return notes
