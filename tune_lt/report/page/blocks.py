"""What the page shows as figures: each block with its heading, its caption and its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from tune_lt.report.page import norm_plots, plots, search_plots
from tune_lt.report.page.plots import Plot, Style
from tune_lt.report.tables.summary import with_classes

if TYPE_CHECKING:
    from tune_lt.report.collect import Report


@dataclass(frozen=True)
class Block:
    """One or more figures below a heading.

    ``variants``: by the label to choose them by; ``of_rows``: a trace is a row's.
    """

    id: str
    title: str
    caption: str
    variants: Mapping[str, Sequence[Plot]]
    of_rows: bool = False


def row_blocks(report: Report, styles: Mapping[str, Style]) -> list[Block]:
    """The figures of rows, a variant for each imbalance factor."""
    sizes: dict[str, list[Plot]] = {}
    trades: dict[str, list[Plot]] = {}
    lines: dict[str, list[Plot]] = {}
    for factor, own in by_factor(report.frame):
        prefix = "" if factor is None else f"imbalance {factor:g}, "
        for label, by_images in (("by rank", False), ("by training images", True)):
            sizes[prefix + label] = [plots.class_sizes(with_classes(own), styles, by_images=by_images)]
        trade = plots.trade_off(own, styles)
        if trade:
            trades[prefix.removesuffix(", ")] = [trade]
    several = len({factor for _, factor in report.recorded.curves}) > 1
    for (metric, factor), curves in sorted(report.recorded.curves.items(), key=_hardest):
        label = f"imbalance {factor:g}, {metric}" if several and factor is not None else metric
        lines[label] = [plots.learning(curves, styles, metric)]
    left_out = report.recorded.left_out
    rest = f" {left_out} more histories are left out to keep the page small." if left_out else ""
    fewer = len(report.by_class) < len(report.frame)
    some = " Of so many runs only the first of each row are drawn." if fewer else ""
    found = [
        Block(
            "sizes",
            "Accuracy by class size",
            "The classes from the most training images to the fewest (too many of them: neighbours averaged); mean "
            f"over a row's runs, the band is ± one standard deviation.{some}",
            sizes,
            True,
        ),
        Block(
            "trade",
            "Head against tail",
            "Each row's mean on the largest classes and on the smallest, ± one standard deviation. Dotted: the rows "
            "that no other beats in one without losing in the other.",
            trades,
            True,
        ),
        Block("learning", "Learning curves", f"The run of each row's first seed.{rest}", lines, True),
    ]
    return [block for block in found if block.variants]


def search_blocks(report: Report) -> list[Block]:
    """The figures of the searches, a variant for each."""
    curves = {one.name: search_plots.curves(one) for one in report.searches if one.dimensions()}
    shares = {one.name: search_plots.importances(one) for one in report.searches}
    without = ", ".join(name for name, one in shares.items() if not one)
    few = f"fewer than {search_plots.FEWEST_TRIALS} trials are complete, or its values do not differ"
    reason = f" No importance of hyper-parameters for {without}: {few}." if without else ""
    metrics = ", ".join(dict.fromkeys(one.metric for one in report.searches))
    fronts = {one.name: [search_plots.pareto(one)] for one in report.searches if len(one.objectives) > 1}
    blocks = [
        Block(
            "search",
            "What was searched",
            f"{metrics} on held-out training images, mean ± standard error over folds and seeds. Star: the best "
            "mean, with the band of one standard error; diamond: the one-standard-error choice. Hollow: stopped, at "
            "the mean so far, a triangle where that is below the axis; ticks: failed; crosses: breaks a "
            f"constraint.{reason}",
            curves,
        ),
        Block(
            "pareto",
            "Two metrics of the search",
            "Every complete trial, ± one standard error on the front: the trials that no other beats in one metric "
            "without losing in the other.",
            fronts,
        ),
        Block(
            "importance",
            "Which hyper-parameters matter",
            "Share of the metric's variance over the complete trials that each explains, by fANOVA (Hutter et al. "
            "2014) in Optuna's implementation.",
            {name: [search_plots.importance(dict(one))] for name, one in shares.items() if one},
        ),
    ]
    return [block for block in blocks if block.variants]


def norm_blocks(report: Report) -> list[Block]:
    """The paper's Figure 2, a variant for each row that recorded its gradient norms; the searched row first."""
    variants: dict[str, list[Plot]] = {}
    several = len(report.recorded.norms) > 1
    first = report.shown[-1:]
    for factor, rows in sorted(report.recorded.norms.items(), key=lambda item: -(item[0] or 0)):
        for row in sorted(rows, key=lambda row: (row not in first, report.rows.index(row))):
            label = f"{row}, imbalance {factor:g}" if several and factor is not None else row
            variants[label] = norm_plots.norms(rows[row])
    if not variants:
        return []
    caption = (
        "How often a gradient norm g occurs on the training images after the last epoch (the paper's Figure 2), for "
        "the run of the row's first seed; outlined: the mean density over each unit region."
    )
    return [Block("norms", "Gradient norms and unit regions", caption, variants)]


def _hardest(item: tuple[tuple[str, float | None], object]) -> tuple[float, str]:
    metric, factor = item[0]
    return -(factor or 0), metric


def by_factor(frame: pd.DataFrame) -> list[tuple[float | None, pd.DataFrame]]:
    """The frame's parts by imbalance factor, the hardest first; the factor is None where there is only one."""
    if frame.empty:
        return []
    factors = sorted(set(frame["imbalance"].dropna()), reverse=True)
    if len(factors) < 2:
        return [(None, frame)]
    return [(float(factor), frame[frame["imbalance"] == factor]) for factor in factors]
