"""Commands for cells that are trained on a machine without Ray and MLflow: cells, import."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tune_lt.cli.arguments import SmallOption, StoreOption, StudyFile, existing_store, read_study
from tune_lt.cli.output import print_ways
from tune_lt.errors import InputError, redacted


def cells(
    study: StudyFile,
    small: SmallOption = False,
    store: StoreOption = None,
    missing: Annotated[bool, typer.Option("--missing", help="Leave out what the store has already.")] = False,
) -> None:
    """List a study's trainings as JSON, for a machine without Ray and MLflow: python -m tune_lt.training.cells.

    The tables' cells and, for a grid, its search's, one seed of every row before the next. A row that takes what a
    search finds is listed once that search has ended on the store.
    """
    parsed = read_study(study, small)
    from tune_lt.run import elsewhere, rehearsal
    from tune_lt.store import Store, exists

    dataset = rehearsal.load_data(parsed)
    for line in rehearsal.rehearse(parsed, dataset):
        print(line, file=sys.stderr)
    opened = existing_store(store) if missing else Store(store) if exists(store) else None
    found = elsewhere.listing(parsed, dataset.content_hash, opened, missing=missing)
    if found.waiting:
        print(f"not listed, they wait for a search to end: {', '.join(found.waiting)}", file=sys.stderr)
    print(f"{len(found.cells)} cells", file=sys.stderr)
    print(found.json())


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What python -m tune_lt.training.cells wrote.")],
    store: StoreOption = None,
) -> None:
    """Record cells that were trained on another machine, each once."""
    from tune_lt.run import elsewhere
    from tune_lt.store import Store

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; valid: the one that python -m tune_lt.training.cells wrote to")
    listing, trained = elsewhere.read(folder)
    elsewhere.take_in(listing, trained, Store(store), print)
    option = f" --store {shlex.quote(redacted(store))}" if store else ""
    report = (f"tune-lt report {listing.study}{option}", "the tables of what there is")
    print_ways([report, (f"tune-lt run STUDY{option}", "trains the rest, with the study's file")])
