"""The page's figures of rows, for plotly.js: plain dicts of its ``data`` and ``layout``.

They have the colours of the light page; the page's script replaces them by those of the dark page (`shades`). A trace
of a row has the row's name in its ``meta``: by that the script shows or hides the row in every figure at once.
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
PALETTE = (  # light page, dark page: Okabe & Ito's hues, darkened or lightened to a contrast of 3 : 1 with the page
    ("#0072b2", "#4aa8e0"),
    ("#c84e00", "#f0813f"),
    ("#00805e", "#2fc39a"),
    ("#b0558a", "#e19ac6"),
    ("#a66f00", "#e5b04a"),
    ("#4596c7", "#8fd3f0"),
    ("#4d4d4d", "#d0d0d0"),
)
INK, QUIET, GRID = ("#1f2328", "#e6e8eb"), ("#6a737d", "#9aa4ae"), ("#d8dde3", "#3a4149")
BAND, BAR = 0.14, 0.5  # the opacity of a band around a line, and of error bars
MOST_POINTS = 4000  # in the lines of all rows together: with more, neighbouring classes are averaged
LINE_POINTS = (30, 200)  # in one line: at least and at most
MOST_NAMED = 20  # with more classes their names do not fit below the axis
_MARKS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Style:
    """How a row is drawn in every figure: a colour of `PALETTE`, by its index, a marker and the dashes of a line.

    From the eighth row on colours are used again, with other markers and dashes.
    """

    hue: int
    mark: str
    dash: str

    @property
    def colour(self) -> str:
        return PALETTE[self.hue][0]


def styles(rows: Sequence[str]) -> dict[str, Style]:
    """A style for each row, by its place in the study."""
    found = {}
    for index, row in enumerate(rows):
        turn, hue = divmod(index, len(PALETTE))
        found[row] = Style(hue, _MARKS[(index + turn) % len(_MARKS)], _DASHES[turn % len(_DASHES)])
    return found


def tint(colour: str, opacity: float = BAND) -> str:
    """A colour "#rrggbb" with an opacity."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def shades() -> dict[str, str]:
    """Each colour that figures have on the light page -> its counterpart on the dark page."""
    pairs = dict((*PALETTE, INK, QUIET, GRID))
    return pairs | {
        tint(light, opacity): tint(dark, opacity) for light, dark in pairs.items() for opacity in (BAND, BAR)
    }


def plain(text: str) -> str:
    """A name, escaped for plotly, which reads some HTML tags in its texts, and %{...} where the pointer is."""
    return html.escape(text, quote=False).replace("%{", "%&#123;")


def rounded(values: Iterable[float], digits: int = 3) -> list[float | None]:
    """Numbers for JSON. It has no NaN: None makes a gap in a line."""
    return [round(float(value), digits) if math.isfinite(value) else None for value in values]


def layout(x: str, y: str, **more: Any) -> Plot:
    """What the layouts of all figures share: the titles of the axes, no legend. ``more`` has precedence."""
    axes = {name: {"title": {"text": text}, **more.pop(name, {})} for name, text in (("xaxis", x), ("yaxis", y))}
    return {"hovermode": "closest", "showlegend": False, **axes, **more}


