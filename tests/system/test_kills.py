"""Minutes, not seconds: the demo and its memory, studies interrupted and killed. `make test-slow` runs these."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import pandas as pd
import psutil
import pytest
import yaml
from processes import driver, progress, tiny_study, wait_until, whole_study

from tune_lt.store import Store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DEMO_MEMORY_BYTES = 3e9


def _memory(process: psutil.Process) -> int:
    """What a process and its children hold, shared pages divided among them."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.Error:  # it ended while we looked
            continue
    return total


def test_the_demo_needs_little_memory_and_fills_its_tables(tmp_path: Path) -> None:
    file, out, peak = ROOT / "search_spaces" / "digits.yaml", tmp_path / "out.txt", 0
    shutil.copy(file, tmp_path)
    with driver(tmp_path / file.name, out) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, _memory(psutil.Process(process.pid)))
            time.sleep(1)
    assert process.returncode == 0, out.read_text()
    print(f"{peak / 1e9:.2f} GB")
    assert 0 < peak < DEMO_MEMORY_BYTES
    rows = yaml.safe_load(file.read_text())["rows"]
    tables = [pd.read_csv(tmp_path / "reports" / "digits" / f"{name}.csv") for name in ("ablation", "baselines")]
    assert set(rows) == {row for table in tables for row in table["row"]}
    for table in tables:
        assert (table["n"] == 3).all()
        assert table["mean"].between(0, 100).all()
    assert tables[1].set_index(["row", "column"])["mean"]["softmax", "Overall"] > 85  # it learnt


@pytest.mark.parametrize("phase", ["search: 5 trials", "tables: 6 cells"])
def test_ctrl_c_leaves_nothing_running_and_the_same_command_goes_on(tmp_path: Path, tiny_text: str, phase: str) -> None:
    epochs, out = 20, tmp_path / "out.txt"
    file = tiny_study(tmp_path, tiny_text, epochs)
    with driver(file, out) as process:
        wait_until(lambda: phase in out.read_text() and progress(tmp_path)[1] > 0, out)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the whole group
        assert process.wait(120) == 130
    printed = out.read_text()
    assert "the same command goes on" in printed
    assert "Traceback" not in printed
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = store.client.search_runs([store.experiment("tiny")], max_results=1000)
    assert not [run for run in runs if run.info.status == "RUNNING"]
    assert [run for run in runs if run.data.tags.get("tune_lt.outcome") == "interrupted"]
    with driver(file, out) as process:
        assert process.wait(600) == 0, out.read_text()
    whole_study(store, "tiny", epochs)


FOLDS = (("imbalance: 20, validation: {holdout: 0.3}", "imbalance: 20, validation: {folds: 3}"),)
HOLDOUT = (("seeds: [0, 1]", "seeds: [0, 1, 2, 3]"),)


def _results(folder: Path) -> dict[str, tuple[dict[str, str], dict[str, list[tuple[int, float]]]]]:
    """Key of each cell -> its parameters and its curves; each of a run of its own, and ended."""
    store = Store(f"sqlite:///{folder / 'mlflow.db'}")
    records = store.cells("tiny")
    keys = [record.tags["key"] for record in records]
    assert len(keys) == len(set(keys))
    found = {}
    for record in records:
        assert record.status in ("FINISHED", "FAILED"), (record.tags, record.status)
        curves = {}
        for name in record.metrics:
            curve = [(point.step, point.value) for point in store.client.get_metric_history(record.run_id, name)]
            assert len({step for step, _ in curve}) == len(curve), (record.tags["row"], name)
            curves[name] = curve
        steps = [step for step, _ in curves["train/loss"]]
        if record.tags["kind"] == "cell":  # a trial of several cells has a point for each
            assert steps == list(range(1, len(steps) + 1)), (record.tags, steps)
        found[record.tags["key"] + record.tags.get("trial", "")] = (dict(record.params), curves)
    return found


def _kill_somewhere(process: subprocess.Popen[bytes], folder: Path, out: Path, turn: int, random: Random) -> str:
    """Kill the driver with SIGKILL: some epochs on, or as a run is created, a state is written, or a cell ends."""
    state = folder / ".tune_lt" / "tiny"
    journal = state / "journal.jsonl"
    seen = journal.stat().st_size if journal.exists() else 0
    kind = ("epoch", "start", "state", "end")[turn % 4]
    wanted = random.randint(0, 12) if kind == "epoch" else 1

    def due() -> bool:
        new = journal.read_bytes()[seen:] if journal.exists() else b""
        if kind == "state" and new.count(b'"op": "epoch"') < 20:  # it may be written too fast to be seen
            return any((state / "checkpoints").glob(".*.pt.*"))
        return kind == "state" or new.count(f'"op": "{kind}"'.encode()) >= wanted

    wait_until(lambda: process.poll() is not None or re.search("trials,|cells,", out.read_text()) is not None, out)
    while process.poll() is None and not due():
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.wait()
    return kind


@pytest.mark.parametrize(
    ("kills", "epochs", "changes"), [(4, 20, HOLDOUT), (4, 8, FOLDS)], ids=["holdout-asha", "folds-racing"]
)
def test_a_driver_killed_at_many_moments_loses_and_repeats_nothing(
    tmp_path: Path, tiny_text: str, kills: int, epochs: int, changes: tuple[tuple[str, str], ...]
) -> None:
    """Beside it the same study runs undisturbed, one trial at a time: both must end with the same runs and curves."""
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        tiny_study(folder, tiny_text, epochs, ("concurrent: 2", "concurrent: 1"), ("trials: 5", "trials: 8"), *changes)
    whole, out = folders[0] / "out.txt", folders[1] / "out.txt"
    with driver(folders[0] / "tiny.yaml", whole) as process:
        assert process.wait(600) == 0, whole.read_text()
    random, killed = Random(0), list[str]()
    for turn in range(kills):
        with driver(folders[1] / "tiny.yaml", out) as process:
            killed.append(_kill_somewhere(process, folders[1], out, turn, random))
        assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed: {out.read_text()}"
    print(f"killed {len(killed)} times: {killed}")
    with driver(folders[1] / "tiny.yaml", out) as process:
        assert process.wait(600) == 0, out.read_text()
    assert _results(folders[1]) == _results(folders[0])
    tables = [(folder / "reports" / "tiny" / "baselines.csv").read_text() for folder in folders]
    assert tables[0] == tables[1]
    left = [{file.name for file in (folder / ".tune_lt" / "tiny" / "checkpoints").iterdir()} for folder in folders]
    assert left[0] == left[1]  # at most the state of the row that is recommended
    assert len(left[0]) <= 1
