"""A study's report as one HTML page that needs nothing else: no network, no other file.

The tables can be sorted and every number of a run opens the runs behind it; the figures are plotly's. plotly.js is in
the page, 4.8 MB of it: it is what lets a reader look closer, and its wheel has no smaller build.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from plotly.offline import get_plotlyjs

from tune_lt.report.page import plots
from tune_lt.report.page.blocks import by_factor, norm_blocks, row_blocks, search_blocks
from tune_lt.report.tables import recommendation
from tune_lt.report.tables.sheet import NONE, Sheet, scale_note
from tune_lt.report.tables.summary import Scored
from tune_lt.study import SMALL, command_line

if TYPE_CHECKING:
    from tune_lt.report.collect import Report

LOCAL_UI = "http://127.0.0.1:5000"  # where `tune-lt ui` listens
_NUMBER = re.compile(r"[\[+−-]*\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_TEMPLATES = Path(__file__).parent / "templates"


def html(report: Report, ui: str | None = None) -> str:
    """The page of ``report``. ``ui``: the address of the MLflow UI, for links to runs; else the store's, if it has one,
    else that of `tune-lt ui`.
    """
    styles = plots.styles(report.rows)
    blocks = [*row_blocks(report, styles), *search_blocks(report), *norm_blocks(report)]
    sheets = sorted((*report.tables, *report.details), key=lambda sheet: sheet.name != recommendation.NAME)  # first
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "sort_keys": False}
    recorded = report.recorded
    address = (ui or recorded.server or LOCAL_UI).rstrip("/")
    return environment.get_template("page.html").render(
        study=report.study,
        data=_data_line(report),
        warning=scale_note(recorded.scale),
        ended=_date(recorded.ended or recorded.began),
        sheets=[_table(sheet) for sheet in sheets],
        tested=any("p:" in note for sheet in sheets for note in sheet.notes),
        scored=bool(report.rows),
        searched=bool(report.searches),
        blocks=blocks,
        chips=[(row, styles[row]) for row in report.rows if _has_runs(report.frame, row)],
        shown=report.shown,
        facts=_facts(report),
        classes=_classes(report.by_class),
        recorded=recorded,
        home=f"{address}/#/experiments/{recorded.experiment}/runs/{recorded.run_id}",
        again=_again(report),
        fill=_fill(report),
        page={
            "study": report.study,
            "cells": _cells(sheets),
            "plots": {block.id: block.variants for block in blocks},
            "shades": plots.shades(),
            "shown": report.shown,
            "ui": address,
            "served": bool(ui or recorded.server),
            "fill": _fill(report),
        },
        palette=plots.PALETTE,
        plotly=get_plotlyjs(),
    )


def sort_key(text: str) -> float | None:
    """The number that a cell's text begins with, by which its column is sorted; None where it has none."""
    found = _NUMBER.match(text)
    return float(found[0].lstrip("[+").replace("−", "-")) if found else None


def _table(sheet: Sheet) -> dict[str, Any]:
    """A sheet as the template prints it."""
    lines = []
    for index, line in enumerate(sheet.lines):
        cells = []
        for column, text in enumerate(line):
            behind = sheet.behind.get((index, column))
            opens = behind is not None and bool(behind.runs or behind.missing)
            cells.append(
                {
                    "text": text,
                    "sort": sort_key(text) if column >= sheet.left and not (behind and behind.missing) else None,
                    "bold": (index, column) in sheet.bold,
                    "id": f"{sheet.name}:{index}:{column}" if opens else "",
                    "missing": text == NONE and behind is not None and behind.missing > 0,
                }
            )
        lines.append({"cells": cells, "dim": index in sheet.dim})
    incomplete = [
        sheet.lines[line][0] for line in sorted({line for (line, _), one in sheet.behind.items() if one.missing})
    ]
    return {
        "name": sheet.name,
        "title": sheet.title,
        "header": sheet.header,
        "left": sheet.left,
        "lines": lines,
        "notes": sheet.notes,
        "incomplete": incomplete,
    }


