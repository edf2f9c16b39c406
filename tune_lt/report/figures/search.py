"""Figures of a search: its metric against each searched dimension, and the Pareto front of two metrics."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tune_lt.report.points import plain
from tune_lt.report.tables.searches import Searched, error, finite_units
from tune_lt.run.search.selection import Ended
from tune_lt.texts import number, short

# Okabe & Ito's palette, as in the other figures; the groups differ in their markers, too
_TRIAL, _PRUNED, _BROKEN, _BEST, _PLAIN, _FRONT = "#0072B2", "#808080", "#CC79A7", "#D55E00", "#009E73", "#0072B2"
_LOG_SPAN = 50  # a dimension whose values span more has a logarithmic axis
_ACROSS = 3  # panels side by side
_COLUMN = 0.6  # width that a choice's trials are spread over
_TICKS = 10  # at most where every value of a dimension gets one
_GOLDEN = (math.sqrt(5) - 1) / 2


def curve(searched: Searched) -> Figure:
    """The first metric in percent against each searched dimension; trials are points, ± one standard error.

    Trials that were stopped are hollow, at their mean so far, at the lower edge where that lies far below the others;
    failed ones are ticks on the axis. The band reaches from the best mean to one standard error from it. A choice has a
    column for each value. With one numeric dimension alone a line joins the means.
    """
    dimensions = searched.dimensions()
    if len(dimensions) == 1:
        rows, across, size = 1, 1, (8.0, 5.0)
    else:
        across = 2 if len(dimensions) == 4 else min(len(dimensions), _ACROSS)
        rows = math.ceil(len(dimensions) / across)
        size = (3.8 * max(across, 2), 3.2 * rows + 0.9)
    figure = _figure(f"Search of {searched.name}: {searched.metric}, held-out images", size)
    limits = limits_of(searched)
    shared: Axes | None = None
    for index, path in enumerate(dimensions):
        axes = figure.add_subplot(rows, across, index + 1, sharey=shared)
        shared = shared or axes
        _panel(axes, searched, path, limits, alone=len(dimensions) == 1)
        several = any(math.isfinite(error(point, searched.metric)) for point in searched.points)
        unit = "(%), mean ± standard error" if several else "(%)"
        axes.set_ylabel(f"{searched.metric} {unit}" if index % across == 0 else "", fontsize=9)
        axes.tick_params(labelleft=index % across == 0)
    _legend(figure)
    return figure


def pareto(searched: Searched) -> Figure:
    """Both metrics of every trial in percent, the front joined; what breaks a constraint is crossed out.

    Softmax on the same images is a point where both of its metrics are recorded; where a metric has a constraint, a
    line is at softmax's value and another at the least allowed.
    """
    first, second = searched.search.objectives
    title = [f"Search of {searched.name}: {first} against {second}, held-out images", *_limits_kept(searched)]
    figure = _figure("\n".join(title), (7.5, 6.0))
    axes = figure.add_subplot()

    def place(trial: Ended) -> tuple[float, float]:
        return 100 * trial.value(first), 100 * trial.value(second)

    groups = groups_of(searched)
    for label, style in _STYLES.items():
        points = [place(trial) for trial in groups.get(label, ())]
        points = [point for point in points if all(map(math.isfinite, point))]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="none", label=f"{label} ({len(points)})", **style)
    front = [place(trial) for trial in searched.front]
    if front:
        x, y = map(list, zip(*front, strict=True))
        wide, high = ([_shown_error(trial, metric) for trial in searched.front] for metric in (first, second))
        if any(wide + high):
            axes.errorbar(x, y, xerr=wide, yerr=high, ecolor=_FRONT, label="± one standard error", **_BARS)
        axes.plot(x, y, color=_FRONT, linewidth=1.5, zorder=2, label=f"Pareto front ({len(front)})")
    axes.plot(*place(searched.best), **_MARKED, color=_BEST, marker="*", markersize=15, label=_best_label(searched))
    if {first, second} <= searched.reference.keys():
        at = [100 * searched.reference[metric] for metric in (first, second)]
        axes.plot(*at, **_MARKED, color="black", marker="s", markersize=9, label="softmax")
    limits = {str(name): allowed for name, allowed in searched.search.constraints.items()}
    for metric, line in ((first, axes.axvline), (second, axes.axhline)):
        if metric in limits:
            base, least = searched.reference[metric], searched.reference[metric] - limits[metric]
            line(100 * base, color="black", linestyle="--", linewidth=1, zorder=1, label=f"softmax, {metric}")
            line(100 * least, color="black", linestyle=":", linewidth=1, zorder=1, label=f"least {metric} allowed")
    axes.set_xlabel(f"{first} (%)")
    axes.set_ylabel(f"{second} (%)")
    _frame(axes)
    axes.grid(color="#B0B0B0", linewidth=0.5, alpha=0.6)
    _legend(figure)
    return figure


_STYLES: dict[str, dict[str, Any]] = {
    "complete": {"color": _TRIAL, "marker": "o", "markersize": 5, "zorder": 3},
    "breaks a constraint": {"color": _BROKEN, "marker": "x", "markersize": 6, "zorder": 3},
    "stopped, mean so far": {"color": _PRUNED, "marker": "o", "markersize": 5, "fillstyle": "none", "zorder": 2},
}
_BARS: dict[str, Any] = {"fmt": "none", "elinewidth": 0.9, "alpha": 0.6, "zorder": 1}
_MARKED: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.8, "zorder": 5}


def _limits_kept(searched: Searched) -> list[str]:
    """What the constraints ask for, in a line."""
    limits = [
        f"{metric} at least {100 * (searched.reference[metric] - allowed):.2f} %"
        f" (softmax {100 * searched.reference[metric]:.2f} less {100 * allowed:g})"
        for metric, allowed in searched.search.constraints.items()
    ]
    return ["constraint: " + ", ".join(limits)] if limits else []


def groups_of(searched: Searched) -> dict[str, list[Ended]]:
    """The trials that have a value, by how they are drawn."""
    groups: dict[str, list[Ended]] = defaultdict(list)
    for point in searched.points:
        if not math.isfinite(point.value(searched.metric)):
            continue
        if point.outcome == "complete":
            groups["breaks a constraint" if searched.violation(point) > 0 else "complete"].append(point)
        elif point.outcome == "pruned":
            groups["stopped, mean so far"].append(point)
    return dict(groups)


def _panel(axes: Axes, searched: Searched, path: str, limits: tuple[float, float], *, alone: bool) -> None:
    metric, low = searched.metric, limits[0]
    at, choices = _scale(axes, searched, path)
    best, spread = 100 * searched.best.value(metric), 100 * error(searched.best, metric)
    if math.isfinite(spread) and len(searched.search.objectives) == 1:
        axes.axhspan(
            best - spread,
            best,
            color=_BEST,
            alpha=0.12,
            linewidth=0,
            label="within one standard error of the best",
        )
    groups = {
        label: [trial for trial in trials if path in trial.found] for label, trials in groups_of(searched).items()
    }
    if alone and not choices:
        _joined(axes, groups.get("complete", []), path, metric)
    for label, style in _STYLES.items():
        trials = groups.get(label, [])
        x, y = [at(trial) for trial in trials], [100 * trial.value(metric) for trial in trials]
        inside = [index for index, value in enumerate(y) if value >= low]
        for index in inside:
            bar = _shown_error(trials[index], metric)
            axes.errorbar(x[index], y[index], bar, ecolor=style["color"], capsize=2, **_BARS)
        if inside:
            axes.plot([x[i] for i in inside], [y[i] for i in inside], linestyle="none", label=label, **style)
        if below := [x[index] for index, value in enumerate(y) if value < low]:
            edge = {**style, "marker": "v", "clip_on": False}
            axes.plot(below, [low] * len(below), linestyle="none", label=f"{label}: below the axis", **edge)
    failed = [at(point) for point in searched.points if point.outcome == "failed" and path in point.found]
    if failed:
        axes.plot(
            failed, [low] * len(failed), color="black", marker="|", markersize=12, linestyle="none", label="failed"
        )
    if searched.plain is not None and path in searched.plain.found:
        axes.plot(
            at(searched.plain), 100 * searched.plain.value(metric), linestyle="none", markeredgewidth=2, zorder=4,
            color=_PLAIN, marker="D", markersize=15, fillstyle="none", label="one-standard-error choice",
        )  # fmt: skip
    if path in searched.best.found:
        axes.plot(
            at(searched.best), best, **_MARKED, color=_BEST, marker="*", markersize=15, label=_best_label(searched)
        )
    axes.set_xlabel(plain(short(path)))
    axes.set_ylim(*limits)
    _frame(axes)


def places_of(searched: Searched, path: str) -> tuple[dict[int, float], list[str]]:
    """Where trials stand on a dimension's axis, by their id(), and the names of its choices where those are no numbers.

    A choice has a column around its index, in which its trials are spread.
    """
    trials = [point for point in searched.points if path in point.found]
    values = [trial.found[path] for trial in trials]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {id(trial): float(value) for trial, value in zip(trials, values, strict=True)}, []
    choices = sorted(dict.fromkeys(values), key=lambda value: (str(type(value)), value is True, str(value)))
    places = {}
    for column, value in enumerate(choices):
        members = [trial for trial, own in zip(trials, values, strict=True) if own == value]
        for index, trial in enumerate(members):  # multiples of the golden ratio keep neighbours apart
            places[id(trial)] = column + _COLUMN * ((index * _GOLDEN + 0.5) % 1 - 0.5)
    return places, [_choice(value) for value in choices]


def _scale(axes: Axes, searched: Searched, path: str) -> tuple[Callable[[Ended], float], list[str]]:
    """Where a trial is drawn on a dimension's axis, and the dimension's choices where those are no numbers."""
    places, choices = places_of(searched, path)
    if choices:
        axes.set_xticks(range(len(choices)), [plain(choice) for choice in choices])
        axes.set_xlim(-0.6, len(choices) - 0.4)
    else:
        values = set(places.values())
        if spans_decades(values):
            axes.set_xscale("log")
        elif len(values) <= _TICKS:
            axes.set_xticks(sorted(values))
    return (lambda trial: places[id(trial)]), choices


def spans_decades(values: Iterable[float]) -> bool:
    """Whether numbers want a logarithmic axis."""
    some = list(values)
    return min(some) > 0 and max(some) > _LOG_SPAN * min(some)


def _choice(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else number(value)


def _joined(axes: Axes, trials: Sequence[Ended], path: str, metric: str) -> None:
    """A line through the means of the trials at each value."""
    x, y = means_at(trials, path, metric)
    axes.plot(x, y, color=_TRIAL, linewidth=1.2, zorder=2)


def means_at(trials: Sequence[Ended], path: str, metric: str) -> tuple[list[float], list[float]]:
    """The values of a numeric dimension, rising, and the mean of the trials at each, in percent."""
    means: dict[float, list[float]] = defaultdict(list)
    for trial in trials:
        means[float(trial.found[path])].append(100 * trial.value(metric))
    x = sorted(means)
    return x, [float(np.mean(means[value])) for value in x]


def limits_of(searched: Searched) -> tuple[float, float]:
    """The vertical axis: all of the complete trials, stopped ones as far as they do not press those together."""
    groups = groups_of(searched)
    stopped = [100 * trial.value(searched.metric) for trial in groups.pop("stopped, mean so far", [])]
    ends = [
        100 * trial.value(searched.metric) + sign * _shown_error(trial, searched.metric)
        for trials in groups.values()
        for trial in trials
        for sign in (-1, 1)
    ]
    low, high = min(ends), max(ends)
    height = max(high - low, 1.0)
    low = min([low, *(value for value in stopped if value >= low - height)])
    high = max([high, *stopped])
    return low - 0.08 * height, high + 0.08 * height


def _shown_error(trial: Ended, metric: str) -> float:
    spread = 100 * error(trial, metric)
    return spread if math.isfinite(spread) else 0.0


def _best_label(searched: Searched) -> str:
    n = finite_units(searched.best, searched.metric)
    both = "best mean of both" if len(searched.search.objectives) > 1 else "best mean"
    return f"{both} ({n} units)" if n > 1 else both


def _figure(title: str, size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(plain(title), fontsize=11)
    return figure


def _frame(axes: Axes) -> None:
    axes.grid(axis="y", color="#B0B0B0", linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure) -> None:
    """One legend below all panels, each label once."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "markerscale": 0.7, "labelspacing": 0.6}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, **style)
