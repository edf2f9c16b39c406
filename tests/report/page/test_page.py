"""The page of a report: read back with an HTML parser and compared with what was recorded."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import pytest
from mlflow.entities import Metric

from tune_lt.documents import Norms, SearchResult, Trial
from tune_lt.report import collect
from tune_lt.report.collect import Report
from tune_lt.report.page import norm_plots, page, plots, search_plots
from tune_lt.store import TAG
from tune_lt.study import Study

if TYPE_CHECKING:
    from tests.report.conftest import Recorded

pytestmark = pytest.mark.long
ROWS = ("softmax", "focal", "ghm_cwap")
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> %{row}"


class Page(HTMLParser):
    """What a test asks of a page: the start tags with their attributes, tables' cells, scripts' and other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, dict[str, str | None]]]]] = {}
        self.scripts: list[str] = []
        self.text = ""
        self._open = ""
        self._rows: list[list[tuple[str, dict[str, str | None]]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._open = tag
        if tag == "table":
            self._rows = self.tables[str(attributes["data-name"])] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append(("", attributes))
        elif tag == "button" and "data-cell" in attributes:
            self._rows[-1][-1][1]["data-cell"] = attributes["data-cell"]
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag in ("script", "style", "table") else self._open
        if tag == "table":
            self._rows = []

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data
            if self._open in ("td", "th", "button", "b", "span") and self._rows and self._rows[-1]:
                text, attributes = self._rows[-1][-1]
                self._rows[-1][-1] = (text + data.strip(), attributes)

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])  # type: ignore[no-any-return]


def scores(seed: int = 0) -> dict[tuple[str, int], float]:
    draw = random.Random(seed)
    return {(row, at): draw.uniform(0.4, 0.9) for row in ROWS for at in range(5)}


def collected(store: Recorded, text: str, gone: frozenset[tuple[str, int]] = frozenset()) -> Report:
    score = scores()
    store.rows(store.study(text), {}, lambda row, factor, data, init: None if (row, data) in gone else score[row, data])
    return collect.collect(store.store, "rows")


@pytest.fixture(scope="module")
def found(recorded_once: Recorded, three_rows: str) -> Report:
    """The report of a study of three rows, each with five runs."""
    return collected(recorded_once, three_rows)


