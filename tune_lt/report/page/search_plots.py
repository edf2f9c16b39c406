"""The page's figures of a search, for plotly.js: its metric against each dimension, and what each dimension matters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from tune_lt.documents import SearchResult, Trial
from tune_lt.report.page.plots import BAR, INK, PALETTE, QUIET, Plot, layout, plain, rounded, tint
from tune_lt.report.tables.sheet import plus_minus
from tune_lt.texts import number, short

FEWEST_TRIALS = 10  # for an importance: with fewer it is noise
MOST_TRIALS = 300  # for an importance: a forest over more takes long
_LOG_SPAN = 50  # a dimension whose values span more has a logarithmic axis
_COLUMN = 0.6  # width that a choice's trials are spread over
_GOLDEN = (math.sqrt(5) - 1) / 2
_BLUE, _RED, _GREEN, _PURPLE = (PALETTE[index][0] for index in range(4))
_BEST: Plot = {"color": _RED, "symbol": "star", "size": 14}
_MARKERS: dict[str, Plot] = {
    "complete": {"color": _BLUE, "symbol": "circle", "size": 7},
    "breaks a constraint": {"color": _PURPLE, "symbol": "x", "size": 8},
    "stopped, mean so far": {"color": QUIET[0], "symbol": "circle-open", "size": 7},
}


def curves(searched: SearchResult) -> list[Plot]:
    """The first metric in percent against each searched dimension, trials as points ± one standard error.

    Stopped trials are hollow, at their mean so far, or a triangle at the lower edge where that lies far below the
    others; failed ones are ticks there. The band reaches from the best mean to one standard error from it. A choice
    has a column for each value. With one numeric dimension alone a line joins the means.
    """
    return [_dimension(searched, path) for path in searched.dimensions()]


def pareto(searched: SearchResult) -> Plot:
    """Both metrics of every complete trial in percent, the front joined; crossed out what breaks a constraint.

    Softmax on the same images is a square where both of its metrics are known; where a metric has a constraint, a line
    is at softmax's value and another at the least allowed.
    """
    first, second = searched.objectives
    traces: list[Plot] = []

    def points(label: str, trials: Sequence[Trial], marker: Plot, **more: Any) -> None:
        place = {name: rounded([100 * one.value(name) for one in trials]) for name in (first, second)}
        told = [_told(one, second, math.nan) + f"<br>{first} {100 * one.value(first):.2f} %" for one in trials]
        hover = f"%{{text}}<extra>{label}</extra>"
        trace = {"name": label, "x": place[first], "y": place[second], "text": told, "hovertemplate": hover}
        traces.append({"type": "scatter", "mode": "markers", "marker": marker, **trace, **more})

    for label, trials in _groups(searched).items():
        if not label.startswith("stopped"):
            points(label, trials, _MARKERS[label])
    on_front = sorted(searched.front, key=lambda trial: trial.value(first))
    bars = {
        f"error_{axis}": {
            "array": rounded([100 * one.standard_error(name) for one in on_front]),
            "thickness": 1,
            "width": 2,
        }
        for axis, name in (("x", first), ("y", second))
    }
    line = {"color": _BLUE, "width": 1.5}
    points("Pareto front", on_front, {"color": _BLUE, "size": 9}, mode="lines+markers", line=line, **bars)
    points("best mean of both", [searched.best], _BEST)
    if {first, second} <= searched.reference.keys():
        points(
            "softmax", [Trial({}, "complete", searched.reference)], {"color": INK[0], "symbol": "square", "size": 10}
        )
    how = layout(f"{first} (%)", f"{second} (%)", showlegend=True, shapes=_allowed(searched))
    return {"data": traces, "layout": how}


def importances(searched: SearchResult) -> dict[str, float]:
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
    if not _numeric(values):
        return optuna.distributions.CategoricalDistribution(list(dict.fromkeys(values)))
    low, high = min(values), max(values)
    log = _spans_decades(values)
    if all(isinstance(value, int) for value in values):
        return optuna.distributions.IntDistribution(low, high, log=log)
    return optuna.distributions.FloatDistribution(low, high, log=log)


def _dimension(searched: SearchResult, path: str) -> Plot:
    metric = searched.metric
    low, high = _limits(searched)
    places, choices = _places(searched, path)
    groups = {label: [one for one in some if path in one.found] for label, some in _groups(searched).items()}
    traces: list[Plot] = []
    if not choices and len(searched.dimensions()) == 1:
        at: dict[float, list[float]] = defaultdict(list)
        for trial in groups.get("complete", ()):
            at[places[id(trial)]].append(100 * trial.value(metric))
        means = {"x": sorted(at), "y": rounded(sum(at[x]) / len(at[x]) for x in sorted(at))}
        line = {"color": _BLUE, "width": 1.2}
        traces.append({**means, "mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False})
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
    elif _spans_decades(places.values()):
        axis = {"type": "log"}
    how = layout(plain(short(path)), f"{metric} (%)", xaxis=axis, yaxis={"range": [low, high]})
    return {
        "data": [{"type": "scatter", "cliponaxis": False, **trace} for trace in traces],  # marks at the edge are whole
        "layout": how | {"shapes": _within(searched)},
    }


def _groups(searched: SearchResult) -> dict[str, list[Trial]]:
    """The trials that have a value, by how they are drawn."""
    groups: dict[str, list[Trial]] = defaultdict(list)
    for point in searched.points:
        if not math.isfinite(point.value(searched.metric)):
            continue
        if point.outcome == "complete":
            groups["breaks a constraint" if searched.violation(point) > 0 else "complete"].append(point)
        elif point.outcome == "pruned":
            groups["stopped, mean so far"].append(point)
    return dict(groups)


def _limits(searched: SearchResult) -> tuple[float, float]:
    """The vertical axis: all of the complete trials, stopped ones as far as they do not press those together."""
    metric, groups = searched.metric, _groups(searched)
    stopped = [100 * trial.value(metric) for trial in groups.pop("stopped, mean so far", ())]
    complete = [trial for trials in groups.values() for trial in trials]
    values = 100 * np.array([trial.value(metric) for trial in complete])
    spread = 100 * np.nan_to_num([trial.standard_error(metric) for trial in complete])
    low, high = float((values - spread).min()), float((values + spread).max())
    height = max(high - low, 1.0)
    low = min([low, *(value for value in stopped if value >= low - height)])
    return low - 0.08 * height, max([high, *stopped]) + 0.08 * height


def _places(searched: SearchResult, path: str) -> tuple[dict[int, float], list[str]]:
    """Where trials stand on a dimension's axis, by their id(), and the names of its choices where those are no numbers.

    A choice has a column around its index, in which its trials are spread.
    """
    trials = [point for point in searched.points if path in point.found]
    values = [trial.found[path] for trial in trials]
    if _numeric(values):
        return {id(trial): float(value) for trial, value in zip(trials, values, strict=True)}, []
    choices = sorted(dict.fromkeys(values), key=lambda value: (str(type(value)), value is True, str(value)))
    places = {}
    for column, value in enumerate(choices):
        members = [trial for trial, own in zip(trials, values, strict=True) if own == value]
        for index, trial in enumerate(members):  # multiples of the golden ratio keep neighbours apart
            places[id(trial)] = column + _COLUMN * ((index * _GOLDEN + 0.5) % 1 - 0.5)
    return places, [_choice(value) for value in choices]


def _numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _spans_decades(values: Iterable[float]) -> bool:
    """Whether numbers want a logarithmic axis."""
    some = list(values)
    return min(some) > 0 and max(some) > _LOG_SPAN * min(some)


def _choice(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else number(value)


def _trials(metric: str, label: str, trials: Sequence[Trial], places: Mapping[int, float], low: float) -> Plot:
    spread = [100 * trial.standard_error(metric) for trial in trials]
    values = [100 * trial.value(metric) for trial in trials]
    bars = [one if value >= low else math.nan for one, value in zip(spread, values, strict=True)]
    marker = _MARKERS[label]
    symbols = [marker["symbol"] if value >= low else "triangle-down-open" for value in values]
    return {
        "name": label,
        "x": [places[id(trial)] for trial in trials],
        "y": rounded(max(low, value) for value in values),
        "error_y": {"array": rounded(bars), "color": tint(marker["color"], BAR), "thickness": 1, "width": 2},
        "mode": "markers",
        "marker": {**marker, "symbol": symbols},
        "text": [_told(trial, metric, one) for trial, one in zip(trials, spread, strict=True)],
        "hovertemplate": f"%{{text}}<extra>{label}</extra>",
    }


def _chosen(searched: SearchResult, path: str, places: Mapping[int, float]) -> list[Plot]:
    """The marks of the best mean and of the one-standard-error choice."""
    plainest = {"color": _GREEN, "symbol": "diamond-open", "size": 15, "line": {"width": 2}}
    best = "best mean of both" if len(searched.objectives) > 1 else "best mean"
    marked = [("one-standard-error choice", searched.plain, plainest), (best, searched.best, _BEST)]
    return [
        {
            "name": label,
            "x": [places[id(trial)]],
            "y": rounded([100 * trial.value(searched.metric)]),
            "mode": "markers",
            "marker": mark,
            "text": [_told(trial, searched.metric, 100 * trial.standard_error(searched.metric))],
            "hovertemplate": f"%{{text}}<extra>{label}</extra>",
        }
        for label, trial, mark in marked
        if trial is not None and path in trial.found
    ]


def _within(searched: SearchResult) -> list[Plot]:
    """The band of what lies within one standard error of the best mean."""
    best, spread = (
        100 * value for value in (searched.best.value(searched.metric), searched.best.standard_error(searched.metric))
    )
    if math.isnan(spread) or len(searched.objectives) > 1:
        return []
    ends = {"y0": round(best, 3), "y1": round(best - spread, 3), "x0": 0, "x1": 1}
    return [{"type": "rect", "xref": "paper", "layer": "below", "line": {"width": 0}, "fillcolor": tint(_RED), **ends}]


def _allowed(searched: SearchResult) -> list[Plot]:
    """Lines in the plane of two metrics, of those that have a constraint: softmax's value and the least allowed."""
    lines: list[Plot] = []
    axes = dict(zip(searched.objectives, (("x", "y"), ("y", "x")), strict=True))
    for metric, allowed in searched.constraints.items():
        if metric not in axes:
            continue
        (axis, across), base = axes[metric], 100 * searched.reference[metric]
        least = base - 100 * allowed
        for name, value, dash in ((f"softmax, {metric}", base, "dash"), (f"least {metric} allowed", least, "dot")):
            at = round(value, 3)
            ends = {f"{axis}0": at, f"{axis}1": at, f"{across}0": 0, f"{across}1": 1, f"{across}ref": "paper"}
            line = {"color": INK[0], "width": 1, "dash": dash}
            lines.append({"type": "line", "name": name, "showlegend": True, "line": line, **ends})
    return lines


def _told(trial: Trial, metric: str, spread: float) -> str:
    found = "<br>".join(f"{plain(short(path))} {plain(number(value))}" for path, value in trial.found.items())
    return f"{found}<br>{metric} {plus_minus(100 * trial.value(metric), spread)} %"
