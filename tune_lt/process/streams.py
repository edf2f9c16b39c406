"""Standard output and error that take any text, and whose loss does not end a training."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PLAIN = {"±": "+-", "−": "-", "–": "-", "—": "-", "…": "...", "×": "x", "·": "*", "Δ": "Delta", "≈": "~", "→": "->"}
BROKEN_PIPE = 141  # 128 + SIGPIPE: what a shell shows for a program whose reader has gone


class OutputLost(Exception):
    """Nobody takes what the command prints. It is no OSError, of which typer and rich make an end of their own."""


class _Output(io.FileIO):
    """The file of a standard stream. Its first failure is kept in ``lost``; what is written after it is dropped.

    The first failure raises OutputLost, unless a training goes on without a display.
    """

    lost: OSError | None = None
    training = False  # of all streams

    def write(self, content: ReadableBuffer, /) -> int:
        size = memoryview(content).nbytes
        if self.lost is not None:
            return size
        try:
            while (written := super().write(content)) is None:  # a pipe that does not block is full
                select.select([], [self], [])
        except OSError as error:
            self.lost = error
            if not _Output.training:
                raise OutputLost from None
            return size
        return written


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Text in place of the characters that a stream's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign) or ascii(sign)[1:-1] for sign in text), error.end


codecs.register_error("tune_lt.plain", _plain)


def guard() -> None:
    """Put our streams in the place of the process's own. Does nothing where a test or a notebook has replaced them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed by whoever started us: else the next file that is opened would get the number
            os.open(os.devnull, os.O_RDWR)
        own = getattr(sys, name)
        if number and own is getattr(sys, f"__{name}__"):
            stream = io.TextIOWrapper(
                io.BufferedWriter(_Output(number, "w", closefd=False)),
                encoding=getattr(own, "encoding", "utf-8"),
                errors="tune_lt.plain",
                line_buffering=getattr(own, "line_buffering", True) or getattr(own, "write_through", False),
                write_through=getattr(own, "write_through", False),
            )
            setattr(sys, name, stream)


def training_goes_on() -> None:
    """From now on the loss of a stream ends nothing."""
    _Output.training = True


def end() -> int:
    """Write what is left; the exit code of a command whose standard output was lost, 0 if it was not.

    The loss fails a command whose output is its result. A training is recorded without it.
    """
    trained, _Output.training = _Output.training, True
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    output = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost = output.lost if isinstance(output, _Output) else None
    if lost is None or lost.errno == errno.EPIPE:
        return BROKEN_PIPE if lost and not trained else 0
    print(f"error: standard output cannot be written: {lost.strerror}", file=sys.stderr, flush=True)
    return 0 if trained else 1
