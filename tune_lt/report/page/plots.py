"""The page's figures of rows, for plotly.js: plain dicts of its ``data`` and ``layout``.

Colours are those of the light page; the page's script puts the dark ones in their place (`PALETTE`, `tint`). A trace of
a row has the row's name in its ``meta``, by which the page shows and hides it everywhere at once.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tune_lt.report.points import Classes
from tune_lt.report.study_run import Curve
from tune_lt.report.tables.sheet import mean_std, plus_minus
from tune_lt.report.tables.summary import runs_of, summarise
from tune_lt.run.search import selection

Plot = dict[str, Any]
PALETTE = (  # light, dark: Okabe & Ito's hues, darkened or lightened to a contrast of 3 : 1 with the page
    ("#0072b2", "#4aa8e0"),
    ("#c84e00", "#f0813f"),
    ("#00805e", "#2fc39a"),
    ("#b0558a", "#e19ac6"),
    ("#a66f00", "#e5b04a"),
    ("#4596c7", "#8fd3f0"),
    ("#4d4d4d", "#d0d0d0"),
)
INK, QUIET, GRID = ("#1f2328", "#e6e8eb"), ("#6a737d", "#9aa4ae"), ("#d8dde3", "#3a4149")
BAND, BAR = 0.14, 0.5  # opacity of what lies behind a line, and of error bars
MOST_POINTS = 4000  # of all rows' lines: beyond, neighbouring classes are averaged
LINE_POINTS = (30, 200)  # of one line: as few at least, as many at most
MOST_NAMED = 20  # classes whose names fit below the axis
_MARKS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dot", "dashdot")
_HUES = len(PALETTE)


@dataclass(frozen=True)
class Style:
    """How a row is drawn in every figure: rows beyond the seventh share a colour and differ in marker and dashes."""

    colour: str
    mark: str
    dash: str

    @property
    def index(self) -> int:
        return next(index for index, (light, _) in enumerate(PALETTE) if light == self.colour)


def styles(rows: Sequence[str]) -> dict[str, Style]:
    """A style for each row, by its place in the study."""
    return {
        row: Style(
            PALETTE[index % _HUES][0],
            _MARKS[(index + index // _HUES) % len(_MARKS)],
            _DASHES[index // _HUES % len(_DASHES)],
        )
        for index, row in enumerate(rows)
    }


def tint(colour: str, opacity: float = BAND) -> str:
    """A palette's colour as a band has it, or an error bar."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def shades() -> dict[str, str]:
    """Each colour that figures have on the light page -> the one on the dark page."""
    pairs = dict((*PALETTE, INK, QUIET, GRID))
    return pairs | {
        tint(light, opacity): tint(dark, opacity) for light, dark in pairs.items() for opacity in (BAND, BAR)
    }


def plain(text: str) -> str:
    """A name as plotly should show it: it reads some HTML in its texts."""
    return html.escape(text, quote=False)


def rounded(values: Iterable[float], digits: int = 3) -> list[float | None]:
    """Numbers for JSON, which has no NaN: a gap in a line."""
    return [round(float(value), digits) if math.isfinite(value) else None for value in values]


def layout(x: str, y: str, **more: Any) -> Plot:
    """What all figures share; ``more`` has precedence, within the axes too."""
    axes = {name: {"title": {"text": text}, **more.pop(name, {})} for name, text in (("xaxis", x), ("yaxis", y))}
    return {"hovermode": "closest", "showlegend": False, **axes, **more}


