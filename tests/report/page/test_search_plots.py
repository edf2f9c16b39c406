"""What the plots of a search show, read from what plotly gets; plotly itself checks every property."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from typing import Any

import plotly.graph_objects as go
import pytest

from tune_lt.documents import SearchResult, Trial
from tune_lt.report.page import search_plots
from tune_lt.report.page.plots import Plot

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
    objectives, limits = (metric,) if isinstance(metric, str) else metric, constraints or {}
    return SearchResult(
        "ghm_cwap", "", len(points), objectives, limits, reference or {}, tuple(points), points[best], chosen, ends
    )


def traces(plot: Plot) -> dict[str, Any]:
    """The plot's traces by their names; the line through the means has none."""
    assert go.Figure(plot).data
    return {trace.get("name", ""): trace for trace in plot["data"]}


def drawn(plot: Plot, name: str) -> list[tuple[float, float]]:
    """The points under a name, from left to right; none where there is no such trace."""
    trace = traces(plot).get(name, {"x": [], "y": []})
    return sorted(zip(trace["x"], trace["y"], strict=True))


def bars(plot: Plot, name: str) -> list[float | None]:
    return traces(plot)[name]["error_y"]["array"]  # type: ignore[no-any-return]


@pytest.fixture
def one_dimension(alpha_trials: list[Trial]) -> Plot:
    """0.6 is best, 1.0 the choice by the rule, 0.8 stopped at 71, far below both, 0.4 failed."""
    (plot,) = search_plots.curves(searched(alpha_trials, 0, 1))
    return plot


def test_complete_trials_are_joined_in_order_with_their_errors(one_dimension: Plot) -> None:
    assert drawn(one_dimension, "complete") == drawn(one_dimension, "") == [(0.6, 80), (1.0, 79.5)]
    assert traces(one_dimension)[""]["mode"] == "lines"
    assert bars(one_dimension, "complete") == [0.707, 0.707]  # √2.5 / √5 points


def test_trials_at_one_value_are_joined_by_their_mean(make_trial: Make) -> None:
    values = ((1.0, 0.5), (0.5, 0.8), (0.5, 0.9), (0.5, 0.85))
    trials = [make_trial({"loss/alpha": x}, val_balanced=[y]) for x, y in values]
    (plot,) = search_plots.curves(searched(trials, 2))
    assert drawn(plot, "") == [(0.5, 85), (1.0, 50)]


def test_stopped_trials_are_hollow_and_failed_ones_on_the_axis(one_dimension: Plot) -> None:
    stopped = traces(one_dimension)["stopped, mean so far"]
    assert all("open" in symbol for symbol in stopped["marker"]["symbol"])
    assert stopped["x"] == [0.8]
    assert drawn(one_dimension, "failed") == [(0.4, one_dimension["layout"]["yaxis"]["range"][0])]


def test_both_choices_and_the_band_between(one_dimension: Plot) -> None:
    assert drawn(one_dimension, "best mean") == [(0.6, 80)]
    assert drawn(one_dimension, "one-standard-error choice") == [(1.0, 79.5)]
    (band,) = one_dimension["layout"]["shapes"]
    assert (band["y1"], band["y0"]) == (pytest.approx(80 - 0.5**0.5, abs=1e-3), 80)


def test_a_stopped_trial_far_below_is_at_the_edge(make_trial: Make) -> None:
    """Complete ones from 80 to 90: 76 is still on the axis, 10 would press them into its top."""
    trials = [make_trial({"loss/alpha": 0.5 + y}, val_balanced=[y]) for y in (0.8, 0.9)]
    stopped = ((0.3, [0.75, 0.77]), (0.4, [0.1, 0.1]))
    trials += [make_trial({"loss/alpha": x}, "pruned", val_balanced=y) for x, y in stopped]
    (plot,) = search_plots.curves(searched(trials, 1))
    low, high = plot["layout"]["yaxis"]["range"]
    assert 60 < low < 76
    assert 90 < high < 92
    assert drawn(plot, "stopped, mean so far") == [(0.3, 76), (0.4, pytest.approx(low, abs=1e-3))]
    assert bars(plot, "stopped, mean so far") == [1, None]
    trace = traces(plot)["stopped, mean so far"]
    assert trace["marker"]["symbol"] == ["circle-open", "triangle-down-open"]
    assert "10.00" in trace["text"][1]


