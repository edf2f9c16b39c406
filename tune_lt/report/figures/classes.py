"""The figure of accuracy by class size. It uses matplotlib's objects, not pyplot, which keeps global state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune_lt.report.figures import plain
from tune_lt.report.points import Classes
from tune_lt.report.tables.summary import runs_of

# Okabe & Ito's palette, which colour-blind readers can tell apart; the markers help in black and white
_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)
_TICKS = 12  # at most
_SHORT = 10  # characters of the longest class name that fits below a tick


def accuracy_by_class_size(frame: pd.DataFrame, rows: Sequence[str], title: str) -> Figure:
    """Accuracy over the classes from head to tail, a line for each of ``rows``; more than four are hard to read.

    ``frame`` has one line per run, with the columns that `tune_lt.report.collect.collect` names. x: classes by falling
    number of training images, which bars show on the right, logarithmic axis. y: accuracy in percent, mean over the
    runs with a band of ± one standard deviation (n - 1). With more than 30 classes a point is the mean over
    neighbouring classes, and the axis says so. Repeated runs count once. A row without runs is in the legend and has no
    line; a class without test images leaves a gap. Raises ValueError if runs had different class sizes.
    """
    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    figure.suptitle(plain(title), fontsize=12)
    runs = {row: runs_of(frame, row) for row in rows}
    drawn = [lines for lines in runs.values() if len(lines)]
    if not drawn:
        axes.text(0.5, 0.5, "no finished runs", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return figure
    classes = _common_classes(pd.concat(drawn))
    _draw_sizes(axes, classes)
    for index, (row, lines) in enumerate(runs.items()):
        label = f"{plain(row)} ({len(lines) or 'no'} run{'' if len(lines) == 1 else 's'})"
        _draw_row(axes, label, lines, classes, _STYLES[index % len(_STYLES)])
    _label(axes, classes)
    one_line = sum(len(row) + 15 for row in rows) <= 120  # characters across the figure
    columns = len(rows) if one_line else (len(rows) + 1) // 2 if max(map(len, rows)) <= 45 else 1
    # without labels it leaves out a row whose name begins with _
    labels = [str(line.get_label()) for line in axes.get_lines()]
    figure.legend(axes.get_lines(), labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def _common_classes(runs: pd.DataFrame) -> Classes:
    if len({tuple(counts) for counts in runs["class_counts"]}) > 1:
        raise ValueError("accuracy by class size: the runs were trained on different numbers of images per class")
    return Classes.of(runs.iloc[0])


def _draw_row(axes: Axes, label: str, runs: pd.DataFrame, classes: Classes, style: tuple[str, str]) -> None:
    colour, marker = style
    x = np.arange(len(classes.groups))
    mean, std = classes.mean_and_std(runs["per_class"])
    if len(runs) > 1:
        axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=colour, marker=marker, markersize=5 if len(x) <= 20 else 3, linewidth=1.8, label=label)


def _draw_sizes(axes: Axes, classes: Classes) -> None:
    sizes = axes.twinx()
    sizes.bar(np.arange(len(classes.sizes)), classes.sizes, width=0.85, color="#E4E4E4")
    sizes.set_yscale("log")
    # room below and above: the smallest class has a visible bar, the tallest bar does not reach the lines
    sizes.set_ylim(max(classes.sizes.min(), 1) / 3, max(classes.sizes.max(), 1) * 3)
    sizes.set_ylabel("training images per class (bars, log)", color="#707070")
    sizes.tick_params(axis="y", which="both", colors="#707070")
    sizes.yaxis.set_major_formatter("{x:g}")
    sizes.spines[:].set_visible(False)
    axes.set_zorder(sizes.get_zorder() + 1)
    axes.patch.set_visible(False)


def _label(axes: Axes, classes: Classes) -> None:
    n = len(classes.groups)
    ticks = np.unique(np.linspace(0, n - 1, min(n, _TICKS)).round().astype(int))
    named = n == len(ticks) and max(map(len, classes.names)) <= _SHORT
    labels = [f"{classes.sizes[tick]:.0f}" for tick in ticks]
    if named:
        labels = [f"{label}\n{plain(classes.names[tick])}" for tick, label in zip(ticks, labels, strict=True)]
    axes.set_xticks(ticks, labels, fontsize=8)
    what = "training images" + (" and name" if named else "")
    axes.set_xlabel(f"classes from head to tail: {what}{_means(classes)}")
    axes.set_ylabel("accuracy (%), mean ± std over runs")
    axes.set_ylim(-2, 102)
    axes.set_xlim(-0.6, n - 0.4)
    axes.grid(axis="y", color="#B0B0B0", linewidth=0.5, alpha=0.6)
    axes.spines[["top", "left", "right"]].set_visible(False)


def _means(classes: Classes) -> str:
    members = sorted({len(group) for group in classes.groups})
    if members == [1]:
        return ""
    return f"; a point is the mean of {' or '.join(map(str, members))} of the {sum(map(len, classes.groups))} classes"
