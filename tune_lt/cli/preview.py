"""Commands before a study is run: init, plan, data."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from tune_lt.cli.arguments import ReportsOption, SmallOption, StoreOption, StudyFile, check_reports, read_study
from tune_lt.cli.output import print_tables, print_ways
from tune_lt.errors import InputError


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that holds the class folders.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="The study file; else the folder's name, here.")
    ] = None,
) -> None:
    """Write a first study file for a folder of images: which loss, among all with equal budgets, is best for them."""
    from tune_lt.study import starter

    file = output or Path(f"{starter.name_of(folder)}.yaml")
    if file.exists():
        raise InputError(f"{file}: is there already and is not overwritten; give another --output")
    seen = starter.look(folder)
    import torch

    try:
        file.write_text(starter.study(folder, seen, gpu=torch.cuda.is_available()), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from None
    print(f"{seen.images:,} training images of {len(seen.counts)} classes, imbalance {seen.imbalance:.0f}: {file}")
    ways = [("data", "the images, class by class"), ("plan", "what it will cost"), ("run", "search, train, compare")]
    print_ways([(f"tune-lt {command} {shlex.quote(str(file))}", purpose) for command, purpose in ways])


def plan(
    study: StudyFile,
    small: SmallOption = False,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """Check a study file and show what it would train, what is done already and what the rest costs. Changes nothing.

    The cost follows from past runs on the store, without any from some training steps that are timed here.
    """
    parsed = read_study(study, small)
    from tune_lt.plan import cost, show
    from tune_lt.run import rehearsal
    from tune_lt.store import Store, exists

    dataset = rehearsal.load_data(parsed)
    lines = rehearsal.rehearse(parsed, dataset)
    seen = cost.outlook(parsed, Store(store) if exists(store) else None, dataset.content_hash)
    estimated = cost.estimate(parsed, dataset, seen)
    if as_json:
        print(json.dumps(show.content(parsed, lines, seen, estimated)))
    else:
        print("\n".join(show.lines(parsed, lines, seen, estimated)))


def data(study: StudyFile, small: SmallOption = False, reports: ReportsOption = Path("reports")) -> None:
    """Show the images before training: how many of each class and group, the long tail, the folds, some of them.

    The table is printed; all classes (CSV), a plot and sample images from head to tail go to a folder.
    """
    parsed = read_study(study, small)
    check_reports(reports)
    from tune_lt.report.figures import dataset
    from tune_lt.run import rehearsal

    loaded = rehearsal.load_data(parsed)
    for line in rehearsal.rehearse(parsed, loaded):
        print(line)
    table, files = dataset.write(parsed, loaded, reports / parsed.name / "data")
    print_tables([table])
    print("\nwritten:", ", ".join(map(str, files)))