@pytest.fixture(autouse=True)
def _without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser takes seconds for its 4.8 MB."""
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "/* plotly.js */")


def norms(edges: Mapping[str, Sequence[float]] | None, groups: Sequence[str] = ("all", "many", "rare")) -> Norms:
    draw = random.Random(0)
    counts = {name: [draw.randrange(50) for _ in range(100)] for name in (*groups, "largest", "smallest")}
    return Norms(100, counts, 0, 2, edges, classes={"largest": "cat", "smallest": "lynx"})


def test_every_number_of_a_table_is_on_the_page_and_sorts_by_itself(found: Report) -> None:
    parsed = Page(page.html(found))
    assert list(parsed.tables) == [sheet.name for sheet in (*found.tables, *found.details)]
    for sheet in found.tables:
        header, *lines = parsed.tables[sheet.name]
        assert [text for text, _ in header] == list(sheet.header)
        assert [tuple(text for text, _ in line) for line in lines] == list(sheet.lines)
        means = {(row, column): mean for row, column, mean in sheet.data[["row", "column", "mean"]].values.tolist()}
        for line in lines:
            for (name, _), (_, attributes) in zip(header, line, strict=True):
                if (line[0][0], name) in means:
                    assert float(str(attributes["data-value"])) == round(means[line[0][0], name], 2)
        for note in sheet.notes:
            assert note in parsed.text


def test_the_runs_behind_a_number_are_those_it_is_the_mean_of(recorded_once: Recorded, found: Report) -> None:
    store, score = recorded_once.store, scores()
    parent = store.parent("rows")
    assert parent is not None
    entries = store.read_json(parent.info.run_id, "cells.json")["rows"]
    finished = store.finished_cells()
    cells = Page(page.html(found)).data["cells"]
    (sheet,) = found.tables
    for line, (row, *_) in enumerate(sheet.lines):
        ids = {entry["data_seed"]: finished[entry["fingerprint"]].run_id for entry in entries[row]}
        expected = [[at, at, round(100 * score[row, at], 4), ids[at], parent.info.experiment_id] for at in range(5)]
        for column, name in enumerate(sheet.header):
            behind = cells.get(f"{sheet.name}:{line}:{column}")
            if name == "Method" or (name.startswith("Δ") and row == "softmax"):
                assert behind is None
                continue
            assert sorted(behind["runs"]) == expected
            assert behind["missing"] == 0
            if name.startswith("Δ"):
                softmax = {at: round(100 * score["softmax", at], 4) for at in range(5)}
                assert {run[0]: run[2] for run in behind["against"]} == softmax
            else:
                assert behind["against"] == []


def test_a_missing_cell_is_shown_as_missing_with_the_command_that_fills_it(recorded: Recorded, three_rows: str) -> None:
    found = collected(recorded, three_rows, gone=frozenset({("focal", 3), ("focal", 4)}))
    parsed = Page(page.html(found))
    (sheet,) = found.tables
    line = parsed.tables[sheet.name][1 + [row for row, *_ in sheet.lines].index("focal")]
    assert line[1][0] == "—missing"  # the word is for readers of screens
    assert "data-value" not in line[1][1]
    behind = parsed.data["cells"][line[1][1]["data-cell"]]
    assert (behind["missing"], sorted(run[0] for run in behind["runs"])) == (2, [0, 1, 2])
    assert "Runs are missing of focal; tune-lt run rows.yaml --store sqlite:///" in " ".join(parsed.text.split())


def test_names_that_are_markup_stay_text(found: Report) -> None:
    frame = found.frame.assign(row=HOSTILE)
    frame["class_names"] = [[HOSTILE] * 3] * len(frame)
    (sheet,) = found.tables
    renamed = replace(sheet, title=HOSTILE, notes=(HOSTILE,), lines=((HOSTILE, *sheet.lines[0][1:]),))
    curves = {("train/loss", 20.0): {HOSTILE: ((1, 2), (0.5, 0.4))}}
    changed = replace(
        found,
        study=HOSTILE,
        frame=frame,
        tables=(renamed,),
        rows=(HOSTILE,),
        shown=(HOSTILE,),
        recorded=replace(found.recorded, text=HOSTILE, curves=curves, norms={20.0: {HOSTILE: norms(None)}}),
    )
    text = page.html(changed)
    parsed = Page(text)
    assert [tag for tag, _ in parsed.tags].count("script") == 3
    assert [tag for tag, _ in parsed.tags].count("img") == 0
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert parsed.tables[sheet.name][1][0][0] == "".join(HOSTILE.split("\n"))
    shown = [json.dumps(plot) for block in parsed.data["plots"].values() for some in block.values() for plot in some]
    meta = json.dumps({"row": HOSTILE})[1:-1]  # not drawn: by it the script finds a row's traces
    assert shown
    assert not any("<script" in plot.replace(meta, "") or "<img" in plot.replace(meta, "") for plot in shown)
    assert not any("%{row}" in plot.replace(meta, "") for plot in shown), "plotly puts a value in its place"


def test_the_page_asks_the_network_for_nothing(found: Report) -> None:
    parsed = Page(page.html(found))
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            address = attributes.get(name) or ""
            if name == "href" and "target" in attributes:
                assert address.startswith("http://127.0.0.1:5000/#/experiments/")  # followed by a reader alone
                continue
            assert re.match(r"#|data:,$|$", address), (tag, name, address)
    own = next(text for text in parsed.scripts if "page-data" in text)
    assert not re.search(r"localStorage|sessionStorage|fetch\(|XMLHttpRequest|import\(", own)


def test_a_server_is_linked_to_and_a_file_says_how_to_open_it(found: Report) -> None:
    assert [Page(page.html(found)).data[name] for name in ("ui", "served")] == ["http://127.0.0.1:5000", False]
    server = replace(found, recorded=replace(found.recorded, server="http://mlflow:5000"))
    assert [Page(page.html(server)).data[name] for name in ("ui", "served")] == ["http://mlflow:5000", True]
    assert Page(page.html(server, "https://lab.example/")).data["ui"] == "https://lab.example"


def test_links_lead_to_web_pages_alone(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = cli("report", "rows", "--ui", "javascript:alert(1)")
    assert code == 2
    assert err.startswith("error: --ui javascript:alert(1): ")
    assert "valid: one such as http://127.0.0.1:5000" in err


@pytest.mark.parametrize(
    ("scale", "command"),
    [
        ("full", "tune-lt run rows-full.yaml"),
        ("small", "tune-lt run rows.yaml --small"),
        ("smoke", "tune-lt run rows-smoke.yaml"),  # of an older version, which had forms of other names
    ],
)
def test_a_smaller_scale_is_warned_of(found: Report, scale: str, command: str) -> None:
    smaller = replace(found, study=f"rows-{scale}", recorded=replace(found.recorded, tags={"scale": scale}))
    text = " ".join(Page(page.html(smaller)).text.split())
    warning = f"Scale {scale}: smaller than the study is meant to be; no number of it is the study's."
    assert (warning in text) == (scale != "full")
    assert command in text
    assert ("--small" in text) == (scale == "small")


def test_every_figure_is_one_that_plotly_knows(
    recorded: Recorded, two_metrics: str, two_metric_trials: list[Trial]
) -> None:
    """plotly's own checks of every property: of a study with a search of two metrics, rows, curves and norms."""
    study = recorded.study(f"{two_metrics}rows: {{softmax: {{loss: {{name: softmax}}}}, best: {{}}}}\nseeds: [0, 1]\n")
    score = {"val/top1": 0.8, "val/rare": 0.3, "val/many": 0.95}
    trials = [*two_metric_trials, Trial({"loss/alpha": 0.95}, "failed")]
    found = recorded.search(study, trials, reference=score)
    recorded.rows(study, found, lambda row, factor, data, init: 0.5 + 0.1 * init)
    store = recorded.store
    for record in store.finished_cells().values():
        history = [Metric("train/loss", 1 / epoch, 0, epoch) for epoch in range(1, 5)]
        store.client.log_batch(record.run_id, metrics=history)
        edges = {"largest": [0, 0.2, 0.2, 1], "smallest": [0, 0.5, 0.75, 1]}
        store.log_json(record.run_id, "norms.json", norms(edges).content())
    parsed = Page(page.html(collect.collect(store, "two")))
    figures = parsed.data["plots"]
    labels = [label for block in figures.values() if len(block) > 1 for label in block]
    assert [attributes["value"] for tag, attributes in parsed.tags if tag == "option"] == labels
    assert set(figures) == {"sizes", "trade", "learning", "search", "pareto", "norms"}
    assert list(figures["norms"]) == ["best", "softmax"]  # the searched row first
    assert [len(figures["norms"]["best"]), len(figures["search"]["ghm_cwap"])] == [3, 2]
    assert figures["learning"]["train/loss"][0]["data"][0]["y"] == [1, 0.5, round(1 / 3, 4), 0.25]
    for block in figures.values():
        for some in block.values():
            for plot in some:
                go.Figure(plot)


