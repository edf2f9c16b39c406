"""The page's figures of a search, for plotly.js: its metric against each hyper-parameter, the importance of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from tune_lt.documents import SearchResult, Trial
from tune_lt.report.page.plots import BAR, INK, PALETTE, QUIET, Plot, layout, plain, rounded, tint
from tune_lt.report.tables.sheet import plus_minus
from tune_lt.texts import number, short

FEWEST_TRIALS = 10  # with fewer an importance is noise
MOST_TRIALS = 300  # the random forest behind an importance takes long over more
_LOG_RATIO = 50  # an axis is logarithmic if the largest value is more than this many times the smallest
_COLUMN = 0.6  # the width over which the trials with one value of a choice are spread
_GOLDEN = (math.sqrt(5) - 1) / 2
_BLUE, _RED, _GREEN, _PURPLE = (PALETTE[index][0] for index in range(4))
_COMPLETE, _FORBIDDEN, _STOPPED = "complete", "breaks a constraint", "stopped, mean so far"  # as in the legend
_MARKERS: dict[str, Plot] = {
    _COMPLETE: {"color": _BLUE, "symbol": "circle", "size": 7},
    _FORBIDDEN: {"color": _PURPLE, "symbol": "x", "size": 8},
    _STOPPED: {"color": QUIET[0], "symbol": "circle-open", "size": 7},
}
_BEST: Plot = {"color": _RED, "symbol": "star", "size": 14}


def curves(searched: SearchResult) -> list[Plot]:
    """The first metric in percent against each searched hyper-parameter; a point is a trial, ± one standard error.

    A stopped trial is hollow, at its mean so far; where that lies far below the other trials, it is a triangle at the
    lower edge. A failed trial is a tick at that edge. The band reaches from the best mean to one standard error below
    it. Each value of a choice has a column of its own. Where one numeric hyper-parameter was searched, a line joins
    the means.
    """
    return [_dimension(searched, path) for path in searched.dimensions()]


def pareto(searched: SearchResult) -> Plot:
    """Both metrics of every complete trial in percent. A line joins the Pareto front; a cross breaks a constraint.

    A square is softmax on the same images, where both of its metrics are known. A metric with a constraint has two
    lines: softmax's value and the lowest value that the constraint allows.
    """
    first, second = searched.objectives

    def points(label: str, trials: Sequence[Trial], marker: Plot, **more: Any) -> Plot:
        return _points(label, trials, rounded(_percent(trials, first)[0]), searched.objectives, marker, **more)

    groups = _groups(searched)
    traces = [points(label, groups[label], _MARKERS[label]) for label in (_COMPLETE, _FORBIDDEN) if groups[label]]
    front = sorted(searched.front, key=lambda trial: trial.value(first))
    bars = {
        f"error_{axis}": {"array": rounded(_percent(front, metric)[1]), "thickness": 1, "width": 2}
        for axis, metric in (("x", first), ("y", second))
    }
    line = {"color": _BLUE, "width": 1.5}
    traces.append(points("Pareto front", front, {"color": _BLUE, "size": 9}, mode="lines+markers", line=line, **bars))
    traces.append(points("best mean of both", [searched.best], _BEST))
    if {first, second} <= searched.reference.keys():
        softmax = Trial({}, "complete", searched.reference)
        traces.append(points("softmax", [softmax], {"color": INK[0], "symbol": "square", "size": 10}))
    return {
        "data": traces,
        "layout": layout(f"{first} (%)", f"{second} (%)", showlegend=True, shapes=_constraint_lines(searched)),
    }


def importances(searched: SearchResult) -> dict[str, float]:
    """The share of the metric's variance over the complete trials that each hyper-parameter explains.

    Computed by fANOVA (Hutter et al. 2014), from a random forest of fixed seed on at most `MOST_TRIALS` trials, which
    are spread evenly over the search. Empty with fewer than `FEWEST_TRIALS` complete trials, and where no
    hyper-parameter is in all of them with more than one value.
    """
    metric = searched.metric
    complete = [one for one in searched.points if one.outcome == "complete" and math.isfinite(one.value(metric))]
    if len(complete) < FEWEST_TRIALS:
        return {}
    if len(complete) > MOST_TRIALS:
        complete = [complete[index] for index in np.linspace(0, len(complete) - 1, MOST_TRIALS).astype(int)]
    shared = [path for path in searched.dimensions() if all(path in trial.found for trial in complete)]
    varied = [path for path in shared if len({repr(trial.found[path]) for trial in complete}) > 1]
    if not varied or len({trial.value(metric) for trial in complete}) == 1:
        return {}
    spaces = {path: _distribution([trial.found[path] for trial in complete]) for path in varied}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for trial in complete:
        values = {path: trial.found[path] for path in varied}
        study.add_trial(optuna.trial.create_trial(params=values, distributions=spaces, value=trial.value(metric)))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def importance(shares: Mapping[str, float]) -> Plot:
    """The importances as horizontal bars, the greatest on top."""
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


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    """The range of numbers, or the choice among other values. fANOVA treats integers and logarithms no differently."""
    if _numeric(values):
        return FloatDistribution(min(values), max(values))
    return CategoricalDistribution(list(dict.fromkeys(values)))


def _dimension(searched: SearchResult, path: str) -> Plot:
    metric = searched.metric
    low, high = _limits(searched)
    places, choices = _places(searched, path)
    groups = {label: [one for one in some if path in one.found] for label, some in _groups(searched).items()}
    traces: list[Plot] = []
    if not choices and len(searched.dimensions()) == 1:
        complete = groups[_COMPLETE]
        values = pd.Series(_percent(complete, metric)[0], index=[places[id(trial)] for trial in complete])
        means = values.groupby(level=0).mean()
        line = {"color": _BLUE, "width": 1.2}
        ends = {"x": means.index.tolist(), "y": rounded(means)}
        traces.append({**ends, "mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False})
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
    elif 0 < min(places.values()) < max(places.values()) / _LOG_RATIO:
        axis = {"type": "log"}
    how = layout(plain(short(path)), f"{metric} (%)", xaxis=axis, yaxis={"range": [low, high]}, shapes=_band(searched))
    # cliponaxis False: marks at the edge are drawn whole
    return {"data": [{"type": "scatter", "cliponaxis": False, **trace} for trace in traces], "layout": how}


def _groups(searched: SearchResult) -> dict[str, list[Trial]]:
    """The trials that have a value, by how they are drawn: a list for each name in `_MARKERS`."""
    known = [trial for trial in searched.points if math.isfinite(trial.value(searched.metric))]
    complete = [trial for trial in known if trial.outcome == "complete"]
    return {
        _COMPLETE: [trial for trial in complete if searched.violation(trial) == 0],
        _FORBIDDEN: [trial for trial in complete if searched.violation(trial) > 0],
        _STOPPED: [trial for trial in known if trial.outcome == "pruned"],
    }


def _percent(trials: Sequence[Trial], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Each trial's mean of a metric and its standard error, both in percent."""
    means = np.array([trial.value(metric) for trial in trials], dtype=float)
    return 100 * means, 100 * np.array([trial.standard_error(metric) for trial in trials], dtype=float)


