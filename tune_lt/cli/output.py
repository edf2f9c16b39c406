"""What several commands print: tables, and what to type next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune_lt.report.tables.sheet import Sheet


def print_tables(tables: Iterable[Sheet]) -> None:
    """Tables for a terminal."""
    from rich.console import Console

    from tune_lt.report import formats

    console = Console()
    if not console.is_terminal:
        console = Console(width=150)  # a file has no width: room for whole cells
    for table in tables:
        console.print()
        console.print(formats.terminal(table, console))


def print_ways(ways: Sequence[tuple[str, str]]) -> None:
    """What to type next, and what for."""
    width = max(len(command) for command, _ in ways)
    print("next:")
    for command, purpose in ways:
        print(f"  {command:<{width}}   {purpose}")
