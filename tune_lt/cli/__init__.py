"""The command line. Importing this package loads none of torch, ray, mlflow: each command imports what it needs."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from tune_lt import __version__
from tune_lt.cli.elsewhere import cells, import_
from tune_lt.cli.preview import data, init, plan
from tune_lt.cli.results import best, report, status
from tune_lt.cli.running import run, submit, train
from tune_lt.cli.upkeep import doctor, ui
from tune_lt.errors import InputError, TrainingFailed, printable, redacted

app = typer.Typer(
    help="Hyper-parameter search for long-tailed image classification: GHM-CWAP and every baseline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
commands = (init, run, plan, data, status, report, best, train, submit, cells, import_, ui, doctor)  # as in --help
for command in commands:
    app.command(command.__name__.removesuffix("_"))(command)


def main() -> None:
    """The entry point: a mistake of the user is one message and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"error: {printable(redacted(str(error)))}", file=sys.stderr)
        sys.exit(2)
    except TrainingFailed as error:
        print(f"training failed: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
            sys.exit(1)
        print(f"error: {printable(str(error.filename))}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except Exception:  # a bug, whose traceback must not show a password either
        print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tune-lt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass
