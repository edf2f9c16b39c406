"""What tests with real servers and drivers share: their environment, free ports, and waiting for them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tune_lt.tracking import CellRecord, Store

# A shell that starts the tests in the background has SIGINT ignored, and so would be what they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def environment(**extra: str) -> dict[str, str]:
    """This process's environment with the interpreter's own commands first, and nobody's cluster or server in it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"} | extra


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all held until all are known, so that they differ."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def answers(port: int) -> bool:
    """Whether somebody listens on a port here."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], log: Path, seconds: float = 240) -> None:
    """Look again and again; fail with what the log file has if it does not come true."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            pytest.fail(f"not within {seconds:g} s:\n{log.read_text() if log.exists() else 'nothing was printed'}")
        time.sleep(0.1)


def whole_study(store: Store, name: str, epochs: int) -> list[CellRecord]:
    """The cells of a study of 5 trials and 6 cells, each checked to be one run, ended, with an unbroken curve."""
    records = store.cells(name)
    assert len({record.tags["key"] for record in records}) == len(records)
    for record in records:
        assert (record.status, record.tags["outcome"]) in (("FINISHED", "complete"), ("FINISHED", "pruned"))
        history = store.client.get_metric_history(record.run_id, "train/loss")
        assert [point.step for point in history] == list(range(1, len(history) + 1))
        assert record.tags["outcome"] == "pruned" or len(history) == epochs
    rows = [record.tags["row"] for record in records]
    assert (rows.count("search"), rows.count("softmax"), len(rows)) == (5, 2, 11)
    return records
