"""What tests with real servers and drivers share: their environment, free ports, drivers, and waiting for them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom

import pytest

from tune_lt.store import Cells, Store

HELD = """\
# Nothing is trained until a file is there.
import time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook

def hold(*_):
    while not Path({file!r}).exists():
        time.sleep(0.1)

register_optimizer_step_pre_hook(hold)
"""

# A shell that starts the tests in the background has SIGINT ignored, and so would be what they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def environment(**extra: str) -> dict[str, str]:
    """This process's environment with the interpreter's own commands first, and nobody's cluster or server in it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"} | extra


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that Linux gives to whoever asks for any, above those of Ray."""
    found: set[int] = set()
    while len(found) < count:
        port = SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


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


def tiny_study(folder: Path, text: str, epochs: int, *changes: tuple[str, str]) -> Path:
    """The file of a study: the tiny one with so many epochs, a state after each, and ``changes`` from old to new."""
    saved = ("concurrent: 2", "concurrent: 2, checkpoint_seconds: 0")
    for old, new in (("epochs: 4", f"epochs: {epochs}"), saved, *changes):
        assert old in text
        text = text.replace(old, new)
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


@contextmanager
def driver(file: Path, out: Path, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """`tune-lt run` of a study in its folder, in a group of its own; killed if it still runs in the end."""
    command = [sys.executable, "-m", "tune_lt", "run", str(file)]
    with open(out, "w") as stream:
        process = subprocess.Popen(
            command, cwd=file.parent, env=environment(**extra), stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def progress(folder: Path, study: str = "tiny") -> tuple[int, int]:
    """How many cells a study's journal has as ended; how many as in training, with a state to go on from.

    A cell's second epoch begins when the state after its first one is saved.
    """
    journal = folder / ".tune_lt" / study / "journal.jsonl"
    content = journal.read_bytes() if journal.exists() else b""
    ended, epochs = set(), Counter[str]()
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        record = json.loads(line)
        epochs[record["key"]] += record["op"] == "epoch"
        ended |= {record["key"]} if record["op"] == "end" else set()
    return len(ended), sum(count > 1 and key not in ended for key, count in epochs.items())


def whole_study(store: Store, name: str, epochs: int) -> Cells:
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