def _limits(searched: SearchResult) -> tuple[float, float]:
    """The ends of the vertical axis. Every complete trial is on it; a stopped one only if it lies not too far below.

    Otherwise one bad trial would press all complete trials together at the top.
    """
    groups = _groups(searched)
    stopped, _ = _percent(groups[_STOPPED], searched.metric)
    values, errors = _percent(groups[_COMPLETE] + groups[_FORBIDDEN], searched.metric)
    errors = np.nan_to_num(errors)
    low, high = float((values - errors).min()), float((values + errors).max())
    height = max(high - low, 1.0)
    low = min([low, *(value for value in stopped if value >= low - height)])
    return low - 0.08 * height, max([high, *stopped]) + 0.08 * height


def _places(searched: SearchResult, path: str) -> tuple[dict[int, float], list[str]]:
    """Each trial's place on a hyper-parameter's axis, by its id(), and the names of the choices where it is no number.

    A choice has a column around its index, over which its trials are spread.
    """
    values = {id(trial): trial.found[path] for trial in searched.points if path in trial.found}
    if _numeric(values.values()):
        return {trial: float(value) for trial, value in values.items()}, []
    choices = sorted(dict.fromkeys(values.values()), key=lambda value: (str(type(value)), str(value)))
    places = {}
    for column, choice in enumerate(choices):
        members = [trial for trial, value in values.items() if value == choice]
        for index, trial in enumerate(members):  # multiples of the golden ratio keep neighbours apart
            places[trial] = column + _COLUMN * ((index * _GOLDEN + 0.5) % 1 - 0.5)
    return places, [_choice(value) for value in choices]


