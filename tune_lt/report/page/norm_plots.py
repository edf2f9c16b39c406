"""The paper's Figure 2 for the page: how often each gradient norm occurs, and the unit regions that count them.

A density is the share of the images per unit of the gradient norm g in [0, 1]: it is 1 everywhere where all norms are
equally frequent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tune_lt.documents import Norms
from tune_lt.report.page.plots import INK, PALETTE, Plot, layout, plain, tint

_LARGE, _SMALL = PALETTE[0][0], PALETTE[1][0]  # the colours of large classes and of small ones


def norms(content: Norms) -> list[Plot]:
    """The panels of one run: (a) densities of groups of classes, (b) URA's unit regions, (c) AURA's.

    (b) has the mean density of the largest and of the smallest class over each of N equal regions; (c) over the regions
    that the loss had, if these are not the equal ones. A loss without regions has (a) alone.
    """
    counts = {name: own for name, own in content.counts.items() if any(own)}
    tail = next((name for name in ("rare", "few", "medium") if name in counts), "")
    colours = {"all": INK[0], "many": _LARGE, tail: _SMALL}
    groups = [_density(name, counts[name], colour) for name, colour in colours.items() if name in counts]
    panels = [_panel(groups, "(a) groups of classes")]
    if content.edges is None:
        return panels
    n = len(content.edges["largest"]) - 1
    equal = np.linspace(0, 1, n + 1)
    panels.append(_regions(content, {"largest": equal, "smallest": equal}, f"(b) URA: {n} equal regions"))
    if not all(np.allclose(own, equal) for own in content.edges.values()):
        panels.append(_regions(content, content.edges, f"(c) AURA: the {n} regions of this run"))
    return panels


def densities(counts: Sequence[int]) -> np.ndarray:
    """The density in each of equal bins over [0, 1], of which at least one has a count above 0."""
    return np.asarray(counts) / np.mean(counts)


def averages(counts: Sequence[int], edges: np.ndarray) -> np.ndarray:
    """The mean density over each region between rising ``edges``. Within a bin the density is taken as constant."""
    total = np.concatenate([[0.0], np.cumsum(densities(counts)) / len(counts)])
    mass = np.diff(np.interp(edges, np.linspace(0, 1, len(counts) + 1), total))
    return mass / np.diff(edges)


def _regions(content: Norms, edges: Mapping[str, Sequence[float] | np.ndarray], title: str) -> Plot:
    traces = []
    for name, colour in (("largest", _LARGE), ("smallest", _SMALL)):
        counts = content.counts[name]
        if not any(counts):
            continue
        label = f"{name}: {plain(content.classes[name])}"
        traces.append(_density(label, counts, tint(colour)) | {"showlegend": False, "hoverinfo": "skip"})
        at = np.unique(edges[name])  # a region without width has no density
        traces.append(
            {
                "type": "bar",
                "name": label,
                "x": _shown((at[1:] + at[:-1]) / 2),
                "y": _shown(averages(counts, at)),
                "width": _shown(np.diff(at)),
                "customdata": np.column_stack([at[:-1], at[1:]]).round(4).tolist(),
                "marker": {"color": tint(colour), "line": {"color": colour, "width": 1.3}},
                "hovertemplate": f"{label}<br>g from %{{customdata[0]}} to %{{customdata[1]}}: density %{{y:.3g}}"
                "<extra></extra>",
            }
        )
    return _panel(traces, title)


def _density(name: str, counts: Sequence[int], colour: str) -> Plot:
    middles = (np.arange(len(counts)) + 0.5) / len(counts)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": _shown(middles),
        "y": _shown(densities(counts)),
        "line": {"color": colour, "dash": "solid", "width": 1.8, "shape": "hvh"},
        "hovertemplate": f"{name}<br>g %{{x:.3f}}: density %{{y:.3g}}<extra></extra>",
    }


def _panel(traces: list[Plot], title: str) -> Plot:
    axes = {"xaxis": {"range": [0, 1]}, "yaxis": {"type": "log", "exponentformat": "power", "dtick": 1}}
    more = {"title": {"text": title}, "showlegend": True, "barmode": "overlay"}
    return {"data": traces, "layout": layout("gradient norm g", "density (log)", **axes, **more)}


def _shown(values: np.ndarray) -> list[float | None]:
    """Numbers with five digits; None, which leaves a gap on a logarithmic axis, in place of 0."""
    return [float(f"{value:.5g}") if value > 0 else None for value in values]
