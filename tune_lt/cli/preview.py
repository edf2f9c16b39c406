"""The commands before a study is run: init, plan, data."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from tune_lt.cli.arguments import (
    ReportsOption,
    SmallOption,
    StoreOption,
    StudyFile,
    check_reports,
    read_study,
    store_if_any,
)
from tune_lt.cli.output import print_tables, print_ways
from tune_lt.errors import InputError


def init(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="The folder that has a folder of images for each class.")],
    output: Annotated[Path | None, Option(help="The study file to write. Default: named after FOLDER, here.")] = None,
) -> None:
    """Write a first study file for a folder of images. It compares several losses, with equal searches."""
    from tune_lt.study import starter

    file = output or Path(f"{starter.name_of(folder)}.yaml")
    if file.exists():
        raise InputError(f"{file}: exists and is not overwritten; give another file with --output")
    seen = starter.look(folder)
    import torch

    name = starter.cleaned(file.stem)
    file.write_text(starter.study(folder, seen, gpu=torch.cuda.is_available(), name=name), encoding="utf-8")
    print(f"{seen.images:,} training images of {len(seen.counts)} classes, imbalance {seen.imbalance:.0f}: {file}")
    ways = [("data", "the images, class by class"), ("plan", "what it will cost"), ("run", "search, train, compare")]
    print_ways([(f"tune-lt {command} {shlex.quote(str(file))}", purpose) for command, purpose in ways])


def plan(
    study: StudyFile,
    small: SmallOption = False,
    store: StoreOption = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object, for scripts.")] = False,
) -> None:
    """Check a study file; show what it trains and costs. Changes nothing.

    Shows every setting, the trials and cells, what is done already and what the rest costs. The cost is estimated from
    past runs in the store or, if there are none, from some training steps that are timed here.
    """
    parsed = read_study(study, small)
    from tune_lt.plan import cost, show
    from tune_lt.run import basis, rehearsal

    with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints is no part of the plan
        dataset = rehearsal.load_data(parsed)
        lines = rehearsal.rehearse(parsed, dataset)
        rehearsal.check_memory(parsed, dataset)
        if opened := store_if_any(store):
            lines += basis.changes(basis.recorded_basis(opened, parsed.name), basis.basis_of(parsed, dataset))
        seen = cost.outlook(parsed, opened, dataset.hashes)
        estimated = cost.estimate(parsed, dataset, seen)
    if as_json:
        print(json.dumps(show.content(parsed, lines, seen, estimated)))
    else:
        print("\n".join(show.lines(parsed, lines, seen, estimated)))


def data(study: StudyFile, small: SmallOption = False, reports: ReportsOption = Path("reports")) -> None:
    """Show the images that a study trains on.

    Prints how many there are of each group of classes and in each fold. Writes the counts of every class (CSV), a plot
    of the long tail and sample images from head to tail.
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
