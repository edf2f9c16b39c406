"""Write a report's files: tables, figures and the page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tune_lt.report import formats
from tune_lt.report.collect import Report
from tune_lt.report.page import page
from tune_lt.report.tables.sheet import Sheet


def write_report(report: Report, folder: Path, ui: str | None = None) -> list[Path]:
    """Write tables as Markdown, LaTeX and CSV, figures as PNG and PDF, and the page to ``folder``; returns the files.

    ``ui``: the address of the MLflow UI for the page's links, see `page.html`.
    """
    files = write_sheets((*report.tables, *report.details), folder)
    for name, figure in report.figures.items():
        for suffix in ("png", "pdf"):
            files.append(folder / f"{name}.{suffix}")
            figure.savefig(files[-1], dpi=150)
    files.append(folder / "report.html")
    files[-1].write_text(page.html(report, ui), encoding="utf-8")
    return files


def write_sheets(sheets: Iterable[Sheet], folder: Path) -> list[Path]:
    """Write tables as Markdown, LaTeX and CSV to ``folder``, which is made if need be; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for sheet in sheets:
        for suffix, text in (("md", formats.markdown), ("tex", formats.latex), ("csv", formats.csv)):
            files.append(folder / f"{sheet.name}.{suffix}")
            files[-1].write_text(text(sheet), encoding="utf-8")
    return files
