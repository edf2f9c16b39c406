"""Progress on the terminal: a live view where there is one, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune_lt.texts import duration

SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Progress:
    """Where a phase stands: ``done`` of ``total`` trials, the ``shares`` of their epochs that running ones have had.

    ``epochs``: all epochs trained since the phase began; ``counts``: how many of the done were pruned, failed.
    """

    done: int = 0
    shares: Sequence[float] = ()
    total: int = 0
    epochs: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    best: str = ""


class Display:
    """Says what runs, how far it is and how long it will take. Use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._live = Live(console=self.console, transient=True) if self.console.is_terminal else None
        self._label, self._began, self._last_line = "", 0.0, 0.0
        self._done_before = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def phase(self, label: str, already: int = 0) -> None:
        """Begin a phase of which ``already`` trials were done before."""
        self._label, self._began, self._last_line = label, math.nan, time.monotonic()
        self._done_before = float(already)

    def update(self, progress: Progress) -> None:
        """Show where the phase stands."""
        now = time.monotonic()
        if math.isnan(self._began) and (progress.epochs or progress.done > self._done_before):
            self._began = now  # until then workers were starting: no measure of how fast trials go
        elapsed = now - self._began
        worth = progress.done + sum(progress.shares)
        left = time_left(worth - self._done_before, progress.total - worth, elapsed)
        running = len(progress.shares)
        parts = [f"{progress.done} of {progress.total} done", f"{running} running"]
        parts += [f"{count} {outcome}" for outcome, count in progress.counts.items() if count]
        if elapsed > 0 and progress.epochs:
            parts.append(f"{progress.epochs / elapsed:.1f} epochs/s")
        parts.append(left)
        if progress.best:
            parts.append(f"best {progress.best}")
        if self._live:
            self._live.update(_panel(self._label, progress, parts), refresh=True)
            if progress.done == progress.total:
                self._live.update(Text(""), refresh=True)
        if (not self._live and now - self._last_line > SECONDS_BETWEEN_LINES) or (
            progress.done == progress.total and progress.done > self._done_before
        ):
            self._last_line = now
            self.say(f"{self._label}: {', '.join(parts)}")


def time_left(done: float, missing: float, elapsed: float) -> str:
    """How long ``missing`` trials take where ``done`` took ``elapsed`` seconds, with its error, in words.

    The error is what the count of trials allows, one part in the square root of those done: trials are stopped early or
    not, and come in different sizes.
    """
    if missing <= 0:
        return "0 s left"
    if math.isnan(elapsed) or elapsed <= 0 or done < 0.5:
        return "time left not known yet"
    seconds = elapsed * missing / done
    error = seconds / math.sqrt(max(1.0, done))
    return f"about {duration(seconds)} ± {duration(error)} left"


def _panel(label: str, progress: Progress, parts: Sequence[str]) -> Group:
    bar = Table.grid(padding=(0, 1))
    worth = progress.done + sum(progress.shares)
    bar.add_row(
        Text(label, style="bold"), ProgressBar(total=max(1, progress.total), completed=worth, width=30), parts[0]
    )
    lines: list[Table | Text] = [
        bar,
        Text("  " + ", ".join(part for part in parts[1:] if not part.startswith("best "))),
    ]
    if progress.best:
        lines.append(Text(f"  best {progress.best}"))
    return Group(*lines)
