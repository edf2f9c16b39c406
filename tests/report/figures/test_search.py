"""What the figures of a search show, read from their objects."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from math import nan

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tune_lt.documents import SearchResult, Trial
from tune_lt.report.figures import search

pytestmark = pytest.mark.filterwarnings("error")

Make = Callable[..., Trial]


def searched(
    points: list[Trial],
    best: int,
    plain: int | None = None,
    front: tuple[int, ...] = (),
    reference: Mapping[str, float] | None = None,
    metric: str | tuple[str, ...] = "val/balanced",
    constraints: Mapping[str, float] | None = None,
) -> SearchResult:
    chosen = points[plain] if plain is not None else None
    ends = tuple(points[index] for index in front)
    objectives = (metric,) if isinstance(metric, str) else metric
    limits = constraints or {}
    return SearchResult(
        "ghm_cwap", "", len(points), objectives, limits, reference or {}, tuple(points), points[best], chosen, ends
    )


def drawn(axes: Axes, label: str) -> list[tuple[float, float]]:
    """The points drawn under a label, rounded, from left to right."""
    lines = [line for line in axes.lines if line.get_label() == label]
    points = [point for line in lines for point in np.asarray(line.get_xydata(), dtype=float).round(6).tolist()]
    return sorted((x, y) for x, y in points)


def bars(axes: Axes) -> list[tuple[float, float, float]]:
    """The error bars that have a length: x, low end, high end."""
    found = []
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            for (x, low), (_, high) in np.asarray(collection.get_segments(), dtype=float).round(6).tolist():
                found += [(x, low, high)] if high > low else []
    return sorted(found)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def one_dimension(alpha_trials: list[Trial]) -> Axes:
    """0.6 is best, 1.0 the choice by the rule, 0.8 stopped at 71, far below both, 0.4 failed."""
    figure = search.curve(searched(alpha_trials, 0, 1))
    assert png(figure)
    (axes,) = figure.axes
    return axes


def test_complete_trials_are_joined_in_order_with_their_errors(one_dimension: Axes) -> None:
    assert drawn(one_dimension, "complete") == [(0.6, 80), (1.0, 79.5)]
    (joined,) = [line for line in one_dimension.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]  # type: ignore[arg-type]
    assert np.asarray(joined.get_xydata()).tolist() == [pytest.approx([0.6, 80]), pytest.approx([1.0, 79.5])]
    se = 0.5**0.5  # √2.5 / √5 points
    assert bars(one_dimension) == [
        pytest.approx((0.6, 80 - se, 80 + se), abs=1e-5),
        pytest.approx((1.0, 79.5 - se, 79.5 + se), abs=1e-5),
    ]


def test_stopped_trials_are_hollow_and_failed_ones_on_the_axis(one_dimension: Axes) -> None:
    (stopped,) = [line for line in one_dimension.lines if str(line.get_label()).startswith("stopped")]
    assert stopped.get_fillstyle() == "none"
    assert [x for x, _ in drawn(one_dimension, str(stopped.get_label()))] == [0.8]
    assert drawn(one_dimension, "failed") == [(0.4, pytest.approx(one_dimension.get_ylim()[0]))]


def test_both_choices_and_the_band_between(one_dimension: Axes) -> None:
    assert drawn(one_dimension, "best mean (5 units)") == [(0.6, 80)]
    assert drawn(one_dimension, "one-standard-error choice") == [(1.0, 79.5)]
    (band,) = [patch for patch in one_dimension.patches if isinstance(patch, Rectangle)]
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((80 - 0.5**0.5, 80))


def test_a_stopped_trial_far_below_is_at_the_edge(make_trial: Make) -> None:
    """Complete ones from 80 to 90: 76 is still on the axis, 10 would press them into its top."""
    trials = [make_trial({"loss/alpha": 0.5 + y}, val_balanced=[y]) for y in (0.8, 0.9)]
    stopped = ((0.3, [0.75, 0.77]), (0.4, [0.1, 0.1]))
    trials += [make_trial({"loss/alpha": x}, "pruned", val_balanced=y) for x, y in stopped]
    (axes,) = search.curve(searched(trials, 1)).axes
    low = axes.get_ylim()[0]
    assert 60 < low < 76
    assert drawn(axes, "stopped, mean so far") == [(0.3, 76)]
    assert bars(axes) == [pytest.approx((0.3, 75, 77))]
    assert drawn(axes, "stopped, mean so far: below the axis") == [(0.4, pytest.approx(low))]


def test_every_dimension_has_a_panel_and_an_axis_that_suits_it(make_trial: Make) -> None:
    """The rate spans a factor of 100: logarithmic. AURA has columns. N is searched only where AURA is on."""
    trials = [
        make_trial(
            {"recipe/optimizer/lr": rate, "loss/aura": aura, **({"loss/regions": 10} if aura else {})},
            val_balanced=[0.5],
        )
        for rate, aura in ((0.001, True), (0.01, False), (0.1, False), (0.05, False))
    ]
    figure = search.curve(searched(trials, 0))
    rate, aura, regions = figure.axes
    assert png(figure)
    assert [axes.get_xlabel() for axes in figure.axes] == ["optimizer/lr", "aura", "regions"]
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert len(drawn(rate, "complete")) == 4
    assert [tick.get_text() for tick in aura.get_xticklabels()] == ["false", "true"]
    columns = [x for x, _ in drawn(aura, "complete")]
    assert [round(x) for x in columns] == [0, 0, 0, 1]
    assert len(set(columns)) == 4
    assert drawn(regions, "complete") == [(10, 50)]


def test_a_trial_without_a_value_is_not_drawn(make_trial: Make) -> None:
    trials = [make_trial({"loss/alpha": 0.5}, val_balanced=[0.8]), make_trial({"loss/alpha": 0.7}, "pruned")]
    trials.append(make_trial({"loss/alpha": 0.6}, "pruned", val_balanced=[nan]))
    (axes,) = search.curve(searched(trials, 0)).axes
    assert drawn(axes, "stopped, mean so far") == []
    assert drawn(axes, "complete") == [(0.5, 80)]


def two(make_trial: Make) -> list[Trial]:
    scores = [(0.90, 0.40, 0.95), (0.88, 0.60, 0.95), (0.95, 0.90, 0.90), (0.87, 0.50, 0.96)]
    return [
        make_trial({"loss/alpha": index / 10}, val_top1=[a - 0.01, a + 0.01], val_rare=[b] * 2, val_many=[c] * 2)
        for index, (a, b, c) in enumerate(scores)
    ]


METRICS = ("val/top1", "val/rare")


def test_the_front_is_joined_and_what_breaks_a_constraint_is_marked(make_trial: Make) -> None:
    figure = search.pareto(
        searched(two(make_trial), 1, None, (0, 1), {"val/many": 0.95}, metric=METRICS, constraints={"val/many": 0.01})
    )
    (axes,) = figure.axes
    assert png(figure)
    assert drawn(axes, "complete (3)") == [(87, 50), (88, 60), (90, 40)]
    assert drawn(axes, "breaks a constraint (1)") == [(95, 90)]
    assert drawn(axes, "Pareto front (2)") == [(88, 60), (90, 40)]
    assert drawn(axes, "best mean of both (2 units)") == [(88, 60)]
    assert "val/many at least 94.00 % (softmax 95.00 less 1)" in figure.get_suptitle()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("val/top1 (%)", "val/rare (%)")


def test_softmax_is_drawn_as_far_as_it_is_known(make_trial: Make) -> None:
    limit = {"val/top1": 0.01}
    (axes,) = search.pareto(
        searched(two(make_trial), 1, None, (0, 1), {"val/top1": 0.88}, metric=METRICS, constraints=limit)
    ).axes
    lines = {str(line.get_label()): np.asarray(line.get_xdata()).tolist() for line in axes.lines}
    assert lines["softmax, val/top1"] == pytest.approx([88, 88])
    assert lines["least val/top1 allowed"] == pytest.approx([87, 87])
    assert "softmax" not in lines
    known = {"val/top1": 0.88, "val/rare": 0.3}
    (axes,) = search.pareto(searched(two(make_trial), 1, None, (0, 1), known, metric=METRICS, constraints=limit)).axes
    assert drawn(axes, "softmax") == [(88, 30)]