def test_every_dimension_has_a_plot_and_an_axis_that_suits_it(make_trial: Make) -> None:
    """The rate spans a factor of 100: logarithmic. AURA has columns. N is searched only where AURA is on."""
    trials = [
        make_trial(
            {"recipe/optimizer/lr": rate, "loss/aura": aura, **({"loss/regions": 10} if aura else {})},
            val_balanced=[0.5],
        )
        for rate, aura in ((0.001, True), (0.01, False), (0.1, False), (0.05, False))
    ]
    plots = search_plots.curves(searched(trials, 0))
    rate, aura, regions = plots
    axes = [plot["layout"]["xaxis"] for plot in plots]
    assert [axis["title"]["text"] for axis in axes] == ["optimizer/lr", "aura", "regions"]
    assert [axis.get("type") for axis in axes] == ["log", None, None]
    assert len(drawn(rate, "complete")) == 4
    assert axes[1]["ticktext"] == ["false", "true"]
    columns = [x for x, _ in drawn(aura, "complete")]
    assert [round(x) for x in columns] == [0, 0, 0, 1]
    assert len(set(columns)) == 4
    assert drawn(regions, "complete") == [(10, 50)]
    assert not any("" in traces(plot) for plot in plots)  # with several dimensions no line joins the means


def test_a_trial_without_a_value_is_not_drawn(make_trial: Make) -> None:
    trials = [make_trial({"loss/alpha": 0.5}, val_balanced=[0.8]), make_trial({"loss/alpha": 0.7}, "pruned")]
    trials.append(make_trial({"loss/alpha": 0.6}, "pruned", val_balanced=[nan]))
    (plot,) = search_plots.curves(searched(trials, 0))
    assert drawn(plot, "stopped, mean so far") == []
    assert drawn(plot, "complete") == [(0.5, 80)]


def two(make_trial: Make) -> list[Trial]:
    scores = [(0.90, 0.40, 0.95), (0.88, 0.60, 0.95), (0.95, 0.90, 0.90), (0.87, 0.50, 0.96)]
    return [
        make_trial({"loss/alpha": index / 10}, val_top1=[a - 0.01, a + 0.01], val_rare=[b] * 2, val_many=[c] * 2)
        for index, (a, b, c) in enumerate(scores)
    ]


METRICS = ("val/top1", "val/rare")


def test_the_front_is_joined_and_what_breaks_a_constraint_is_marked(make_trial: Make) -> None:
    found = searched(
        two(make_trial), 1, None, (0, 1), {"val/many": 0.95}, metric=METRICS, constraints={"val/many": 0.01}
    )
    plot = search_plots.pareto(found)
    assert drawn(plot, "complete") == [(87, 50), (88, 60), (90, 40)]
    assert drawn(plot, "breaks a constraint") == [(95, 90)]
    front = traces(plot)["Pareto front"]
    assert (front["mode"], front["x"], front["y"]) == ("lines+markers", [88, 90], [60, 40])
    assert (front["error_x"]["array"], front["error_y"]["array"]) == ([1, 1], [0, 0])
    assert drawn(plot, "best mean of both") == [(88, 60)]
    assert not plot["layout"]["shapes"]  # the constraint is of a third metric
    axes = [plot["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
    assert axes == ["val/top1 (%)", "val/rare (%)"]
    (curve,) = search_plots.curves(found)
    assert drawn(curve, "breaks a constraint") == [(0.2, 95)]
    assert drawn(curve, "best mean of both") == [(0.1, 88)]
    assert not curve["layout"]["shapes"]  # a band of one metric says nothing of two


@pytest.mark.parametrize(("metric", "axis"), [("val/top1", "x"), ("val/rare", "y")])
def test_softmax_is_drawn_as_far_as_it_is_known(make_trial: Make, metric: str, axis: str) -> None:
    limit = {metric: 0.01}
    plot = search_plots.pareto(
        searched(two(make_trial), 1, None, (0, 1), {metric: 0.88}, metric=METRICS, constraints=limit)
    )
    lines = {line["name"]: (line[f"{axis}0"], line[f"{axis}1"]) for line in go.Figure(plot).layout.shapes}
    assert lines == {f"softmax, {metric}": (88, 88), f"least {metric} allowed": (87, 87)}
    assert "softmax" not in traces(plot)
    known = {"val/top1": 0.88, "val/rare": 0.3}
    plot = search_plots.pareto(searched(two(make_trial), 1, None, (0, 1), known, metric=METRICS, constraints=limit))
    assert drawn(plot, "softmax") == [(88, 30)]
