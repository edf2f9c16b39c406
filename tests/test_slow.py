"""Minutes, not seconds: the demo from a wheel, an interrupted study. `make test-slow` runs these."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pandas as pd
import psutil
import pytest
import yaml
from processes import environment

from tune_lt.tracking import Store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
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


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel installs it, apart from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder / "dist"), str(ROOT)], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def test_the_wheel_runs_the_demo_outside_the_repository(tmp_path: Path, wheel_folder: Path) -> None:
    apart = environment(PYTHONPATH=str(wheel_folder))
    where = subprocess.run(
        [sys.executable, "-c", "import tune_lt; print(tune_lt.__file__)"],
        cwd=tmp_path, env=apart, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(wheel_folder))
    with open(tmp_path / "out.txt", "w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tune_lt.cli", "run", "digits"],
            cwd=tmp_path, env=apart, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        peak = 0
        while process.poll() is None:
            try:
                peak = max(peak, _memory(psutil.Process(process.pid)))
            except psutil.NoSuchProcess:
                break
            time.sleep(1)
    printed = (tmp_path / "out.txt").read_text()
    assert process.wait() == 0, printed
    assert peak < DEMO_MEMORY_BYTES
    rows = yaml.safe_load((ROOT / "search_spaces" / "digits.yaml").read_text())["rows"]
    tables = [pd.read_csv(tmp_path / "reports" / "digits" / f"{name}.csv") for name in ("ablation", "baselines")]
    assert set(rows) == {row for table in tables for row in table["row"]}
    for table in tables:
        assert (table["n"] == 3).all()
        assert table["mean"].between(0, 100).all()
    overall = tables[1].set_index(["row", "column"])["mean"]
    assert overall["softmax", "Overall"] > 85  # it learnt
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert {record.tags["git"] for record in store.finished_cells().values()} == {"tune-lt 0.1.0"}


def _wait_for(pattern: str, file: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if re.search(pattern, file.read_text()):
            return
        assert process.poll() is None, file.read_text()
        time.sleep(0.2)
    pytest.fail(f"{pattern!r} did not appear within two minutes: {file.read_text()}")


@pytest.mark.parametrize("moment", [r"search: \d of 8 done, [12] running", r"tables: \d of 6 done, [12] running"])
def test_ctrl_c_leaves_nothing_running_and_the_same_command_goes_on(
    tmp_path: Path, tiny_text: str, moment: str
) -> None:
    study = tmp_path / "tiny.yaml"
    study.write_text(tiny_text.replace("epochs: 4", "epochs: 60").replace("trials: 5", "trials: 8"))
    command = [sys.executable, "-m", "tune_lt.cli", "run", str(study)]
    out = tmp_path / "out.txt"
    with open(out, "w") as file:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=file, stderr=file, start_new_session=True
        )
        _wait_for(moment, out, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the whole group
        assert process.wait(120) == 130
    printed = out.read_text()
    assert "the same command goes on" in printed
    assert "Traceback" not in printed
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = store.client.search_runs([store.experiment("tiny")], max_results=1000)
    assert not [run for run in runs if run.info.status == "RUNNING"]
    assert [run for run in runs if run.data.tags.get("tune_lt.outcome") == "interrupted"]
    again = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    table = pd.read_csv(tmp_path / "reports" / "tiny" / "baselines.csv")
    assert (table["n"] == 2).all()


FOLDS = (
    ("imbalance: 20, validation: {holdout: 0.3}", "imbalance: 20, validation: {folds: 3}"),
    ("epochs: 4", "epochs: 15"),
)
HOLDOUT = (("epochs: 4", "epochs: 40"), ("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4, 5]"))


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
    """Kill the driver with SIGKILL: at a random moment, or as a run is created, or as a checkpoint is written."""
    state = folder / ".tune_lt" / "tiny"
    for _ in range(300):  # until it works: earlier there is nothing to lose
        if "trials," in out.read_text() or "cells," in out.read_text() or process.poll() is not None:
            break
        time.sleep(0.1)
    kind = ("random", "run creation", "checkpoint", "ending")[turn % 4]
    seen = (state / "journal.jsonl").read_bytes() if (state / "journal.jsonl").exists() else b""
    deadline = time.monotonic() + 20
    if kind == "random":
        time.sleep(random.uniform(0, 8))
    while kind != "random" and process.poll() is None and time.monotonic() < deadline:
        content = (state / "journal.jsonl").read_bytes() if (state / "journal.jsonl").exists() else b""
        new = content[len(seen) :] if content.startswith(seen) else content
        if kind == "run creation" and b'"op": "start"' in new:
            break
        if kind == "ending" and b'"op": "end"' in new:
            break
        if kind == "checkpoint" and any((state / "checkpoints").glob(".*.pt.*")):
            break
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.wait()
    return kind


@pytest.mark.parametrize(("kills", "changes"), [(8, HOLDOUT), (4, FOLDS)], ids=["holdout-asha", "folds-racing"])
def test_a_driver_killed_at_many_moments_loses_and_repeats_nothing(
    tmp_path: Path, tiny_text: str, kills: int, changes: tuple[tuple[str, str], ...]
) -> None:
    """Beside it the same study runs undisturbed, one trial at a time: both must end with the same runs and curves."""
    text = tiny_text
    common = (("trials: 5", "trials: 8"), ("concurrent: 2", "concurrent: 1, checkpoint_seconds: 0"))
    for old, new in (*common, *changes):
        assert old in text
        text = text.replace(old, new)
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        (folder / "tiny.yaml").write_text(text)
    command = [sys.executable, "-m", "tune_lt.cli", "run", "tiny.yaml"]
    whole = subprocess.run(command, cwd=folders[0], env=environment(), capture_output=True, text=True, timeout=600)
    assert whole.returncode == 0, whole.stderr
    random, killed, out = Random(0), list[str](), folders[1] / "out.txt"
    for turn in range(kills):
        with open(out, "w") as file:
            process = subprocess.Popen(command, cwd=folders[1], env=environment(), stdout=file, stderr=file)
            killed.append(_kill_somewhere(process, folders[1], out, turn, random))
        if process.returncode == 0:
            break  # it was done before it could be killed
    print(f"killed {len(killed)} times: {killed}")
    last = subprocess.run(command, cwd=folders[1], env=environment(), capture_output=True, text=True, timeout=600)
    assert last.returncode == 0, last.stdout + last.stderr
    assert _results(folders[1]) == _results(folders[0])
    tables = [(folder / "reports" / "tiny" / "baselines.csv").read_text() for folder in folders]
    assert tables[0] == tables[1]
    assert len(killed) == kills
    assert not any((folders[1] / ".tune_lt" / "tiny" / "checkpoints").iterdir())