def test_class_sizes_against_a_plain_loop(make_line: Callable[..., dict[str, Any]]) -> None:
    """Classes of 4, 100 and 20 images: from head to tail the second, the third, the first."""
    import pandas as pd

    lines = [make_line("a", seed, (0.9, 0.5, value, math.nan, 0.6)) for seed, value in enumerate((0.2, 0.4))]
    styles = plots.styles(["a"])
    band, line = plots.class_sizes(pd.DataFrame(lines), styles, by_images=True)["data"]
    assert line["x"] == [100, 20, 4]
    assert line["y"] == pytest.approx([90, 50, 30])
    assert band["y"][2] == pytest.approx(30 + math.sqrt(200), abs=1e-3)  # 20 and 40: std √(2 · 10²)
    assert "lynx · 4 training images<br>30.00 ± 14.14 %" in line["text"][2]


def test_a_row_has_one_style_and_dark_colours_are_others() -> None:
    styles = plots.styles([f"row {index}" for index in range(60)])
    assert len({(style.colour, style.mark, style.dash) for style in styles.values()}) == 60
    shades = plots.shades()
    assert all(style.colour in shades and plots.tint(style.colour) in shades for style in styles.values())
    assert not set(shades) & set(shades.values())


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_texts_and_lines_stand_out_on_both_pages(found: Report) -> None:
    """WCAG AA: 4.5 : 1 for texts, 3 : 1 for graphics."""
    style = page.html(found).split("@media print")[0]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for text in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", text))
        for name in ("ink", "quiet", "link"):
            assert min(contrast(colours[name], colours[back]) for back in ("page", "soft")) >= 4.5, name
        assert contrast(colours["warn"], colours["warnback"]) >= 4.5
        hues = [colour for name, colour in colours.items() if name.startswith("hue")]
        assert len(hues) == len(plots.PALETTE)
        assert min(contrast(hue, colours["page"]) for hue in hues) >= 3


@pytest.mark.parametrize("edges", [[0, 0.5, 1], [0, 0.013, 0.4999, 0.5, 0.77, 1], [0, 0.2, 0.2, 1]])
def test_a_regions_density_against_a_plain_loop(edges: list[float]) -> None:
    """A region without width has no density, and so no bar."""
    content = norms({"largest": edges, "smallest": edges})
    counts = content.counts["largest"]
    bars = norm_plots.norms(content)[-1]["data"][1]
    expected = []
    for low, high in pairwise(edges):
        inside = 0.0
        for index, count in enumerate(counts):
            overlap = max(0.0, min(high, (index + 1) / 100) - max(low, index / 100))
            inside += count / sum(counts) * overlap * 100
        if high > low:
            expected.append(inside / (high - low))
    assert bars["type"] == "bar"
    assert bars["y"] == pytest.approx(expected, rel=1e-4)
    assert bars["width"] == pytest.approx([high - low for low, high in pairwise(edges) if high > low])