def class_sizes(frame: pd.DataFrame, drawn: Mapping[str, Style], *, by_images: bool) -> Plot:
    """Each row's accuracy over the classes, in percent, mean ± standard deviation over its runs.

    x: the classes' ranks from head to tail or, ``by_images``, their numbers of training images on a logarithmic axis.
    With more classes than a line may have points (`LINE_POINTS`, `MOST_POINTS`), a point is the mean over neighbours.
    """
    least, most = LINE_POINTS
    classes = Classes.of(frame.iloc[0], min(most, max(least, MOST_POINTS // frame["row"].nunique())))
    ranks = np.cumsum([1, *map(len, classes.groups[:-1])]).tolist()  # of each group's first class
    x = rounded(classes.sizes, 2) if by_images else ranks
    names = []
    for name, group, size in zip(classes.names, classes.groups, classes.sizes, strict=True):
        neighbours = f" and {len(group) - 1} neighbours" if len(group) > 1 else ""
        names.append(f"{plain(name)}{neighbours} · {round(size, 1):g} training images")
    traces = []
    for row, style in drawn.items():
        runs = runs_of(frame, row)
        if runs.empty:
            continue
        mean, spread = classes.mean_and_std(runs["per_class"])
        traces.append(_band(row, style, x, mean, spread))
        traces.append(
            _line(row, style, x, mean)
            | {
                "mode": "lines+markers",
                "text": [f"{name}<br>{plus_minus(m, s)} %" for name, m, s in zip(names, mean, spread, strict=True)],
                "hovertemplate": f"<b>{plain(row)}</b> ({len(runs)} runs)<br>%{{text}}<extra></extra>",
            }
        )
    title = "classes from head to tail"
    axis: Plot = {"range": [0.5, ranks[-1] + 0.5]}
    if by_images:
        title = "training images of the class (log), head to tail"
        axis = {"type": "log", "autorange": "reversed", "dtick": 1}
    elif len(ranks) <= MOST_NAMED:
        axis |= {"tickvals": ranks, "ticktext": list(map(plain, classes.names))}
    return _plot(traces, layout(title, "accuracy (%)", xaxis=axis))


def trade_off(frame: pd.DataFrame, drawn: Mapping[str, Style]) -> Plot | None:
    """Each row's accuracy on the Many classes against that on the Rare ones, mean ± standard deviation in percent.

    Few takes the place of Rare where no class is rare. A dotted line joins the front: the rows that no other beats in
    one group without losing in the other. None where there are no Many classes, or neither Rare nor Few ones.
    """
    tail = next((name for name in ("rare", "few") if frame[f"test/{name}"].notna().any()), None)
    if tail is None or not frame["test/many"].notna().any():
        return None
    traces: list[Plot] = []
    places: list[tuple[float, float]] = []
    for row, style in drawn.items():
        runs = runs_of(frame, row)
        many, rare = summarise(runs["test/many"]), summarise(runs[f"test/{tail}"])
        if math.isnan(many.mean) or math.isnan(rare.mean):
            continue
        places.append((many.mean, rare.mean))
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
    at = [x for x, _ in places]
    for trace in traces:  # a name stands on the side of the middle, where there is room for it
        trace["textposition"] = "middle left" if trace["x"][0] > (min(at) + max(at)) / 2 else "middle right"
    best = sorted(selection.front(places))
    line = {"color": QUIET[0], "width": 1.2, "dash": "dot"}
    front = {"x": rounded(x for x, _ in best), "y": rounded(y for _, y in best)}
    traces.insert(0, {**front, "mode": "lines", "line": line, "hoverinfo": "skip"})
    return _plot(traces, layout("accuracy on Many classes (%)", f"accuracy on {tail.capitalize()} classes (%)"))


def learning(curves: Mapping[str, Curve], drawn: Mapping[str, Style], metric: str) -> Plot:
    """A metric over the epochs, a line for the run of each row's first seed; accuracies are in percent."""
    loss = metric.endswith("/loss")
    traces = []
    for row, style in drawn.items():
        if row not in curves:
            continue
        epochs, values = curves[row]
        y = [value if loss else 100 * value for value in values]
        hover = f"<b>{plain(row)}</b><br>epoch %{{x}}: %{{y:.4g}}<extra></extra>"
        traces.append(_line(row, style, epochs, y) | {"mode": "lines", "hovertemplate": hover})
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


def _band(row: str, style: Style, x: Sequence[Any], mean: np.ndarray, spread: np.ndarray) -> Plot:
    """Mean ± spread as an area, over the points that have both."""
    known = np.flatnonzero(np.isfinite(mean) & np.isfinite(spread)).tolist()
    at, high, low = [x[point] for point in known], (mean + spread)[known], (mean - spread)[known]
    return {
        "meta": {"row": row},
        "x": at + at[::-1],
        "y": rounded([*high, *low[::-1]]),
        "mode": "lines",
        "fill": "toself",
        "fillcolor": tint(style.colour),
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def _plot(traces: list[Plot], how: Plot) -> Plot:
    return {"data": [{"type": "scatter", **trace} for trace in traces], "layout": how}
