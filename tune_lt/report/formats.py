"""A sheet as Markdown, LaTeX, CSV and on the terminal: the same numbers and footnotes. Nothing is written here."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from tune_lt.report.tables.sheet import Sheet


def markdown(sheet: Sheet) -> str:
    """GitHub's Markdown: a heading, the table with aligned columns, the footnotes as a list."""
    header = [_markdown_escape(name) for name in sheet.header]
    lines = [header, *_body(sheet, bold="**{}**".format, escape=_markdown_escape)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left, right = widths[: sheet.left], widths[sheet.left :]
    rule = ["-" * width for width in left] + ["-" * (width - 1) + ":" for width in right]
    grid = [_pipes(line, widths, sheet.left) for line in (lines[0], rule, *lines[1:])]
    notes = [f"- {_markdown_escape(note)}" for note in sheet.notes]
    return "\n".join([f"## {_markdown_escape(sheet.title)}", "", *grid, "", *notes, ""])


def latex(sheet: Sheet) -> str:
    r"""A whole ``table`` environment; needs ``\usepackage{booktabs}`` and nothing else.

    The label is ``tab:`` and the sheet's name; footnotes stand below the rules.
    """
    body = _body(sheet, bold=r"\textbf{{{}}}".format, escape=_latex_escape)
    lines = [
        r"% \usepackage{booktabs}; where columns are narrow: table* instead of table",
        r"\begin{table}",
        r"  \centering",
        r"  \footnotesize",
        r"  \setlength{\tabcolsep}{3pt}",
        rf"  \caption{{{_latex_escape(sheet.title)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', sheet.name)}}}",
        rf"  \begin{{tabular}}{{@{{}}{'l' * sheet.left}{'r' * (len(sheet.header) - sheet.left)}@{{}}}}",
        r"    \toprule",
        _ampersands([_latex_escape(name) for name in sheet.header]),
        r"    \midrule",
        *map(_ampersands, body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\smallskip\raggedright",
        *(rf"  {_latex_escape(note)}\par" for note in sheet.notes),
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def csv(sheet: Sheet) -> str:
    """The sheet's data in full precision; empty where there is no number."""
    return sheet.data.to_csv(index=False, lineterminator="\n")


def terminal(sheet: Sheet) -> RenderableType:
    """A table for ``rich``: incomplete rows are dim, footnotes stand below. Names are printed as they are, no markup.

    Where it does not fit, long texts are broken, then intervals, then each cell before its ±; so the paper's rows fit
    80 columns.
    """
    return _Fitted(sheet)


@dataclass(frozen=True)
class _Fitted:
    """A sheet that breaks its cells as far as the terminal's width asks for."""

    sheet: Sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        endless = options.update(max_width=10_000)
        for breaks in range(_BREAKS + 1):
            table = _grid(self.sheet, breaks)
            if Measurement.get(console, endless, table).maximum <= options.max_width:
                break
        yield table


_BREAKS = 3
_TEXT = (1000, 28, 28, 14)  # characters that a text has in a line


def _grid(sheet: Sheet, breaks: int) -> RichTable:
    out = RichTable(
        title=Text(sheet.title, style="bold"),
        caption=Text("\n".join(sheet.notes), style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    out.add_column(Text(sheet.header[0]), no_wrap=True)
    for column, name in enumerate(sheet.header[1:], start=1):
        justify: Literal["left", "right"] = "left" if column < sheet.left else "right"
        out.add_column(Text(sheet.narrow.get(name, name)), justify=justify, overflow="fold")
    for index, line in enumerate(sheet.lines):
        texts = [_broken(text, breaks, column < sheet.left) for column, text in enumerate(line)]
        texts[0] = texts[0] if sheet.left > 1 else line[0]  # a row's name stays whole
        styles = ["bold" if (index, column) in sheet.bold else "" for column in range(len(line))]
        cells = [Text(text, style) for text, style in zip(texts, styles, strict=True)]
        out.add_row(*cells, style="dim" if index in sheet.dim else "")
    return out


def _broken(text: str, breaks: int, words: bool) -> str:
    """A cell's text over several lines: of words first, then of intervals, then all that can be."""
    if words:
        return textwrap.fill(text, _TEXT[breaks], break_long_words=False)
    text = text.replace("± ", "±").replace(" runs", "\nruns")
    if breaks > 1:
        text = text.replace(" [", "\n[").replace("], ", "]\n").replace(", ", ",\n")
    return text.replace(" ±", "\n±").replace(" of ", "\nof ") if breaks > 2 else text


def _body(sheet: Sheet, bold: Callable[[str], str], escape: Callable[[str], str]) -> list[list[str]]:
    return [
        [bold(escape(text)) if (index, column) in sheet.bold else escape(text) for column, text in enumerate(line)]
        for index, line in enumerate(sheet.lines)
    ]


def _pipes(texts: Sequence[str], widths: Sequence[int], left: int) -> str:
    pairs = list(zip(texts, widths, strict=True))
    aligned = [text.ljust(width) for text, width in pairs[:left]] + [text.rjust(width) for text, width in pairs[left:]]
    return f"| {' | '.join(aligned)} |"


def _markdown_escape(text: str) -> str:
    return re.sub(r"([\\|*`<]|(?<=\])\()", r"\\\1", text)  # ]( would make a link of a name


def _ampersands(texts: Sequence[str]) -> str:
    guard = "{}" if texts[0].startswith(("[", "*")) else ""  # LaTeX would read them as options of the line before
    return rf"    {guard}{' & '.join(texts)} \\"


def _latex_escape(text: str) -> str:
    text = re.sub(r"-(?=-)", "-{}", text.translate(_LATEX))  # -- would print as one long dash
    return re.sub(r'"([^"]*)"', r"``\1''", text)


_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi "
    "pi rho varsigma sigma tau upsilon phi chi psi omega"
)
_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "}
    | {
        "±": r"$\pm$",
        "×": r"$\times$",
        "−": "$-$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "≈": r"$\approx$",
        "→": r"$\to$",
        "√": r"$\surd$",
    }
    | {"—": r"\textemdash{}", "–": r"\textendash{}", "…": r"\dots{}", "\u202f": r"\,", "\u00a0": "~"}
    | {"Δ": r"$\Delta$"}
    | {letter: rf"$\{name}$" for letter, name in zip("αβγδεζηθικλμνξπρςστυφχψω", _GREEK.split(), strict=True)}
)