def test_a_loss_without_regions_has_only_the_groups_densities() -> None:
    assert len(norm_plots.norms(norms(None))) == 1
    (panel,) = norm_plots.norms(norms(None, groups=("all", "many", "few")))
    assert [trace["name"] for trace in panel["data"]] == ["all", "many", "few"]


def test_equal_regions_are_drawn_once() -> None:
    equal = [0, 0.25, 0.5, 0.75, 1]
    titles = [
        panel["layout"]["title"]["text"] for panel in norm_plots.norms(norms({"largest": equal, "smallest": equal}))
    ]
    assert titles == ["(a) groups of classes", "(b) URA: 4 equal regions"]


def searched(trials: int) -> SearchResult:
    """The metric follows alpha alone."""
    draw = random.Random(0)
    points = []
    for index in range(trials):
        alpha = draw.uniform(0.3, 1)
        found = {"loss/alpha": alpha, "loss/gamma": draw.uniform(0, 2), "loss/aura": index % 2 == 0, "loss/n": 30}
        points.append(Trial(found, "complete", {"val/top1": alpha}, epochs=1))
    best = max(points, key=lambda point: point.value("val/top1"))
    return SearchResult("ghm_cwap", "", trials, ("val/top1",), {}, {}, tuple(points), best)


def test_the_dimension_that_decides_has_the_importance() -> None:
    shares = search_plots.importances(searched(20))
    assert shares["loss/alpha"] > 0.9
    assert "loss/n" not in shares  # it never varied
    assert sum(shares.values()) == pytest.approx(1)


def test_few_trials_have_no_importance_and_the_page_says_why(found: Report) -> None:
    assert search_plots.importances(searched(9)) == {}
    text = Page(page.html(replace(found, searches=(searched(9),)))).text
    assert "No importance of hyper-parameters for ghm_cwap: " in text


def test_the_trial_behind_a_searchs_number_is_found(
    recorded: Recorded, alphas: Study, alpha_trials: list[Trial]
) -> None:
    """Two runs tried alpha 0.6; that with another value is of an earlier form of the study."""
    recorded.search(alphas, alpha_trials)
    client, experiment = recorded.store.client, recorded.store.experiment("alphas")
    ids = []
    for value in (0.7, 0.8):
        own = {"kind": "trial", "row": "search", "searched": "ghm_cwap", "outcome": "complete", "data_seed": "0"}
        own |= {"init_seed": "1", "found": json.dumps({"loss/alpha": 0.6})}
        run = client.create_run(experiment, tags={f"{TAG}{name}": text for name, text in own.items()})
        client.log_batch(run.info.run_id, metrics=[Metric("val/balanced", value, 0, 0)])
        ids.append(run.info.run_id)
    cells = Page(page.html(collect.collect(recorded.store, "alphas"))).data["cells"]
    assert cells == {"search_ghm_cwap:0:2": {"runs": [[0, 1, 80.0, ids[1], experiment]], "against": [], "missing": 0}}


def test_a_bounded_number_of_histories_is_read(
    recorded: Recorded, three_rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected(recorded, three_rows)
    for record in recorded.store.finished_cells().values():
        history = [Metric("train/loss", 1 / epoch, 0, epoch) for epoch in range(1, 3)]
        recorded.store.client.log_batch(record.run_id, metrics=history)
    monkeypatch.setattr("tune_lt.report.study_run.MOST_HISTORIES", 2)
    found = collect.collect(recorded.store, "rows")
    assert [list(rows) for rows in found.recorded.curves.values()] == [["softmax", "focal"]]
    assert found.recorded.left_out == 1
    assert "1 more histories are left out" in Page(page.html(found)).text


def test_sixty_rows_stay_below_six_megabytes(found: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    monkeypatch.undo()  # with plotly.js

    names = [f"row {index}" for index in range(60)]
    classes = {"class_counts": list(range(1000, 0, -1)), "class_names": [f"class {index}" for index in range(1000)]}
    lines = [found.frame.iloc[0].to_dict() | {"row": name, "data_seed": seed} for name in names for seed in range(3)]
    frame = pd.DataFrame([line | classes | {"per_class": [0.5] * 1000} for line in lines])
    text = page.html(replace(found, frame=frame, rows=tuple(names), shown=tuple(names[:3])))
    assert len(text.encode()) < 6e6


def test_a_cells_number_is_read_as_it_is_printed() -> None:
    texts = {"71.20 ± 1.00": 71.2, "[−1.50, 3.00]": -1.5, "+2.00 [+1.00, +3.00]": 2, "−0.25": -0.25, "5/4 of 5 runs": 5}
    assert {text: page.sort_key(text) for text in [*texts, "—", "alpha 0.6"]} == {**texts, "—": None, "alpha 0.6": None}
