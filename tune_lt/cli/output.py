"""What several commands print: tables, and the commands to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tune_lt.errors import redacted

if TYPE_CHECKING:
    from tune_lt.report.tables.sheet import Sheet


def print_tables(tables: Iterable[Sheet]) -> None:
    """Print tables as wide as the terminal; into a file or a pipe, 150 characters wide."""
    from rich.console import Console

    from tune_lt.report import formats

    console = Console()
    if not console.is_terminal:
        console.width = 150
    for table in tables:
        console.print()
        console.print(formats.terminal(table, console))


def print_ways(ways: Sequence[tuple[str, str]]) -> None:
    """Print commands that a user may type next, each with its purpose."""
    width = max(len(command) for command, _ in ways)
    print("next:")
    for command, purpose in ways:
        print(f"  {command:<{width}}   {purpose}")


def store_option(store: str | None) -> str:
    """The option --store for a command to type next, without a password; "" where the user gave none."""
    return f" --store {shlex.quote(redacted(store))}" if store else ""
