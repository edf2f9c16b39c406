"""The paper's Figure 2 for the page: how often gradient norms occur, and the unit regions that count them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from tune_lt.documents import Norms
from tune_lt.report.page.plots import INK, PALETTE, Plot, layout, plain, tint

_TAILS = ("rare", "few", "medium")
_LARGE, _SMALL = PALETTE[0][0], PALETTE[1][0]  # large classes and small ones
_AXES: dict[str, Plot] = {"xaxis": {"range": [0, 1]}, "yaxis": {"type": "log", "exponentformat": "power", "dtick": 1}}


def norms(content: Norms) -> list[Plot]:
    """The panels of one run's ``norms.json``: (a) densities of groups of classes, (b) URA's regions, (c) AURA's.

    A density is the share of images per unit of g, 1 where all norms were equally frequent. (b) averages the density
    of the largest and of the smallest class over N equal regions, (c) over those that the loss had, where they are
    others; both are left out for a loss without regions.
    """
    panels, edges = [_groups(content.counts)], content.edges
    if edges is None:
        return panels
    n = len(edges["largest"]) - 1
    equal = np.linspace(0, 1, n + 1).tolist()
    panels.append(_regions(content, {"largest": equal, "smallest": equal}, f"(b) URA: {n} equal regions"))
    if not all(np.allclose(own, equal) for own in edges.values()):
        panels.append(_regions(content, edges, f"(c) AURA: the {n} regions of this run"))
    return panels


def densities(counts: Sequence[int]) -> np.ndarray:
    """Of counts in equal bins over [0, 1]: the share of each bin over its width. NaN where nothing was counted."""
    values = np.asarray(counts, dtype=float)
    total = values.sum()
    return values / total * len(values) if total else np.full(len(values), np.nan)


def averages(counts: Sequence[int], edges: Sequence[float] | np.ndarray) -> np.ndarray:
    """The mean density over each region between ``edges``, within each bin taken as even; NaN for an empty region."""
    total = np.concatenate([[0.0], np.cumsum(densities(counts)) / len(counts)])
    mass = np.diff(np.interp(edges, np.linspace(0, 1, len(counts) + 1), total))
    width = np.diff(np.asarray(edges, dtype=float))
    return np.divide(mass, width, out=np.full(len(width), np.nan), where=width > 0)


def _groups(counts: Mapping[str, Sequence[int]]) -> Plot:
    tail = next((name for name in _TAILS if any(counts.get(name, ()))), None)
    lines = [("all", INK[0]), ("many", _LARGE), *([(tail, _SMALL)] if tail else [])]
    traces = [_density(name, counts[name], colour) for name, colour in lines if any(counts.get(name, ()))]
    return _panel(traces, "(a) groups of classes")


def _regions(content: Norms, edges: Mapping[str, Sequence[float]], title: str) -> Plot:
    traces = []
    for name, colour in (("largest", _LARGE), ("smallest", _SMALL)):
        counts = content.counts[name]
        if not any(counts):
            continue
        label = f"{name}: {plain(content.classes[name])}"
        traces.append(_density(label, counts, tint(colour)) | {"showlegend": False, "hoverinfo": "skip"})
        at = np.unique(np.asarray(edges[name], dtype=float))  # a region without width has no density
        traces.append(
            {
                "type": "bar",
                "name": label,
                "x": _shown((at[1:] + at[:-1]) / 2),
                "y": _shown(averages(counts, at)),
                "width": _shown(np.diff(at)),
                "customdata": [[round(float(low), 4), round(float(high), 4)] for low, high in pairwise(at)],
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
    how = layout("gradient norm g", "density (log)", **{name: dict(axis) for name, axis in _AXES.items()})
    return {"data": traces, "layout": how | {"title": {"text": title}, "showlegend": True, "barmode": "overlay"}}


def _shown(values: np.ndarray) -> list[float | None]:
    """Numbers for a logarithmic axis: a gap where there is nothing."""
    return [float(f"{value:.5g}") if np.isfinite(value) and value > 0 else None for value in values]
