"""The commands that show what a store has: status, report, best."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from tune_lt.cli.arguments import (
    ReportsOption,
    SmallOption,
    StoreOption,
    StudyFile,
    existing_store,
    read_study,
    study_name,
)
from tune_lt.cli.output import print_tables
from tune_lt.documents import CONTENTS, Contents
from tune_lt.errors import InputError
from tune_lt.study import FULL, SMALL, command_line, nested, overlay

if TYPE_CHECKING:
    from tune_lt.report.collect import Report
    from tune_lt.store import Store
    from tune_lt.study import Space, Study


def status(
    study: Annotated[str | None, Argument(metavar="STUDY", help="A study's name or file. Default: all.")] = None,
    store: StoreOption = None,
) -> None:
    """Show how far each study is. Counts its trials by outcome, and the cells of its tables that are done."""
    from tune_lt.store import lease

    opened = existing_store(store)
    names = [study_name(study)] if study else opened.studies()
    if not names:
        print(f"no studies in {opened.shown}")
    finished = opened.finished_cells()
    for name in names:
        parent = opened.own_run(name)
        outcomes = Counter(trial.tags.get("outcome", "unfinished") for trial in opened.cells(name).trials())
        contents = opened.read(parent.info.run_id, CONTENTS, Contents.of)
        planned = {cell.fingerprint for cell in contents.cells} if contents else set()
        trials = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none"
        done = len(planned & finished.keys())
        state = parent.info.status.lower()
        if state == "running":
            state = lease.state(parent)
        print(f"{name}: {state}; search trials: {trials}; cells of the tables: {done} of {len(planned)}")


def report(
    study: Annotated[str | None, Argument(metavar="STUDY", help="A study's name or file.")] = None,
    small: SmallOption = False,
    store: StoreOption = None,
    reports: ReportsOption = Path("reports"),
    ui: Annotated[
        str | None,
        Option(metavar="URL", help="The MLflow UI that report.html links to. Default: the one of `tune-lt ui`."),
    ] = None,
) -> None:
    """Write a study's tables, figures and HTML page. Prints the tables too. Changes nothing in the store.

    Without STUDY: the paper's Tables 1 to 3, from all studies in the store that are parts of them.
    """
    if ui is not None and not ui.startswith(("http://", "https://")):
        raise InputError(f"--ui {ui}: not the address of a web page; valid: one such as http://127.0.0.1:5000")
    opened = existing_store(store)
    if study is None:
        _report_paper(opened, small, reports)
    else:
        write_study(study_name(study, small), opened, reports, ui)


def best(
    study: StudyFile,
    small: SmallOption = False,
    store: StoreOption = None,
    export: Annotated[Path | None, Option(help="Write it to this file instead, for `tune-lt train`.")] = None,
    loss: Annotated[str | None, Option(help="The loss whose search is meant. Default: the study's own.")] = None,
) -> None:
    """Print the best configuration found, as a study file."""
    parsed = read_study(study, small)
    import yaml

    from tune_lt.registry import names
    from tune_lt.run import planner, rehearsal
    from tune_lt.study import reader

    own = parsed.own_search()
    wanted = loss or (own.name if own else next(iter(parsed.searches), ""))
    if wanted not in parsed.searches:
        raise InputError(f"{study}: the study does not search {wanted or 'anything'}; {names(parsed.searches)}")
    space = parsed.searches[wanted]
    opened = existing_store(store)
    parent = opened.own_run(parsed.name)
    with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints is no part of a study file
        images = rehearsal.load_data(parsed).hashes
    concluded = planner.Plan(parsed, images).recorded(space, opened, parent.info.run_id)
    if not concluded:
        run = command_line("run", study, small)
        raise InputError(f"{opened.shown} has no finished search of {parsed.name!r} as the file is now; {run} runs it")
    seed = parsed.units(space)[0][0]
    text = f"# what the search of {parsed.name} found; its trial was trained with --seed {seed}\n"
    text += yaml.safe_dump(_as_file(parsed, space, concluded.best.found), sort_keys=False, allow_unicode=True)
    reader.parse(text, parsed.folder)  # fails here rather than in the hands of the user
    if export is None:
        print(text, end="")
    else:
        export.write_text(text, encoding="utf-8")
        print(f"wrote {export}; next: tune-lt train {export} --seed {seed}")


def write_study(name: str, store: Store, reports: Path, ui: str | None = None, *, record: bool = False) -> Report:
    """Write a study's report below ``reports`` and print its tables. `page.html` explains ``ui``.

    With ``record`` the files and the tables are also put into the study's run in MLflow.
    """
    from tune_lt.report import formats
    from tune_lt.report.collect import collect
    from tune_lt.report.write import write_report

    collected = collect(store, name)
    files = write_report(collected, reports / name, ui)
    also = ""
    if record:
        try:
            store.log_files(collected.recorded.run_id, files, "report")
            tables = "\n".join(formats.markdown(table) for table in collected.tables)
            store.describe(collected.recorded.run_id, tables)
            also = " and to the study's run in MLflow"
        except InputError as error:
            also = f"; not to the study's run in MLflow: {error}"
    print_tables(collected.tables)
    print(f"\nwritten to {reports / name}/{also}")
    print(f"everything on one page, for a browser: {reports / name / 'report.html'}\n")
    return collected


def _report_paper(store: Store, small: bool, reports: Path) -> None:
    from tune_lt.report.tables import paper
    from tune_lt.report.write import write_sheets

    scale = SMALL if small else FULL
    sheets = paper.sheets(store, scale)
    if not sheets:
        first = command_line("run", "table1_cifar10", small)
        raise InputError(f"the store {store.shown} has no {scale} part of the paper's tables; one is: {first}")
    folder = reports / ("paper-small" if small else "paper")
    write_sheets(sheets, folder)
    print_tables(sheets)
    print(f"\nwritten to {folder}/")


def _as_file(study: Study, space: Space, found: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a search found, as a study file has it."""
    base = study.base() | {"loss": dict(space.loss), "model": dict(space.model)}
    config: dict[str, Any] = {"name": f"{study.name}-best"}
    config |= overlay(base, nested(space.complete(found)))
    config["data"]["validation"] = dataclasses.asdict(study.validation)
    config["resources"] = {"cpus": study.resources.cpus}  # its number of threads
    if study.plugins:
        config |= {"plugins": list(study.plugins), "plugin_files": list(study.plugin_files)}
    return config