def _cells(sheets: Iterable[Sheet]) -> dict[str, Any]:
    """What the dialog shows of each cell that has runs: seeds, value, run and experiment ids of each."""
    return {
        f"{sheet.name}:{line}:{column}": {
            "runs": list(map(_run, behind.runs)),
            "against": list(map(_run, behind.against)),
            "missing": behind.missing,
        }
        for sheet in sheets
        for (line, column), behind in sheet.behind.items()
    }


def _run(run: Scored) -> list[Any]:
    value = None if math.isnan(run.value) else round(run.value, 4)
    return [run.data_seed, run.init_seed, value, run.run_id, run.experiment]


def _has_runs(frame: pd.DataFrame, row: str) -> bool:
    return not frame.empty and bool((frame["row"] == row).any())


def _data_line(report: Report) -> str:
    frame, tags = report.frame, report.recorded.tags
    parts = [tags.get("dataset", "")]
    if not frame.empty:
        known = report.by_class
        factors = [f"{factor:g}" for factor in sorted(set(frame["imbalance"].dropna()))]
        parts += [f"imbalance {', '.join(factors)}"] if factors else []
        parts += [f"{len(known.iloc[0]['class_counts'])} classes"] if len(known) else []
        parts += [f"{len(report.rows)} rows", f"{frame['run_id'].nunique()} runs"]
    if report.searches:
        trials = sum(len(one.points) for one in report.searches)
        parts.append(f"{len(report.searches)} {'search' if len(report.searches) == 1 else 'searches'}, {trials} trials")
    return " · ".join(part for part in parts if part)


def _facts(report: Report) -> dict[str, Sequence[str]]:
    """Where the numbers come from, by label."""
    recorded, frame = report.recorded, report.frame
    facts: dict[str, Sequence[str]] = {"study": [report.study], "data set": [recorded.tags.get("dataset", "unknown")]}
    facts |= dict(recorded.origins) or {"git commit": [recorded.tags.get("git", "unknown")]}
    if not frame.empty:
        facts["data seeds"] = [", ".join(map(str, sorted(set(frame["data_seed"]))))]
        facts["init seeds"] = [", ".join(map(str, sorted(set(frame["init_seed"]))))]
        facts["runs behind the tables"] = [str(frame["run_id"].nunique())]
    facts["begun"] = [_date(recorded.began)]
    facts["ended"] = [_date(recorded.ended)]
    facts["store"] = [recorded.store]
    return {label: values for label, values in facts.items() if any(values)}


def _classes(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Each imbalance factor's number of training images per class, from head to tail, as of its first run."""
    found = []
    for factor, own in by_factor(frame):
        counts = sorted(own.iloc[0]["class_counts"], reverse=True)
        found.append(("" if factor is None else f"imbalance {factor:g}", ", ".join(map(str, counts))))
    return found


def _again(report: Report) -> list[tuple[str, str]]:
    """The commands that make the report again, and what each is for."""
    commits = report.recorded.origins.get("git commit") or [report.recorded.tags.get("git", "")]
    commit = commits[0].removesuffix("-dirty")
    ways = [(f"git checkout {commit}", "the code of these runs")] if re.fullmatch(r"[0-9a-f]{7,40}", commit) else []
    ways += [
        (_on_file("plan", report), "what the study file below would train, and what it costs"),
        (_on_file("run", report), "all of it; what the store has is not trained again"),
        (f"{command_line('report', report.study)}{_store(report)}", "this page from the store alone"),
    ]
    return ways


def _fill(report: Report) -> str:
    """The command that trains the cells which are missing."""
    return f"{_on_file('run', report)}{_store(report)}"


def _on_file(name: str, report: Report) -> str:
    """A command on the study's file."""
    small = report.recorded.scale == SMALL
    return command_line(name, f"{report.study.removesuffix('-small') if small else report.study}.yaml", small)


def _store(report: Report) -> str:
    return f" --store {shlex.quote(report.recorded.store)}"


def _date(milliseconds: int) -> str:
    if not milliseconds:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
