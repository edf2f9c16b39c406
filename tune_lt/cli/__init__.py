"""The command line. Importing this package loads none of torch, ray and mlflow: each command imports what it needs."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer
from typer import Exit, Option

from tune_lt import __version__
from tune_lt.cli.elsewhere import cells, import_
from tune_lt.cli.preview import data, init, plan
from tune_lt.cli.results import best, report, status
from tune_lt.cli.running import run, submit, train
from tune_lt.cli.upkeep import doctor, ui
from tune_lt.errors import InputError, TrainingFailed, printable, redacted

app = typer.Typer(
    help="Search, train and compare losses for long-tailed image classification.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
commands = (init, run, plan, data, status, report, best, train, submit, cells, import_, ui, doctor)  # as in --help
for command in commands:
    app.command(command.__name__.removesuffix("_"))(command)


def main() -> None:
    """Run the command line. The exit code is 2 after a mistake of the user, 1 after a failure or a bug."""
    try:
        app()
    except Exception as error:
        code = 2
        if isinstance(error, InputError):
            text = f"error: {printable(redacted(str(error)))}\n"
        elif isinstance(error, OSError) and error.filename is not None:
            text = f"error: {printable(str(error.filename))}: {error.strerror}\n"
        elif isinstance(error, TrainingFailed):
            text, code = f"training failed: {printable(str(error))}\n", 1
        else:  # a bug, whose traceback must not show a password either
            text, code = redacted(traceback.format_exc()), 1
        print(text, end="", file=sys.stderr)
        sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tune-lt {__version__}")
        raise Exit


@app.callback()
def _options(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass
