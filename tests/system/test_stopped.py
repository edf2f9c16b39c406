"""Signals that stop a command, and outputs that nobody takes: real processes, stopped at every stage of a run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from processes import driver, progress, tiny_study, wait_until, whole_study

from tune_lt.store import Store
from tune_lt.store.lease import holder

EPOCHS = 20
SLOW = """\
# The digits, which take their time: until a file is there.
import time
from contextlib import suppress
from pathlib import Path
from tune_lt import data

digits = data.DATASETS["digits"]

@data.register("slow")
def slow():
    Path({began!r}).touch()
    while not Path({let_go!r}).exists():
        time.sleep(0.1)
    return digits()
"""


def _stop(process: subprocess.Popen[bytes], out: Path, number: signal.Signals, *, group: bool = False) -> None:
    """Send the signal, to the whole group as systemd does or to the command alone; it and all its processes end."""
    children = psutil.Process(process.pid).children(recursive=True)
    (os.killpg if group else os.kill)(process.pid, number)
    code = process.wait(60)  # it takes two seconds; a machine that is busy may take some more
    printed = out.read_text()
    assert code == 128 + number, printed
    assert "the same command goes on" in printed
    assert "Traceback" not in printed
    assert "SIGTERM received" not in printed  # what Ray's own handler prints, with a stack
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def _stopped(store: Store) -> None:
    """The study's run is marked as stopped, its lease is free, and nothing seems to run."""
    runs = store.client.search_runs([store.experiment("tiny")], max_results=1000)
    (parent,) = [run for run in runs if run.data.tags["tune_lt.kind"] == "study"]
    assert parent.info.status == "KILLED"
    assert holder(store.client, parent.info.run_id) is None
    assert not [run for run in runs if run.info.status == "RUNNING"]


@pytest.mark.smoke
def test_a_signal_during_the_search_stops_a_run_as_ctrl_c_does(tmp_path: Path, tiny_text: str) -> None:
    file, out = tiny_study(tmp_path, tiny_text, EPOCHS), tmp_path / "out.txt"
    with driver(file, out) as process:
        wait_until(lambda: progress(tmp_path)[1] > 0, out)
        _stop(process, out, signal.SIGTERM)
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    _stopped(store)
    with driver(file, out) as process:
        assert process.wait(600) == 0, out.read_text()
    whole_study(store, "tiny", EPOCHS)


@pytest.mark.slow
def test_a_signal_at_any_other_stage_does_too(tmp_path: Path, tiny_text: str) -> None:
    """While images load, while Ray starts, in the search with the whole group, in the tables as a terminal closes."""
    out, began, let_go = tmp_path / "out.txt", tmp_path / "began", tmp_path / "let_go"
    (tmp_path / "slow.py").write_text(SLOW.format(began=str(began), let_go=str(let_go)))
    text = "plugins: [slow]\n" + tiny_text.replace("name: digits", "name: slow")
    file = tiny_study(tmp_path, text, EPOCHS)
    with driver(file, out) as process:
        wait_until(began.exists, out)
        _stop(process, out, signal.SIGTERM)
    let_go.touch()
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for _ in range(3):  # the signal meets another moment of the start each time
        with driver(file, out) as process:
            wait_until(lambda process=process: "starting Ray" in out.read_text() and _raylet(process), out)
            _stop(process, out, signal.SIGTERM)
        _stopped(store)
    with driver(file, out) as process:
        wait_until(lambda: "search: " in out.read_text() and progress(tmp_path)[1] > 0, out)
        _stop(process, out, signal.SIGTERM, group=True)
    _stopped(store)
    with driver(file, out) as process:
        wait_until(lambda: "tables: 6 cells" in out.read_text() and progress(tmp_path)[1] > 0, out)
        _stop(process, out, signal.SIGHUP)
    _stopped(store)
    with driver(file, out) as process:
        assert process.wait(600) == 0, out.read_text()
    whole_study(store, "tiny", EPOCHS)


def _raylet(process: subprocess.Popen[bytes]) -> bool:
    """Whether Ray has begun to start its processes."""
    return bool(psutil.Process(process.pid).children())


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_message_and_costs_nothing(tmp_path: Path, tiny_text: str) -> None:
    """The disk of the store, the journal and the checkpoints; then that of Ray and of temporary files."""
    for place in ("study", "temporary"):
        folder, small = tmp_path / place, Path(tempfile.mkdtemp(prefix="tlr"))
        folder.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(small)], check=False)
        if mounted.returncode:
            small.rmdir()
            pytest.skip("a small disk can only be mounted by root")
        try:
            file, out = tiny_study(small if place == "study" else folder, tiny_text, EPOCHS), folder / "out.txt"
            extra = {} if place == "study" else {"TMPDIR": str(small)}
            with driver(file, out, **extra) as process:
                wait_until(lambda file=file: progress(file.parent)[1] > 0, out)
                with suppress(OSError), open(small / "filler", "wb", buffering=0) as filler:
                    while True:
                        filler.write(bytes(4096))
                assert process.wait(120) == 2, out.read_text()
            printed = out.read_text()
            assert printed.count("error: ") == 1
            assert re.search(r"error: \S+: \d+ MiB free on the disk; .* make room and run the study again", printed)
            assert "Traceback" not in printed
            (small / "filler").unlink()
            with driver(file, out, **extra) as process:
                assert process.wait(600) == 0, out.read_text()
            whole_study(Store(f"sqlite:///{file.parent / 'mlflow.db'}"), "tiny", EPOCHS)
        finally:
            subprocess.run(["umount", "--lazy", str(small)], check=True)
            small.rmdir()


@pytest.mark.smoke
def test_a_run_whose_display_is_lost_is_recorded_whole(tmp_path: Path, tiny_text: str) -> None:
    """Its encoding has no ±, and the disk behind it is full."""
    with driver(tiny_study(tmp_path, tiny_text, 4), Path("/dev/full"), PYTHONIOENCODING="ascii") as process:
        assert process.wait(600) == 0
    whole_study(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), "tiny", 4)
