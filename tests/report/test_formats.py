"""The same table in four formats: what a reader, LaTeX and pandas get."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import nan, sqrt
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from tune_lt.report import formats
from tune_lt.report.tables.sheet import Sheet, of_groups
from tune_lt.report.tables.summary import Runs, Scored, Table

ROWS = ("softmax", "margin", "weight_ura", "margin+weight_ura")
COLUMNS = ("Many", "Medium", "Few", "Rare", "Overall")


NOTES = ("Rows: 50 % & more, α_1 — see §3.",)
MakeTable = Callable[..., Table[str]]


@pytest.fixture
def table(frame: pd.DataFrame, make_table: MakeTable) -> Sheet:
    """softmax and margin+weight_ura complete, margin has 1 of 3 runs, weight_ura none; Rare is empty."""
    return of_groups("ablation", "Ablation on digits", make_table(frame, ROWS, 3), NOTES)


def named(*rows: str, means: Sequence[float] = ()) -> Sheet:
    """A table of rows with two runs each, 50 ± 1 in every column, or ``means`` ± 1."""
    runs = {}
    for row, mean in zip(rows, means or [50.0] * len(rows), strict=True):
        values = ((mean - sqrt(0.5)) / 100, (mean + sqrt(0.5)) / 100)
        scored = tuple(Scored(row, "1", seed, seed, value) for seed, value in enumerate(values))
        runs |= {(row, column): Runs(scored) for column in COLUMNS}
    return of_groups("my_table", "T", Table(rows, COLUMNS, runs))


def printed(table: Sheet, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(formats.terminal(table, console))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def markdown_cells(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_markdown_says_what_there_is(table: Sheet) -> None:
    """softmax: 0.5, 0.6, 0.7 → 60 ± 10, interval 60 ± 4.3027 · 10 / √3 = 60 ± 24.84 (see test_tables)."""
    lines = {cells[0]: cells[1:] for cells in markdown_cells(formats.markdown(table))}
    assert lines["Method"] == [*COLUMNS, "Overall 95 % interval", "Runs"]
    assert lines["softmax"] == [
        "**90.00 ± 0.00**",
        "60.00 ± 10.00",
        "30.00 ± 5.00",
        "—",
        "60.00 ± 10.00",
        "[35.16, 84.84]",
        "3",
    ]
    assert lines["margin"] == ["—"] * 6 + ["1 of 3 runs"]
    assert lines["weight_ura"] == ["—"] * 6 + ["0 of 3 runs"]


def test_markdown_columns_are_aligned(table: Sheet) -> None:
    text = formats.markdown(table)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(ROWS)
    assert len({len(line) for line in lines}) == 1
    bars = [[i for i, character in enumerate(line) if character == "|"] for line in lines]
    assert all(positions == bars[0] for positions in bars)
    assert len(bars[0]) == 9
    assert re.fullmatch(r"\| -+ (\| -+: ){7}\|", lines[1])


def test_markdown_escapes_a_pipe_in_a_name() -> None:
    cells = markdown_cells(formats.markdown(named("a|b*c", "d")))
    assert cells[2][0] == r"a\|b\*c"
    assert {len(line) for line in cells} == {8}


HOSTILE = st.text("ab1 $\\_*`~|<>&;#[]()!^%{}\"'=+-.@:/é字🙂", min_size=1, max_size=12).map(str.strip).filter(len)
EXAMPLES = settings(derandomize=True, max_examples=300, deadline=None, database=None)


def shown(parser: MarkdownIt, text: str) -> list[str]:
    """What a reader sees of each heading, table cell and list item, if all of it is plain text."""
    inline = [token.children or [] for token in parser.parse(text) if token.type == "inline"]
    assert {child.type for children in inline for child in children} == {"text"}
    return ["".join(child.content for child in children) for children in inline]


@EXAMPLES
@given(HOSTILE)
@example("~~x~~ __y__ ##")
def test_markdown_shows_a_name_as_it_is(name: str) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    sheet = Sheet("s", f"The {name}", ("Row", name), ((name, f"x {name}"),), pd.DataFrame(), (f"Of {name}.",), left=2)
    text = formats.markdown(sheet)
    assert shown(parser, text) == [f"The {name}", "Row", name, name, f"x {name}", f"Of {name}."]
    assert "$" not in text, "GitHub would take it for mathematics"


@EXAMPLES
@given(HOSTILE)
def test_latex_prints_a_name_as_it_is(name: str) -> None:
    """Read by the rules of TeX: what is escaped, the ligatures of its fonts, and its quotation marks."""
    words = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">"}
    words |= {"textbar": "|", "textasciigrave": "`"}
    lines = formats.latex(Sheet("s", name, ("Row",), ((name,),), pd.DataFrame())).splitlines()
    row = lines[lines.index(r"    \midrule") + 1].removeprefix("    ").removesuffix(r" \\").removeprefix("{}")
    row = row.replace("``", '"').replace("''", '"') if '"' in name else row
    read, at = "", 0
    token = re.compile(r"\\([a-zA-Z]+)\{\}|\\([&%$#_{}])|(\{\})|([^\\&%$#_{}~^<>|`])")
    while at < len(row):
        found = token.match(row, at)
        assert found, row[at:]
        assert row[at : at + 2] not in ("--", "?`", "!`"), "a ligature"
        read += words[found[1]] if found[1] else found[2] or found[4] or ""
        at = found.end()
    assert read == name.replace("''", '"' if '"' in name else "''")


def test_the_best_of_a_column_is_bold_ties_included(table: Sheet) -> None:
    lines = {cells[0]: cells[1:] for cells in markdown_cells(formats.markdown(table))}
    bold = {row: [cell.startswith("**") for cell in cells] for row, cells in lines.items()}
    assert bold["margin+weight_ura"] == [True, True, True, False, True, False, False]
    assert bold["softmax"] == [True, False, False, False, False, False, False]
    assert not any(bold["margin"])  # its one run is the best there is, and says nothing yet


def test_ties_are_judged_by_what_is_printed() -> None:
    """50.001 and 49.999 both print as 50.00."""
    assert formats.markdown(named("a", "b", means=(49.999, 50.001))).count("**50.00 ± 1.00**") == 10


def test_a_single_row_is_not_the_best_of_anything() -> None:
    assert "**" not in formats.markdown(named("softmax"))


def test_one_run_is_shown_without_spread(frame: pd.DataFrame, make_table: MakeTable) -> None:
    table = of_groups("t", "T", make_table(frame, ["margin"], 1))
    assert markdown_cells(formats.markdown(table))[2] == ["margin", "90.00", "99.00", "49.50", "—", "99.00", "—", "1"]


@pytest.mark.parametrize("form", [formats.markdown, formats.latex])
def test_no_nan_is_ever_printed(form: object, table: Sheet) -> None:
    assert "nan" not in form(table).lower()  # type: ignore[operator]


def test_footnotes_stand_below_every_table(table: Sheet) -> None:
    assert "- Rows: 50 % & more, α_1 — see §3." in formats.markdown(table).splitlines()
    assert r"Rows: 50 \% \& more, $\alpha$\_1 \textemdash{} see §3.\par" in formats.latex(table)
    assert any("Rows: 50 % & more" in line for line in printed(table, 140))
    assert "not a test of significance" in formats.markdown(table)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("margin+weight_ura", r"margin+weight\_ura"),
        ("a_b&c%", r"a\_b\&c\%"),
        ("$5 #1 {x}", r"\$5 \#1 \{x\}"),
        (r"back\slash~^", r"back\textbackslash{}slash\textasciitilde{}\textasciicircum{}"),
        ("γ<1|α>0", r"$\gamma$\textless{}1\textbar{}$\alpha$\textgreater{}0"),
        ('say "x" --now', r"say ``x'' -{}-now"),
        ("[x]", "{}[x]"),
        ("*x", "{}*x"),
    ],
)
def test_latex_escapes_names(name: str, escaped: str) -> None:
    lines = formats.latex(named(name)).splitlines()
    assert rf"    {escaped} & 50.00 $\pm$ 1.00 &" in lines[lines.index(r"    \midrule") + 1]


def test_latex_is_a_whole_table(table: Sheet) -> None:
    text = formats.latex(table)
    order = ["begin{table}", "caption{", "label{tab:ablation}", "begin{tabular}", "toprule", "midrule", "bottomrule"]
    order += ["end{tabular}", "end{table}"]
    positions = [text.index("\\" + word) for word in order]
    assert positions == sorted(positions)
    columns = re.search(r"begin\{tabular\}\{@\{\}(\w+)@\{\}\}", text)
    assert columns
    assert columns[1] == "lrrrrrrr"
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == 1 + len(ROWS)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {7}
    assert r"\textbf{80.00 $\pm$ 10.00}" in text


def test_latex_is_balanced(table: Sheet) -> None:
    for text in (formats.latex(table), formats.latex(named("{a_b&c%", "$}"))):
        bare = re.sub(r"\\.", "", text.replace("\n", " "))  # without \{, \}, \$ and the like
        depth = 0
        for character in bare:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0
        assert depth == 0
        assert bare.count("$") % 2 == 0


def test_latex_labels_are_plain() -> None:
    assert r"\label{tab:my-table}" in formats.latex(named("a"))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(table: Sheet, tmp_path: Path) -> None:
    tables = formats.latex(table) + formats.latex(named("a_b&c%", r"\{$", "[x]", "*y"))
    page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{tables}\end{{document}}"
    (tmp_path / "t.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_csv_read_back_is_the_table(frame: pd.DataFrame, make_table: MakeTable) -> None:
    """Every digit: the file is what further calculations start from."""
    table = make_table(frame, ROWS, 3)
    back = pd.read_csv(io.StringIO(formats.csv(of_groups("ablation", "T", table))))
    assert list(back.columns) == ["row", "column", "mean", "std", "n", "low", "high"]
    expected = pd.DataFrame([{"row": r, "column": c, **asdict(runs.summary)} for (r, c), runs in table.runs.items()])
    pd.testing.assert_frame_equal(back, expected, rtol=1e-14, check_dtype=False)


def test_csv_leaves_the_numbers_of_a_missing_row_empty(table: Sheet) -> None:
    lines = formats.csv(table).splitlines()
    assert "margin,Overall,,,1,," in lines
    assert "weight_ura,Many,,,0,," in lines
    assert "softmax,Rare,,,3,," in lines


def test_terminal_fits_eighty_columns_without_losing_a_character(table: Sheet, make_table: MakeTable) -> None:
    long = of_groups("t", "T", make_table([], ["margin+weight_aura"], 3))
    for lines in (printed(table, 80), printed(long, 80)):
        assert max(map(len, lines)) <= 80
        assert not any("…" in line for line in lines)
        assert any(re.search(r"Many +Medium +Few +Rare +Overall +95 % CI +Runs", line) for line in lines)
    assert any(re.search(r"±10\.00 .*84\.84\]", line) for line in printed(table, 80))


def test_terminal_on_a_wide_screen(table: Sheet) -> None:
    lines = printed(table, 140)
    softmax = next(line for line in lines if line.startswith("softmax"))
    assert re.split(r" {2,}", softmax.strip()) == [
        "softmax", "90.00 ±0.00", "60.00 ±10.00", "30.00 ±5.00", "—", "60.00 ±10.00", "[35.16, 84.84]", "3",
    ]  # fmt: skip
    assert next(line for line in lines if line.startswith("margin ")).rstrip().endswith("1 of 3")


def test_terminal_prints_names_and_titles_as_they_are() -> None:
    table = named("[bold]x[/bold]")
    assert any(line.startswith("[bold]x[/bold]") for line in printed(table, 140))


def test_empty_groups_do_not_hide_a_rows_runs() -> None:
    """A complete row whose classes have no test images at all: dashes, and its runs."""
    assert markdown_cells(formats.markdown(named("a", means=[nan])))[2] == ["a", "—", "—", "—", "—", "—", "—", "2"]


@pytest.fixture
def compared(make_line: Callable[..., dict[str, Any]], make_table: MakeTable) -> Sheet:
    """Five pairs with a difference of 1, 2, 3, 4, 5 points, whose p is 0.013 (test_comparison)."""
    lines = [
        make_line(row, seed, [0.5 + (seed + 1) / 100 * (row != "softmax")] * 5)
        for row in ("softmax", "margin+weight_aura")
        for seed in range(5)
    ]
    rows = ("softmax", "margin+weight_aura")
    return of_groups("t", "T", make_table(lines, rows, 5, "softmax"))


def test_differences_from_the_reference_have_a_column(compared: Sheet) -> None:
    header, _, softmax, own = markdown_cells(formats.markdown(compared))
    assert header[7] == "Δ Overall vs softmax [95 % CI]"
    assert (softmax[7], own[7]) == ("—", "+3.00 [+1.04, +4.96], p 0.013")
    assert r"+3.00 [+1.04, +4.96], p 0.013" in formats.latex(compared)
    assert r"$\Delta$ Overall vs softmax" in formats.latex(compared)
    assert any("Holm" in note for note in compared.notes)


def test_negative_differences_have_a_minus_sign(
    make_line: Callable[..., dict[str, Any]], make_table: MakeTable
) -> None:
    lines = [make_line(row, 0, [value] * 5) for row, value in (("softmax", 0.5), ("a", 0.4))]
    sheet = of_groups("t", "T", make_table(lines, ("softmax", "a"), 1, "softmax"))
    assert markdown_cells(formats.markdown(sheet))[3][7] == "−10.00"
    assert "$-$10.00" in formats.latex(sheet)
    assert any("too few seeds for an interval" in note for note in sheet.notes)


def test_with_differences_it_still_fits_eighty_columns(compared: Sheet) -> None:
    lines = printed(compared, 80)
    assert max(map(len, lines)) <= 80
    assert {"[+1.04,", "+4.96]"} <= {word for line in lines for word in line.split()}  # broken between words alone
    assert any(line.rstrip().endswith("p 0.013") for line in lines)
    assert any(re.search(r"\+3\.00 \[\+1\.04, \+4\.96\], p 0\.013", line) for line in printed(compared, 160))


def test_text_columns_are_on_the_left() -> None:
    sheet = Sheet("s", "S", ("Choice", "Found", "score"), (("best", "alpha 0.5", "1"),), pd.DataFrame(), left=2)
    assert formats.markdown(sheet).splitlines()[2:5] == [
        "| Choice | Found     | score |",
        "| ------ | --------- | ----: |",
        "| best   | alpha 0.5 |     1 |",
    ]
    assert "{@{}llr@{}}" in formats.latex(sheet)
