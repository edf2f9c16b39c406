"""A study's report as one HTML page that needs nothing else: no network, no other file.

A reader can sort the tables and open the runs behind every number. plotly.js draws the figures and lets a reader zoom
into them. It is part of the page, with 4.8 MB: the plotly package has no smaller build.
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
from plotly.offline import get_plotlyjs

from tune_lt.report.page import plots
from tune_lt.report.page.blocks import by_factor, norm_block, row_blocks, search_blocks, variant
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
    """The page of ``report``.

    Links to runs lead to ``ui``, the address of an MLflow UI; else to the store, if it is a server; else to where
    `tune-lt ui` listens.
    """
    recorded, styles = report.recorded, plots.styles(report.rows)
    found = (*row_blocks(report, styles), *search_blocks(report), norm_block(report))
    blocks = [block for block in found if block.variants]
    sheets = sorted((*report.tables, *report.details), key=lambda sheet: sheet.name != recommendation.NAME)  # first
    with_runs = set(report.frame.get("row", ()))
    fill, again = _commands(report)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "sort_keys": False}
    return environment.get_template("page.html").render(
        report=report,
        recorded=recorded,
        data=_data_line(report),
        warning=scale_note(recorded.scale),
        ended=_date(recorded.ended or recorded.began),
        sheets=sheets,
        sort_key=sort_key,
        incomplete=_incomplete,
        dash=NONE,
        tested=any("p_holm" in sheet.data and sheet.data["p_holm"].notna().any() for sheet in sheets),
        blocks=blocks,
        chips=[(row, style) for row, style in styles.items() if row in with_runs],
        facts=_facts(report),
        classes=_classes(report),
        again=again,
        page={
            "study": report.study,
            "cells": _cells(sheets),
            "plots": {block.id: block.variants for block in blocks},
            "shades": plots.shades(),
            "shown": report.shown,
            "ui": (ui or recorded.server or LOCAL_UI).rstrip("/"),
            "served": bool(ui or recorded.server),
            "fill": fill,
        },
        palette=plots.PALETTE,
        plotly=get_plotlyjs(),
    )


def sort_key(text: str) -> float | None:
    """The number that a cell's text begins with, by which its column is sorted; None where it has none."""
    found = _NUMBER.match(text)
    return float(found[0].lstrip("[+").replace("−", "-")) if found else None


def _incomplete(sheet: Sheet) -> list[str]:
    """The names of a sheet's lines that lack runs."""
    return list(dict.fromkeys(sheet.lines[line][0] for (line, _), behind in sheet.behind.items() if behind.missing))


def _cells(sheets: Iterable[Sheet]) -> dict[str, Any]:
    """What the dialog shows of each cell that has runs, by the cell's table, line and column."""
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


def _data_line(report: Report) -> str:
    """The line below the title: the data set, and how many classes, rows, runs and trials there are."""
    frame = report.frame
    parts = [report.recorded.tags.get("dataset", "")]
    if not frame.empty:
        factors = [f"{factor:g}" for factor in sorted(set(frame["imbalance"].dropna()))]
        parts += [f"imbalance {', '.join(factors)}"] if factors else []
        known = report.by_class
        parts += [f"{len(known.iloc[0]['class_counts'])} classes"] if len(known) else []
        parts += [f"{len(report.rows)} rows", f"{frame['run_id'].nunique()} runs"]
    if report.searches:
        trials = sum(len(one.points) for one in report.searches)
        parts.append(f"{len(report.searches)} {'search' if len(report.searches) == 1 else 'searches'}, {trials} trials")
    return " · ".join(filter(None, parts))


def _facts(report: Report) -> dict[str, Sequence[str]]:
    """Where the numbers come from, by label."""
    recorded, frame = report.recorded, report.frame
    facts: dict[str, Sequence[str]] = {"study": [report.study], "data set": [recorded.tags.get("dataset", "unknown")]}
    facts |= recorded.origins or {"git commit": [recorded.tags.get("git", "unknown")]}
    if not frame.empty:
        facts["data seeds"] = [", ".join(map(str, sorted(set(frame["data_seed"]))))]
        facts["init seeds"] = [", ".join(map(str, sorted(set(frame["init_seed"]))))]
        facts["runs behind the tables"] = [str(frame["run_id"].nunique())]
    facts |= {"begun": [_date(recorded.began)], "ended": [_date(recorded.ended)], "store": [recorded.store]}
    return {label: values for label, values in facts.items() if any(values)}


def _classes(report: Report) -> list[tuple[str, str]]:
    """For each imbalance factor: its label, and the training images per class, from head to tail, of its first run."""
    return [
        (variant(report, factor), ", ".join(map(str, sorted(own.iloc[0]["class_counts"], reverse=True))))
        for factor, own in by_factor(report.by_class)
    ]


def _commands(report: Report) -> tuple[str, list[tuple[str, str]]]:
    """The command that trains the missing cells, and those that make the report again, each with what it is for."""
    recorded = report.recorded
    small = recorded.scale == SMALL
    file = f"{report.study.removesuffix('-small') if small else report.study}.yaml"
    run, store = command_line("run", file, small), f" --store {shlex.quote(recorded.store)}"
    commit = (recorded.origins.get("git commit") or [recorded.tags.get("git", "")])[0].removesuffix("-dirty")
    ways = [(f"git checkout {commit}", "the code of these runs")] if re.fullmatch(r"[0-9a-f]{7,40}", commit) else []
    ways += [
        (command_line("plan", file, small), "what the study file would train, and what that costs"),
        (run, "trains and writes everything; what the store has is not trained again"),
        (f"{command_line('report', report.study)}{store}", "this page from the store alone"),
    ]
    return f"{run}{store}", ways


def _date(milliseconds: int) -> str:
    """Milliseconds since 1970 as a date and time; "" for 0, which is unknown."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC" if milliseconds else ""
