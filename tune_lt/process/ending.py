"""How a command ends: its errors and the signals that stop it become a message and an exit code."""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from tune_lt.errors import InputError, TrainingFailed, printable, redacted
from tune_lt.process import streams

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STOPPING = (signal.SIGTERM, signal.SIGHUP)  # Slurm, Kubernetes, systemd; a terminal that is closed


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run a command, and end the process with its exit code: 2 after a mistake of the user, 1 after a failed training
    or a bug, 130 after Ctrl-C, 143 after SIGTERM, 141 after its reader has gone."""
    streams.guard()
    code: str | int | None
    try:
        code = command()
    except SystemExit as stop:
        code = stop.code
    except streams.OutputLost:
        code = None
    except Exception as error:
        said, code = message(error)
        print(said, file=sys.stderr)
    sys.exit(streams.end() or code)


def message(error: Exception) -> tuple[str, int]:
    """What is said of an error, and the exit code."""
    if isinstance(error, InputError):
        return f"error: {printable(redacted(str(error)))}", 2
    if isinstance(error, OSError) and error.filename is not None:
        return f"error: {printable(str(error.filename))}: {error.strerror}", 2
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"error: a file could not be written: {error.strerror}", 2
    if isinstance(error, TrainingFailed):
        return f"training failed: {printable(str(error))}", 1
    return redacted(traceback.format_exc()).rstrip("\n"), 1  # a bug, whose traceback must not show a password either


@contextmanager
def stoppable(said: str) -> Iterator[None]:
    """Around what trains: SIGTERM and SIGHUP stop it as Ctrl-C does, and output that nobody takes is dropped.

    Where it is stopped, ``said`` is printed and the command ends with 128 + the signal's number.
    """
    stopped_by = list[int]()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped_by:
            return  # it stops already; some senders repeat the signal
        stopped_by.append(number)
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    # what is ignored, as by nohup, stays so
    before = {number: signal.signal(number, stop) for number in STOPPING if signal.getsignal(number) == signal.SIG_DFL}
    streams.training_goes_on()
    try:
        yield
    except KeyboardInterrupt:
        print(said, file=sys.stderr)
        sys.exit(128 + (stopped_by or [signal.SIGINT])[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts_wait() -> Iterator[Callable[[], None]]:
    """In this block Ctrl-C waits for a call of the function that is yielded, or for the end; a second one does not."""
    before, came = signal.getsignal(signal.SIGINT), list[int]()

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield check
        check()
    finally:
        signal.signal(signal.SIGINT, before)
