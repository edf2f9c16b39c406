"""The page's figures of a search, for plotly.js: its metric against each dimension, and what each dimension matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from tune_lt.report.figures.search import groups_of, limits_of, means_at, places_of, spans_decades
from tune_lt.report.page.plots import BAR, INK, PALETTE, QUIET, Plot, layout, plain, rounded, tint
from tune_lt.report.tables.searches import Searched, error
from tune_lt.run.search.selection import Ended
from tune_lt.texts import number, short

FEWEST_TRIALS = 10  # for an importance: with fewer it is noise
MOST_TRIALS = 300  # for an importance: a forest over more takes long
_BLUE, _RED, _GREEN, _PURPLE = (PALETTE[index][0] for index in range(4))
_BEST: Plot = {"color": _RED, "symbol": "star", "size": 14}
_MARKERS: dict[str, Plot] = {
    "complete": {"color": _BLUE, "symbol": "circle", "size": 7},
    "breaks a constraint": {"color": _PURPLE, "symbol": "x", "size": 8},
    "stopped, mean so far": {"color": QUIET[0], "symbol": "circle-open", "size": 7},
}


def curves(searched: Searched) -> list[Plot]:
    """The first metric in percent against each searched dimension, trials as points ± one standard error.

    As `search_figures.curve`: stopped trials are hollow, failed ones at the lower edge, the band reaches from the best
    mean to one standard error from it.
    """
    return [_dimension(searched, path) for path in searched.dimensions()]


def pareto(searched: Searched) -> Plot:
    """Both metrics of every complete trial in percent, the front joined; crossed out what breaks a constraint.

    Softmax on the same images is a square where both of its metrics are known.
    """
    first, second = searched.search.objectives
    traces: list[Plot] = []

    def points(label: str, trials: Sequence[Ended], marker: Plot, **more: Any) -> None:
        place = {name: rounded([100 * one.value(name) for one in trials]) for name in (first, second)}
        told = [_told(one, second, math.nan) + f"<br>{first} {100 * one.value(first):.2f} %" for one in trials]
        hover = f"%{{text}}<extra>{label}</extra>"
        trace = {"name": label, "x": place[first], "y": place[second], "text": told, "hovertemplate": hover}
        traces.append({"type": "scatter", "mode": "markers", "marker": marker, **trace, **more})

    for label, trials in groups_of(searched).items():
        if not label.startswith("stopped"):
            points(label, trials, _MARKERS[label])
    on_front = sorted(searched.front, key=lambda trial: trial.value(first))
    bars = {
        f"error_{axis}": {"array": rounded([100 * error(one, name) for one in on_front]), "thickness": 1, "width": 2}
        for axis, name in (("x", first), ("y", second))
    }
    line = {"color": _BLUE, "width": 1.5}
    points("Pareto front", on_front, {"color": _BLUE, "size": 9}, mode="lines+markers", line=line, **bars)
    points("best mean of both", [searched.best], _BEST)
    if {first, second} <= searched.reference.keys():
        points(
            "softmax", [Ended({}, "complete", searched.reference)], {"color": INK[0], "symbol": "square", "size": 10}
        )
    return {"data": traces, "layout": layout(f"{first} (%)", f"{second} (%)", showlegend=True)}


def importances(searched: Searched) -> dict[str, float]:
    """Each dimension's share of the metric's variance over the complete trials, by fANOVA (Hutter et al. 2014).

    A random forest of fixed seed on `MOST_TRIALS` trials or fewer, spread evenly over the search. Empty with fewer than
    `FEWEST_TRIALS` complete trials, and where no dimension is in all of them with more than one value.
    """
    complete = [
        trial
        for trial in searched.points
        if trial.outcome == "complete" and math.isfinite(trial.value(searched.metric))
    ]
    if len(complete) < FEWEST_TRIALS:
        return {}
    if len(complete) > MOST_TRIALS:
        complete = [complete[index] for index in np.linspace(0, len(complete) - 1, MOST_TRIALS).astype(int)]
    shared = [path for path in searched.dimensions() if all(path in trial.found for trial in complete)]
    varied = [path for path in shared if len({repr(trial.found[path]) for trial in complete}) > 1]
    if not varied or len({trial.value(searched.metric) for trial in complete}) == 1:
        return {}
    spaces = {path: _distribution([trial.found[path] for trial in complete]) for path in varied}
    study = optuna.create_study(direction="maximize")
    for trial in complete:
        values = {path: trial.found[path] for path in varied}
        study.add_trial(
            optuna.trial.create_trial(params=values, distributions=spaces, value=trial.value(searched.metric))
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def importance(shares: dict[str, float]) -> Plot:
    """The importances as bars, the greatest on top."""
    paths = sorted(shares, key=lambda path: shares[path])
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": rounded([shares[path] for path in paths]),
        "y": [plain(short(path)) for path in paths],
        "marker": {"color": _BLUE},
        "text": [f"{shares[path]:.2f}" for path in paths],
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    how = layout("share of the variance (fANOVA)", "", yaxis={"type": "category"}, xaxis={"rangemode": "tozero"})
    return {"data": [bars], "layout": how}


def _distribution(values: Sequence[Any]) -> optuna.distributions.BaseDistribution:
    """The range that the values span; of anything but numbers a choice."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return optuna.distributions.CategoricalDistribution(list(dict.fromkeys(values)))
    low, high = min(values), max(values)
    log = spans_decades(values)
    if all(isinstance(value, int) for value in values):
        return optuna.distributions.IntDistribution(low, high, log=log)
    return optuna.distributions.FloatDistribution(low, high, log=log)


