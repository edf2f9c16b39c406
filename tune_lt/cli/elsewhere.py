"""The commands cells and import, for trainings on another machine, which needs neither Ray nor MLflow."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from tune_lt.cli.arguments import SmallOption, StoreOption, StudyFile, existing_store, read_study, store_if_any
from tune_lt.cli.output import print_ways, store_option
from tune_lt.errors import InputError


def cells(
    study: StudyFile,
    small: SmallOption = False,
    store: StoreOption = None,
    missing: Annotated[bool, Option("--missing", help="Leave out trainings whose results the store has.")] = False,
) -> None:
    """Print a study's trainings as JSON. `python -m tune_lt.training.cells` trains them on another machine.

    That needs neither Ray nor MLflow. The list has the cells of a search over a grid, then the tables' cells, one seed
    of every row before the next. A row that takes what a search finds is listed once the store has that search's end.
    """
    parsed = read_study(study, small)
    from tune_lt.run import elsewhere, rehearsal

    with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints is no part of the list
        dataset = rehearsal.load_data(parsed)
        for line in rehearsal.rehearse(parsed, dataset):
            print(line)
    opened = existing_store(store) if missing else store_if_any(store)
    found = elsewhere.listing(parsed, dataset.hashes, opened, missing=missing)
    if found.waiting:
        print(f"not listed, they wait for a search to end: {', '.join(found.waiting)}", file=sys.stderr)
    print(f"{len(found.cells)} cells", file=sys.stderr)
    print(found.json())


def import_(
    folder: Annotated[Path, Argument(metavar="DIR", help="The folder that python -m tune_lt.training.cells wrote.")],
    store: StoreOption = None,
) -> None:
    """Record in the store what was trained on another machine. What the store has is not recorded again."""
    from tune_lt.run import elsewhere
    from tune_lt.store import Store

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; valid: the one that python -m tune_lt.training.cells wrote to")
    listing, trained = elsewhere.read(folder)
    elsewhere.take_in(listing, trained, Store(store), print)
    report = (f"tune-lt report {listing.study}{store_option(store)}", "the tables of what there is")
    print_ways([report, (f"tune-lt run STUDY{store_option(store)}", "trains the rest, with the study's file")])
