"""A table as Markdown, LaTeX, CSV and for the terminal, with the same numbers and footnotes; `write` makes files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from tune_lt.report.tables.sheet import Sheet


def markdown(sheet: Sheet) -> str:
    """GitHub's Markdown: a heading, the table with aligned columns, the footnotes as a list."""
    header = [markdown_text(name) for name in sheet.header]
    lines = [header, *_body(sheet, bold="**{}**".format, escape=markdown_text)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if at < sheet.left else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    grid = [_pipes(line, widths, sheet.left) for line in (header, rule, *lines[1:])]
    notes = [f"- {markdown_text(note)}" for note in sheet.notes]
    return "\n".join([f"## {markdown_text(sheet.title)}", "", *grid, "", *notes, ""])


def latex(sheet: Sheet) -> str:
    r"""A whole ``table`` environment; needs ``\usepackage{booktabs}`` and nothing else.

    The label is ``tab:`` and the table's name; footnotes stand below the rules.
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
    """The table's data in full precision; empty where there is no number."""
    return sheet.data.to_csv(index=False, lineterminator="\n")


def terminal(sheet: Sheet, console: Console) -> RichTable:
    """The table for ``rich``: incomplete rows are dim, footnotes stand below. Names are printed as they are, no markup.

    Where it is wider than the console, long texts are broken, then intervals, then each cell before its ±; so the
    paper's rows fit 80 columns.
    """
    endless = console.options.update(max_width=10_000)
    for breaks in range(len(_TEXT)):
        table = _grid(sheet, breaks)
        if Measurement.get(console, endless, table).maximum <= console.width:
            break
    return table


_TEXT = (1000, 28, 28, 14)  # characters of a text in a line: not broken, then broken more and more


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
        cells = []
        for column, text in enumerate(line):
            whole = column == 0 and sheet.left == 1  # a row's name is not broken
            style = "bold" if (index, column) in sheet.bold else ""
            cells.append(Text(text if whole else _broken(text, breaks, column < sheet.left), style))
        out.add_row(*cells, style="dim" if index in sheet.dim else "")
    return out


def _broken(text: str, breaks: int, words: bool) -> str:
    """A text over several lines: the more, the higher ``breaks`` is. ``words``: it is no number."""
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
    aligned = [f"{text:{'<' if at < left else '>'}{widths[at]}}" for at, text in enumerate(texts)]
    return f"| {' | '.join(aligned)} |"


def markdown_text(text: str) -> str:
    """A text for CommonMark, GitHub's and MLflow's Markdown, which show it as it is.

    MLflow's Markdown knows no backslash before ``<``, ``&`` and ``$``, and GitHub's takes $...$ as mathematics.
    """
    text = _MARKS.sub(r"\\\1", text)
    return _ENTITIES.sub(lambda found: f"&#{ord(found[0])};", text)


_MARKS = re.compile(r"([\\|*`~#]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\()")  # ]( would make a link of a name
_ENTITIES = re.compile(r"[<$]|&(?=#?\w+;)")


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
    | {"\\": r"\textbackslash{}", "`": r"\textasciigrave{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "}
    | {"±": r"$\pm$", "×": r"$\times$", "−": "$-$", "√": r"$\surd$", "→": r"$\to$", "Δ": r"$\Delta$"}
    | {"≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$"}
    | {"—": r"\textemdash{}", "–": r"\textendash{}", "…": r"\dots{}", "\u202f": r"\,", "\u00a0": "~"}
    | {letter: rf"$\{name}$" for letter, name in zip("αβγδεζηθικλμνξπρςστυφχψω", _GREEK.split(), strict=True)}
)