def _dimension(searched: Searched, path: str) -> Plot:
    metric = searched.metric
    low, high = limits_of(searched)
    places, choices = places_of(searched, path)
    groups = {label: [one for one in some if path in one.found] for label, some in groups_of(searched).items()}
    traces: list[Plot] = []
    if not choices and len(searched.dimensions()) == 1:
        x, y = means_at(groups.get("complete", []), path, metric)
        line = {"color": _BLUE, "width": 1.2}
        traces.append(
            {"x": x, "y": rounded(y), "mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False}
        )
    traces += [_trials(metric, label, some, places, low) for label, some in groups.items() if some]
    failed = [places[id(one)] for one in searched.points if one.outcome == "failed" and path in one.found]
    if failed:
        mark = {"color": INK[0], "symbol": "line-ns-open", "size": 12}
        traces.append({"x": failed, "y": [low] * len(failed), "mode": "markers", "marker": mark, "name": "failed"})
    traces += _chosen(searched, path, places)
    axis: Plot = {}
    if choices:
        ticks = {"tickvals": list(range(len(choices))), "ticktext": list(map(plain, choices))}
        axis = {**ticks, "range": [-0.6, len(choices) - 0.4]}
    elif spans_decades(places.values()):
        axis = {"type": "log"}
    how = layout(plain(short(path)), f"{metric} (%)", xaxis=axis, yaxis={"range": [low, high]})
    return {
        "data": [{"type": "scatter", **trace} for trace in traces],
        "layout": how | {"shapes": _within(searched)},
    }


def _trials(metric: str, label: str, trials: Sequence[Ended], places: Mapping[int, float], low: float) -> Plot:
    spread = [100 * error(trial, metric) for trial in trials]
    colour = _MARKERS[label]["color"]
    return {
        "name": label,
        "x": [places[id(trial)] for trial in trials],
        "y": rounded([max(low, 100 * trial.value(metric)) for trial in trials]),
        "error_y": {"array": rounded(spread), "color": tint(colour, BAR), "thickness": 1, "width": 2},
        "mode": "markers",
        "marker": _MARKERS[label],
        "text": [_told(trial, metric, one) for trial, one in zip(trials, spread, strict=True)],
        "hovertemplate": f"%{{text}}<extra>{label}</extra>",
    }


def _chosen(searched: Searched, path: str, places: Mapping[int, float]) -> list[Plot]:
    """The marks of the best mean and of the one-standard-error choice."""
    plainest = {"color": _GREEN, "symbol": "diamond-open", "size": 15, "line": {"width": 2}}
    marked = [("one-standard-error choice", searched.plain, plainest), ("best mean", searched.best, _BEST)]
    return [
        {
            "name": label,
            "x": [places[id(trial)]],
            "y": rounded([100 * trial.value(searched.metric)]),
            "mode": "markers",
            "marker": mark,
            "text": [_told(trial, searched.metric, 100 * error(trial, searched.metric))],
            "hovertemplate": f"%{{text}}<extra>{label}</extra>",
        }
        for label, trial, mark in marked
        if trial is not None and path in trial.found
    ]


def _within(searched: Searched) -> list[Plot]:
    """The band of what lies within one standard error of the best mean."""
    best, spread = (
        100 * value for value in (searched.best.value(searched.metric), error(searched.best, searched.metric))
    )
    if math.isnan(spread) or len(searched.search.objectives) > 1:
        return []
    ends = {"y0": round(best, 3), "y1": round(best - spread, 3), "x0": 0, "x1": 1}
    return [{"type": "rect", "xref": "paper", "layer": "below", "line": {"width": 0}, "fillcolor": tint(_RED), **ends}]


def _told(trial: Ended, metric: str, spread: float) -> str:
    found = "<br>".join(f"{plain(short(path))} {plain(number(value))}" for path, value in trial.found.items())
    value = f"{metric} {100 * trial.value(metric):.2f}" + ("" if math.isnan(spread) else f" ± {spread:.2f}")
    return f"{found}<br>{value} %"
