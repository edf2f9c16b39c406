"""What the searches of a study found, read from the document that each records when it ends, and the tables of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from tune_lt.documents import SEARCH_FILE, SearchResult, Trial, file_part, shortfalls
from tune_lt.report.tables.differences import Sample, difference
from tune_lt.report.tables.sheet import NONE, Sheet, plus_minus
from tune_lt.store import Store
from tune_lt.texts import found_values

BEST, PLAIN = "best mean", "one standard error"
OUTCOMES = ("complete", "pruned", "failed")
LEGEND = (
    "Held-out accuracy in %: mean ± standard error over the units (folds × seeds). The units are taken as independent, "
    "which folds are not, so the error is rather too small. These images chose the values: no test result."
)


def read(store: Store, run_id: str, files: Mapping[str, str] | None = None) -> list[SearchResult]:
    """The ended searches of a study. ``run_id``: its own run; ``files``: their documents by search, else all it has."""
    if files is None:
        names = sorted(item.path for item in store.client.list_artifacts(run_id))
        files = {match[1]: name for name in names if (match := SEARCH_FILE.fullmatch(name))}
    found = (store.read(run_id, file, partial(SearchResult.of, name)) for name, file in files.items())
    return [one for one in found if one is not None]


def chosen_sheet(searched: SearchResult) -> Sheet:
    """What one search chose: lines for the best mean, for the one-standard-error rule and for the Pareto front."""
    return _sheet(
        f"search_{file_part(searched.name)}",
        f"Search of {searched.name}: what was chosen",
        "Choice",
        [(label, searched, trial) for label, trial in choices(searched)],
        searched.watched,
    )


def compared_sheet(all_searched: Sequence[SearchResult]) -> Sheet:
    """The best trial of each of several searches, with the epochs that the search trained."""
    watched = dict.fromkeys(name for searched in all_searched for name in searched.watched)
    lines = [(searched.name, searched, searched.best) for searched in all_searched]
    return _sheet("searches", "Searches: the best mean of each", "Search", lines, tuple(watched))


def trials_sheet(searched: SearchResult) -> Sheet:
    """Every complete trial of one search, best first, with its difference from the best over the units of both."""
    metric = searched.metric
    complete = [point for point in searched.points if point.outcome == "complete" and _units(point, metric).values]
    lines, data = [], []
    folds = max((int(name.rpartition("/")[2]) for name in searched.order if "/" in name), default=0)
    overlap = 1 / (folds - 1) if folds else 0.0
    best = _units(searched.best, metric, overlap)
    for point in sorted(complete, key=lambda point: -point.value(metric)):
        units = _units(point, metric, overlap)
        one = None if point is searched.best else difference(units, best)
        scores = plus_minus(100 * point.value(metric), 100 * point.standard_error(metric))
        behind = plus_minus(one.mean, one.error, "+").replace("-", "−") if one else NONE
        lines.append((listed(point.found), scores, behind, str(len(units.values))))
        gap = {"difference": one.mean, "standard_error": one.error} if one else {}
        data.append({**point.found, metric: 100 * point.value(metric), "units": len(units.values), **gap})
    return Sheet(
        f"trials_{file_part(searched.name)}",
        f"Search of {searched.name}: its complete trials",
        ("Found", metric, "Δ vs the best", "Units"),
        tuple(lines),
        pd.DataFrame(data),
        (
            LEGEND,
            "Δ: points, paired by units, ± its standard error"
            + (
                ", with the correction of Nadeau and Bengio (2003) for folds, whose training images overlap"
                if folds
                else ""
            )
            + ". No test: of many trials the best looks better than it is, and the others look further from it.",
        ),
    )


def _units(trial: Trial, metric: str, overlap: float = 0.0) -> Sample:
    """The finite values of a trial by unit, over which its mean is."""
    values = {unit: value for unit, value in enumerate(trial.units.get(metric, ())) if math.isfinite(value)}
    return Sample(values, overlap=overlap)


def listed(found: Mapping[str, Any]) -> str:
    """Found values in one line, "—" where a trial has none."""
    return found_values(found) or NONE


def choices(searched: SearchResult) -> list[tuple[str, Trial]]:
    """The chosen trials, each once, with the names of the rules that chose it."""
    rules: list[tuple[str, Trial]] = [(BEST, searched.best)]
    rules += [(PLAIN, searched.plain)] if searched.plain else []
    rules += [(f"front {index}", trial) for index, trial in enumerate(searched.front, start=1)]
    chosen = {id(trial): trial for _, trial in rules}.values()
    return [(", ".join(label for label, other in rules if other is trial), trial) for trial in chosen]


def _sheet(
    name: str, title: str, label: str, lines: Sequence[tuple[str, SearchResult, Trial]], watched: Sequence[str]
) -> Sheet:
    """A line for each (first cell, search, trial); ``label``: the name of the first column; ``watched``: metrics."""
    trials = f"Trials {' / '.join(OUTCOMES)}"
    texts, data = [], []
    for first, searched, trial in lines:
        counts = [searched.outcomes()[outcome] for outcome in OUTCOMES]
        means = {metric: 100 * trial.value(metric) for metric in watched}
        errors = {metric: 100 * trial.standard_error(metric) for metric in watched}
        units, total = len(_units(trial, searched.metric).values), len(trial.units.get(searched.metric, ()))
        texts.append(
            (
                first,
                listed(trial.found),
                *(plus_minus(means[metric], errors[metric]) for metric in watched),
                str(units) if units == total else f"{units} of {total}",
                " / ".join(map(str, counts)),
                str(searched.epochs),
            )
        )
        data.append(
            {"search": searched.name, "choice": first if label == "Choice" else BEST, **trial.found, **means}
            | {f"{metric} standard error": error for metric, error in errors.items()}
            | {"units": units, **dict(zip(OUTCOMES, counts, strict=True)), "epochs": searched.epochs}
        )
    notes = [LEGEND, "Epochs: of all trials of a search together; a trial that the store knew already took none."]
    if any(len(searched.objectives) > 1 for _, searched, _ in lines):
        notes.append(
            "Best mean: of both metrics together. Front: trials that no other beats in one metric without losing in "
            "the other."
        )
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
        narrow={trials: "\n/ ".join(OUTCOMES).capitalize()},
    )


def _notes(searched: SearchResult, several: bool) -> list[str]:
    """The footnotes on one search: trials that are not counted, and its constraints. ``several``: beside others."""
    start = f"{searched.name}: " if several else ""
    notes = []
    rest = searched.trials - sum(searched.outcomes()[outcome] for outcome in OUTCOMES)
    if rest > 0:
        notes.append(f"{start}{rest} of {searched.trials} trials only repeated another.")
    complete = [point for point in searched.points if point.outcome == "complete"]
    for metric, allowed in searched.constraints.items():
        base = searched.reference[metric]
        below = sum(shortfalls(point.metrics, {metric: allowed}, searched.reference)[metric] > 0 for point in complete)
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
