"""What the page shows as figures: each block with its heading, its caption and its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from tune_lt.report.page import norm_plots, plots, search_plots
from tune_lt.report.page.plots import Plot, Style
from tune_lt.report.tables.summary import with_classes

if TYPE_CHECKING:
    from tune_lt.report.collect import Report


@dataclass(frozen=True)
class Block:
    """One or more figures below a heading.

    ``variants``: the figures by the label under which a reader chooses them. ``of_rows``: every trace is one row's, so
    that a reader can hide rows.
    """

    id: str
    title: str
    caption: str
    variants: Mapping[str, Sequence[Plot]]
    of_rows: bool = False


def row_blocks(report: Report, styles: Mapping[str, Style]) -> list[Block]:
    """The figures of rows, with variants for each imbalance factor; a block may be without any."""
    curves = report.recorded.curves
    sizes = {
        variant(report, factor, name): [plots.class_sizes(with_classes(own), styles, by_images=by_images)]
        for factor, own in by_factor(report.frame)
        for name, by_images in (("by rank", False), ("by training images", True))
    }
    trades = {
        variant(report, factor): [trade]
        for factor, own in by_factor(report.frame)
        if (trade := plots.trade_off(own, styles))
    }
    lines = {
        variant(report, factor, metric): [plots.learning(curves[metric, factor], styles, metric)]
        for metric, factor in sorted(curves, key=lambda key: (-(key[1] or 0), key[0]))
    }
    left_out = report.recorded.left_out
    rest = f" {left_out} more histories are left out to keep the page small." if left_out else ""
    fewer = len(report.by_class) < len(report.frame)
    some = " There are so many runs that only the first ones of each row are drawn." if fewer else ""
    return [
        Block(
            "sizes",
            "Accuracy by class size",
            "The classes from the most training images to the fewest; if there are too many, neighbours are averaged. "
            f"Mean over a row's runs, the band is ± one standard deviation.{some}",
            sizes,
            True,
        ),
        Block(
            "trade",
            "Head against tail",
            "Each row's mean on the largest classes and on the smallest, ± one standard deviation. The dotted line "
            "joins the rows that no other beats in one without losing in the other.",
            trades,
            True,
        ),
        Block("learning", "Learning curves", f"The run of each row's first seed.{rest}", lines, True),
    ]


def search_blocks(report: Report) -> list[Block]:
    """The figures of the searches, with a variant for each; a block may be without any."""
    shares = {one.name: search_plots.importances(one) for one in report.searches}
    without = ", ".join(name for name, one in shares.items() if not one)
    few = f"fewer than {search_plots.FEWEST_TRIALS} trials are complete, or its values do not differ"
    reason = f" No importance of hyper-parameters for {without}: {few}." if without else ""
    metrics = ", ".join(dict.fromkeys(one.metric for one in report.searches))
    return [
        Block(
            "search",
            "What was searched",
            f"{metrics} on held-out training images, mean ± standard error over folds and seeds. Star: the best "
            "mean; the band below it is one standard error. Diamond: the one-standard-error choice. Hollow: a stopped "
            "trial at its mean so far, or a triangle where that is below the axis. Tick: a failed trial. Cross: a "
            f"trial that breaks a constraint.{reason}",
            {one.name: search_plots.curves(one) for one in report.searches if one.dimensions()},
        ),
        Block(
            "pareto",
            "Two metrics of the search",
            "Every complete trial. The line joins the front, ± one standard error: the trials that no other beats in "
            "one metric without losing in the other.",
            {one.name: [search_plots.pareto(one)] for one in report.searches if len(one.objectives) > 1},
        ),
        Block(
            "importance",
            "Which hyper-parameters matter",
            "The share of the metric's variance over the complete trials that each explains, by fANOVA (Hutter et al. "
            "2014) in Optuna's implementation.",
            {name: [search_plots.importance(one)] for name, one in shares.items() if one},
        ),
    ]


def norm_block(report: Report) -> Block:
    """The paper's Figure 2, with a variant for each row that recorded its gradient norms; the searched row first."""
    variants = {
        variant(report, factor, row): norm_plots.norms(norms[row])
        for factor, norms in sorted(report.recorded.norms.items(), key=lambda one: -(one[0] or 0))
        for row in sorted(report.rows, key=lambda row: row not in report.shown[-1:])
        if row in norms
    }
    caption = (
        "How often a gradient norm g occurs on the training images after the last epoch (the paper's Figure 2), for "
        "the run of the row's first seed; outlined: the mean density over each unit region."
    )
    return Block("norms", "Gradient norms and unit regions", caption, variants)


def by_factor(frame: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """The imbalance factors with the lines of each, the largest first."""
    return [] if frame.empty else list(frame.groupby("imbalance", dropna=False))[::-1]


def variant(report: Report, factor: float | None, *names: str) -> str:
    """A label of the ``names``, which begins with the imbalance factor if the study has several."""
    several = report.frame["imbalance"].nunique() > 1
    return ", ".join([*([f"imbalance {factor:g}"] if several else []), *names])
