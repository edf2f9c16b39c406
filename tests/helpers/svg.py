"""What can be read in a figure of matplotlib's."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure


def texts(figure: Figure) -> list[str]:
    """What a reader can read in the figure: SVG keeps each text as one, unless it has mathematics."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg")
    return [
        text.text or "" for text in ElementTree.fromstring(buffer.getvalue()).iter("{http://www.w3.org/2000/svg}text")
    ]
