"""A table as Markdown, LaTeX, CSV and on the terminal: the same numbers, the same footnotes. Nothing is written here.

Percent with two decimals, as the paper prints them; "—" where there is no number to show. The best mean of a column is
bold, among complete rows and by what is printed; that is no statement about significance, and the legend says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isnan

import pandas as pd
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from tune_lt.reporting.tables import COLUMNS, Summary, Table

LEGEND = (
    "Accuracy in %: mean ± standard deviation over the runs; 95 % interval of the mean by Student's t. "
    "Bold: the highest mean of the column, not a test of significance."
)
_NONE = "—"
_HEADER = ("Method", *COLUMNS, "Overall 95 % interval", "Runs")


def markdown(table: Table) -> str:
    """GitHub's Markdown: a heading, the table with aligned columns, the footnotes as a list."""
    lines = [_HEADER, *_body(table, bold="**{}**".format, escape=_markdown_escape)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    grid = [_pipes(line, widths) for line in (lines[0], rule, *lines[1:])]
    notes = [f"- {_markdown_escape(note)}" for note in _notes(table)]
    return "\n".join([f"## {_markdown_escape(table.spec.title)}", "", *grid, "", *notes, ""])


def latex(table: Table) -> str:
    r"""A whole ``table`` environment; needs ``\usepackage{booktabs}`` and nothing else.

    The label is ``tab:`` and the spec's name; footnotes stand below the rules.
    """
    body = _body(table, bold=r"\textbf{{{}}}".format, escape=_latex_escape)
    lines = [
        r"% \usepackage{booktabs}; where columns are narrow: table* instead of table",
        r"\begin{table}",
        r"  \centering",
        r"  \footnotesize",
        r"  \setlength{\tabcolsep}{3pt}",
        rf"  \caption{{{_latex_escape(table.spec.title)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', table.spec.name)}}}",
        rf"  \begin{{tabular}}{{@{{}}l{'r' * (len(_HEADER) - 1)}@{{}}}}",
        r"    \toprule",
        _ampersands([_latex_escape(name) for name in _HEADER]),
        r"    \midrule",
        *map(_ampersands, body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\smallskip\raggedright",
        *(rf"  {_latex_escape(note)}\par" for note in _notes(table)),
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def csv(table: Table) -> str:
    """Tidy and in full precision: row, column, mean, std, n, low, high (percent); empty where there is no number.

    An incomplete row has its ``n`` and no numbers.
    """
    lines = [{"row": row, "column": column, **asdict(cell)} for (row, column), cell in table.cells.items()]
    names = ["row", "column", "mean", "std", "n", "low", "high"]
    return pd.DataFrame(lines, columns=names).to_csv(index=False, lineterminator="\n")


def terminal(table: Table) -> RichTable:
    """A table for ``rich``: incomplete rows are dim, footnotes stand below. Names are printed as they are, no markup.

    The paper's rows fit 80 columns, where each cell breaks before its ±.
    """
    out = RichTable(
        title=Text(table.spec.title, style="bold"),
        caption=Text("\n".join(_notes(table)), style="dim"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    out.add_column("Method", no_wrap=True)
    for name in (*COLUMNS, "Overall\n95 % CI", "Runs"):
        out.add_column(name, justify="right", overflow="fold")
    best = _best(table)
    for row in table.spec.rows:
        texts = [text.replace("± ", "±").replace(" runs", "\nruns") for text in _texts(table, row)[1:]]
        styles = ["bold" if (row, column) in best else "" for column in _HEADER[1:]]
        cells = [Text(text, style) for text, style in zip(texts, styles, strict=True)]
        out.add_row(Text(row), *cells, style="dim" if table.missing.get(row) else "")
    return out


def _notes(table: Table) -> tuple[str, ...]:
    return (LEGEND, *table.notes)


def _texts(table: Table, row: str) -> list[str]:
    """One line of the table, a text for each name in the header."""
    overall = table.cells[row, "Overall"]
    runs = f"{overall.n} of {table.spec.expected} runs" if table.missing.get(row) else str(overall.n)
    return [row, *(_mean_std(table.cells[row, column]) for column in COLUMNS), _interval(overall), runs]


def _mean_std(cell: Summary) -> str:
    if isnan(cell.mean):
        return _NONE
    return f"{cell.mean:.2f}" if isnan(cell.std) else f"{cell.mean:.2f} ± {cell.std:.2f}"


def _interval(cell: Summary) -> str:
    return _NONE if isnan(cell.low) else f"[{cell.low:.2f}, {cell.high:.2f}]"


def _best(table: Table) -> set[tuple[str, str]]:
    """The (row, column) of every column's highest printed mean; none where there is nothing to compare with."""
    best: set[tuple[str, str]] = set()
    for column in COLUMNS:
        cells = {(row, column): table.cells[row, column].mean for row in table.spec.rows}
        means = {key: round(mean, 2) for key, mean in cells.items() if not isnan(mean)}
        if len(means) > 1:
            best |= {key for key, mean in means.items() if mean == max(means.values())}
    return best


def _body(table: Table, bold: Callable[[str], str], escape: Callable[[str], str]) -> list[list[str]]:
    best = _best(table)
    return [
        [
            bold(escape(text)) if (row, column) in best else escape(text)
            for column, text in zip(_HEADER, _texts(table, row), strict=True)
        ]
        for row in table.spec.rows
    ]


def _pipes(texts: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(texts, widths, strict=True)
    return f"| {' | '.join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)])} |"


def _markdown_escape(text: str) -> str:
    return re.sub(r"([\\|*`<])", r"\\\1", text)


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
    | {"±": r"$\pm$", "×": r"$\times$", "−": "$-$", "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\to$", "√": r"$\surd$"}
    | {"—": r"\textemdash{}", "–": r"\textendash{}", "…": r"\dots{}", "\u202f": r"\,", "\u00a0": "~"}
    | {letter: rf"$\{name}$" for letter, name in zip("αβγδεζηθικλμνξπρςστυφχψω", _GREEK.split(), strict=True)}
)
