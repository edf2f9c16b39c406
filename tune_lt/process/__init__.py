"""A command as a process: its standard streams, the signals that stop it, its exit code."""

from tune_lt.process.ending import STOPPING, interrupts_wait, run, stoppable

__all__ = ["STOPPING", "interrupts_wait", "run", "stoppable"]