def _numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _choice(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else number(value)


def _points(
    label: str, trials: Sequence[Trial], x: Sequence[Any], metrics: Sequence[str], marker: Plot, **more: Any
) -> Plot:
    """Trials as points at ``x`` and at the last of the ``metrics``; ``more`` has precedence.

    The text under the pointer has what the trial tried, then each metric ± its standard error.
    """
    texts = []
    for trial in trials:
        lines = [f"{plain(short(path))} {plain(number(value))}" for path, value in trial.found.items()]
        for metric in metrics:
            (mean,), (error,) = _percent([trial], metric)
            lines.append(f"{metric} {plus_minus(mean, error)} %")
        texts.append("<br>".join(lines))
    y = rounded(_percent(trials, metrics[-1])[0])
    hover = {"text": texts, "hovertemplate": f"%{{text}}<extra>{label}</extra>"}
    return {"type": "scatter", "mode": "markers", "name": label, "x": x, "y": y, "marker": marker, **hover, **more}


def _trials(metric: str, label: str, trials: Sequence[Trial], places: Mapping[int, float], low: float) -> Plot:
    """Trials as points with error bars; one below ``low`` is a triangle there, without a bar."""
    values, errors = _percent(trials, metric)
    marker = _MARKERS[label]
    symbols = np.where(values >= low, marker["symbol"], "triangle-down-open").tolist()
    bars = {
        "array": rounded(np.where(values >= low, errors, math.nan)),
        "color": tint(marker["color"], BAR),
        "thickness": 1,
        "width": 2,
    }
    x, y = [places[id(trial)] for trial in trials], rounded(np.maximum(values, low))
    return _points(label, trials, x, [metric], {**marker, "symbol": symbols}, y=y, error_y=bars)


def _chosen(searched: SearchResult, path: str, places: Mapping[int, float]) -> list[Plot]:
    """The marks of the best mean and of the one-standard-error choice."""
    plainest = {"color": _GREEN, "symbol": "diamond-open", "size": 15, "line": {"width": 2}}
    best = "best mean of both" if len(searched.objectives) > 1 else "best mean"
    marked = (("one-standard-error choice", searched.plain, plainest), (best, searched.best, _BEST))
    return [
        _points(label, [trial], [places[id(trial)]], [searched.metric], marker)
        for label, trial, marker in marked
        if trial is not None and path in trial.found
    ]


def _band(searched: SearchResult) -> list[Plot]:
    """The band from the best mean to one standard error below it; none where two metrics are searched."""
    (best,), (error,) = _percent([searched.best], searched.metric)
    if math.isnan(error) or len(searched.objectives) > 1:
        return []
    ends = {"y0": round(best, 3), "y1": round(best - error, 3), "x0": 0, "x1": 1}
    return [{"type": "rect", "xref": "paper", "layer": "below", "line": {"width": 0}, "fillcolor": tint(_RED), **ends}]


def _constraint_lines(searched: SearchResult) -> list[Plot]:
    """For each of the two metrics that has a constraint: a line at softmax's value, one at the lowest value allowed."""
    lines: list[Plot] = []
    for metric, axis, across in zip(searched.objectives, "xy", "yx", strict=True):
        if metric not in searched.constraints:
            continue
        base = 100 * searched.reference[metric]
        lowest = base - 100 * searched.constraints[metric]
        for name, value, dash in ((f"softmax, {metric}", base, "dash"), (f"least {metric} allowed", lowest, "dot")):
            at = round(value, 3)
            ends = {f"{axis}0": at, f"{axis}1": at, f"{across}0": 0, f"{across}1": 1, f"{across}ref": "paper"}
            line = {"color": INK[0], "width": 1, "dash": dash}
            lines.append({"type": "line", "name": name, "showlegend": True, "line": line, **ends})
    return lines
