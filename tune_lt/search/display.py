"""Progress on the terminal: a bar where there is one, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Says what runs, how far it is and how long it will take. Use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bar: Progress | None = None
        if self.console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=self.console)
        self._task = self._bar.add_task("", total=None, note="") if self._bar else None
        self._label, self._total, self._began, self._last_line = "", 0, 0.0, 0.0

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        (self._bar.console if self._bar else self.console).print(text, highlight=False, markup=False, soft_wrap=True)

    def phase(self, label: str, total: int) -> None:
        """Begin counting ``total`` trials under ``label``."""
        self._label, self._total, self._began, self._last_line = label, total, time.monotonic(), time.monotonic()
        if self._bar and self._task is not None:
            self._bar.reset(self._task, description=label, total=total, note="")

    def update(self, done: int, running: int, fraction: float, best: str = "") -> None:
        """``fraction``: how much of the phase's work is behind us, trials in flight counted by their epochs."""
        now = time.monotonic()
        if fraction == 0:
            self._began = now  # workers are still starting: no measure of how fast trials go
        left = (
            f"about {_minutes((now - self._began) * (1 - fraction) / fraction)} left" if fraction > 0.02 else "starting"
        )
        note = f"{running} running, {left}" + (f", best {best}" if best else "")
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES or done == self._total:
            self._last_line = time.monotonic()
            self.say(f"{self._label}: {done} of {self._total} done, {note}")


def _minutes(seconds: float) -> str:
    seconds = round(seconds)
    return f"{seconds} s" if seconds < 100 else f"{seconds // 60} min {seconds % 60:02d} s"