def class_sizes(frame: pd.DataFrame, drawn: Mapping[str, Style], *, by_images: bool) -> Plot:
    """Each row's accuracy over the classes, in percent, mean ± standard deviation over its runs.

    x: the classes' ranks from head to tail, or their training images on a logarithmic axis. With more classes than
    `LINE_POINTS` of a line, or than `MOST_POINTS` leave each row, a point is the mean over neighbours.
    """
    rows = frame["row"].nunique()
    least, most = LINE_POINTS
    classes = Classes.of(frame.iloc[0], min(most, max(least, MOST_POINTS // rows)))
    ranks = [
        int(group[0]) for group in np.array_split(np.arange(sum(map(len, classes.groups))) + 1, len(classes.groups))
    ]
    x = rounded(classes.sizes, 2) if by_images else ranks
    several = [f" and {len(group) - 1} neighbours" if len(group) > 1 else "" for group in classes.groups]
    names = [
        f"{plain(name)}{more} · {size:g} training images"
        for name, more, size in zip(classes.names, several, np.round(classes.sizes, 1), strict=True)
    ]
    traces = []
    for row, style in drawn.items():
        runs = runs_of(frame, row)
        if runs.empty:
            continue
        mean, spread = classes.mean_and_std(runs["per_class"])
        traces += _band(row, style, x, mean, spread)
        traces.append(
            _line(row, style, x, mean)
            | {
                "mode": "lines+markers",
                "text": [f"{name}<br>{plus_minus(m, s)} %" for name, m, s in zip(names, mean, spread, strict=True)],
                "hovertemplate": f"<b>{plain(row)}</b> ({len(runs)} runs)<br>%{{text}}<extra></extra>",
            }
        )
    axis: Plot = {"type": "log", "autorange": "reversed", "dtick": 1}
    if by_images:
        return _plot(traces, layout("training images of the class (log), head to tail", "accuracy (%)", xaxis=axis))
    axis = {"range": [0.5, ranks[-1] + 0.5]}
    if len(ranks) <= MOST_NAMED:
        axis |= {"tickvals": ranks, "ticktext": [plain(name) for name in classes.names]}
    return _plot(traces, layout("classes from head to tail", "accuracy (%)", xaxis=axis))


def trade_off(frame: pd.DataFrame, drawn: Mapping[str, Style]) -> Plot | None:
    """Each row's accuracy on Many classes against that on Rare ones, Few where none is rare: means ± std, in percent.

    The front are the rows that no other beats in one group without losing in the other. None without both groups.
    """
    tail = next((name for name in ("rare", "few") if frame[f"test/{name}"].notna().any()), None)
    if tail is None or not frame["test/many"].notna().any():
        return None
    traces: list[Plot] = []
    places: dict[str, tuple[float, float]] = {}
    for row, style in drawn.items():
        runs = runs_of(frame, row)
        many, rare = summarise(runs["test/many"]) if len(runs) else None, summarise(runs[f"test/{tail}"])
        if many is None or math.isnan(many.mean) or math.isnan(rare.mean):
            continue
        places[row] = (many.mean, rare.mean)
        error = {"thickness": 1, "width": 0, "color": tint(style.colour, BAR)}
        traces.append(
            _line(row, style, [many.mean], [rare.mean])
            | {
                "mode": "markers+text",
                "text": [f" {plain(row)} "],
                "error_x": {"array": rounded([many.std]), **error},
                "error_y": {"array": rounded([rare.std]), **error},
                "hovertemplate": f"<b>{plain(row)}</b> ({len(runs)} runs)<br>Many {mean_std(many)} %"
                f"<br>{tail.capitalize()} {mean_std(rare)} %<extra></extra>",
            }
        )
        traces[-1]["marker"]["size"] = 10
    middle = (min(many for many, _ in places.values()) + max(many for many, _ in places.values())) / 2 if places else 0
    for trace in traces:  # towards the middle there is room for a name
        trace["textposition"] = "middle left" if trace["x"][0] > middle else "middle right"
    best = sorted(selection.front(places.values()))
    line = {"color": QUIET[0], "width": 1.2, "dash": "dot"}
    x, y = [point[0] for point in best], [point[1] for point in best]
    traces.insert(0, {"x": rounded(x), "y": rounded(y), "mode": "lines", "line": line, "hoverinfo": "skip"})
    return _plot(traces, layout("accuracy on Many classes (%)", f"accuracy on {tail.capitalize()} classes (%)"))


def learning(curves: Mapping[str, Curve], drawn: Mapping[str, Style], metric: str) -> Plot:
    """A metric over the epochs of each row's first seed; accuracies in percent."""
    loss = metric.endswith("/loss")
    traces = []
    for row, style in drawn.items():
        if row not in curves:
            continue
        epochs, values = curves[row]
        y = [value if loss else 100 * value for value in values]
        trace = _line(row, style, list(epochs), y) | {"mode": "lines"}
        trace["hovertemplate"] = f"<b>{plain(row)}</b><br>epoch %{{x}}: %{{y:.4g}}<extra></extra>"
        traces.append(trace)
    return _plot(traces, layout("epoch", metric if loss else f"{metric} (%)"))


def _line(row: str, style: Style, x: Sequence[Any], y: Iterable[float]) -> Plot:
    return {
        "meta": {"row": row},
        "name": plain(row),
        "x": list(x),
        "y": rounded(y, 4),
        "line": {"color": style.colour, "dash": style.dash, "width": 1.8},
        "marker": {"color": style.colour, "symbol": style.mark, "size": 6},
    }


def _band(row: str, style: Style, x: Sequence[Any], mean: np.ndarray, spread: np.ndarray) -> list[Plot]:
    """Mean ± spread as an area; none where there is no spread."""
    known = np.isfinite(mean) & np.isfinite(spread)
    if not known.any():
        return []
    at = [place for place, one in zip(x, known, strict=True) if one]
    high, low = (mean + spread)[known], (mean - spread)[known]
    return [
        {
            "meta": {"row": row},
            "x": at + at[::-1],
            "y": rounded([*high, *low[::-1]]),
            "mode": "lines",
            "fill": "toself",
            "fillcolor": tint(style.colour),
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
    ]


def _plot(traces: list[Plot], how: Plot) -> Plot:
    return {"data": [{"type": "scatter", **trace} for trace in traces], "layout": how}
