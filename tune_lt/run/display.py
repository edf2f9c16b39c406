"""The progress of a study on the terminal: a live view, or plain lines where the output goes to a file."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from tune_lt.texts import duration

SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Shows which phase of a study runs, how far it is and how long it will take. Use it as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        label = TextColumn("{task.description}", style="bold", markup=False)
        text = TextColumn("{task.fields[text]}", markup=False, table_column=Column())
        live = self.console.is_terminal
        self._live = Progress(label, BarColumn(20), text, console=self.console, transient=True, disable=not live)
        self._label, self._already, self._began, self._last_line = "", 0, math.nan, 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays on the terminal."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def phase(self, label: str, already: int = 0) -> None:
        """Begin a phase of which ``already`` trials were done before."""
        self._label, self._already, self._began, self._last_line = label, already, math.nan, time.monotonic()
        for task in self._live.task_ids:
            self._live.remove_task(task)
        self._live.add_task(label, visible=False, text="")

    def update(
        self, done: int, shares: Sequence[float], total: int, epochs: int, counts: Mapping[str, int], best: str
    ) -> None:
        """Show how far the phase is.

        ``done`` of ``total`` trials have ended, some of them with the outcomes in ``counts``. ``shares`` has for each
        running trial the part of its epochs, in [0, 1], that it has trained; ``epochs`` counts all of the phase.
        """
        now = time.monotonic()
        if math.isnan(self._began) and (epochs or done > self._already):
            self._began = now  # the time before, in which Ray started workers, does not say how fast trials are
        elapsed = now - self._began
        worth = done + sum(shares)
        parts = [f"{done} of {total} done", f"{len(shares)} running"]
        parts += [f"{count} {outcome}" for outcome, count in counts.items() if count]
        if elapsed > 0 and epochs:
            parts.append(f"{epochs / elapsed:.1f} epochs/s")
        parts.append(time_left(worth - self._already, total - worth, elapsed))
        if best:
            parts.append(f"best {best}")
        text = ", ".join(parts)
        for task in self._live.task_ids:
            self._live.update(task, total=total, completed=worth, visible=done < total, text=text, refresh=True)
        due = not self.console.is_terminal and now - self._last_line > SECONDS_BETWEEN_LINES
        if due or self._already < done == total:
            self._last_line = now
            self.say(f"{self._label}: {text}")


def time_left(done: float, missing: float, elapsed: float) -> str:
    """How long ``missing`` trials will take if ``done`` trials took ``elapsed`` seconds, with the error, in words.

    The error is relative to the estimate 1/sqrt(done), as of a Poisson count: trials are stopped early or not, and they
    differ in size.
    """
    if missing <= 0:
        return "0 s left"
    if math.isnan(elapsed) or elapsed <= 0 or done < 0.5:
        return "time left not known yet"
    seconds = elapsed * missing / done
    error = seconds / math.sqrt(max(1.0, done))
    return f"about {duration(seconds)} ± {duration(error)} left"
