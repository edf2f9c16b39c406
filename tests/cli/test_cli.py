"""The command line: a mistake is one message and exit code 2, before anything is started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image
from processes import answers, environment, free_ports, wait_until

from tune_lt.cli import app
from tune_lt.cli.arguments import study_path
from tune_lt.errors import InputError

pytestmark = pytest.mark.long

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def study(tmp_path: Path, tiny_text: str) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny_text)
    return file


@pytest.mark.parametrize("command", ["run", "plan", "train", "best"])
def test_a_mistake_in_the_study_file_is_exit_code_2_and_leaves_nothing_behind(
    cli: Call, tmp_path: Path, study: Path, command: str
) -> None:
    study.write_text(study.read_text().replace("alpha:", "alhpa:"))
    code, _, err = cli(command, str(study), cwd=tmp_path)
    assert code == 2
    assert err.startswith(f"error: {study}: loss.alhpa: unknown; did you mean 'alpha'?")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == [study]


def test_plan_changes_nothing_and_shows_the_defaults(cli: Call, tmp_path: Path, study: Path) -> None:
    code, out, err = cli("plan", str(study), cwd=tmp_path)
    assert code == 0, err
    assert "momentum: 0.9" in out
    assert "# searched: loss.alpha uniform [0.3, 1.0]" in out
    assert "search: 5 trials of at most 4 epochs, to do" in out
    assert "tables: 3 rows x 2 seeds = 6 cells, 0 done" in out
    assert list(tmp_path.iterdir()) == [study]


def test_train_needs_one_configuration(cli: Call, tmp_path: Path, study: Path) -> None:
    code, _, err = cli("train", str(study), cwd=tmp_path)
    assert code == 2
    assert "loss.alpha, loss.gamma, loss.regions, loss.aura has a range" in err


TRAINABLE = """\
name: one
data: {name: digits, imbalance: 20, validation: {holdout: 0.3}}
model: {name: resnet8, width: 4}
recipe: {epochs: 3, batch_size: 64, augment: {crop: 1, flip: false}}
loss: {name: focal, gamma: 2.0}
"""


def test_train_scores_held_out_images_and_the_test_only_when_told(cli: Call, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(TRAINABLE)
    code, out, err = cli("train", str(file), cwd=tmp_path)
    assert code == 0, err
    assert out.count("val top1") == 3
    assert "test" not in out
    code, with_test, err = cli("train", str(file), "--test", "--seed", "1", cwd=tmp_path)
    assert code == 0, err
    assert with_test.count("test top1") == 1
    assert "val" not in with_test


def test_train_goes_on_from_where_it_was_saved(cli: Call, tmp_path: Path) -> None:
    file, state = tmp_path / "one.yaml", tmp_path / "state.pt"
    file.write_text(TRAINABLE)
    _, whole, _ = cli("train", str(file), cwd=tmp_path)
    code, first, err = cli("train", str(file), "--save", str(state), cwd=tmp_path)
    assert (code, first) == (0, whole), err
    _, again, _ = cli("train", str(file), "--save", str(state), cwd=tmp_path)
    assert again == whole.splitlines(keepends=True)[-1]


def test_training_that_fails_is_exit_code_1_with_the_reason(cli: Call, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(TRAINABLE.replace("batch_size: 64", "batch_size: 64, optimizer: {lr: 1.0e+30}"))
    code, _, err = cli("train", str(file), cwd=tmp_path)
    assert code == 1
    assert err.startswith("training failed: the training loss became")


def test_a_file_that_cannot_be_written_is_exit_code_2_and_a_bug_has_a_traceback_without_passwords(
    cli: Call, tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    for name in ("cat", "dog"):
        (images / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(images / name / f"{index}.png")
    code, _, err = cli("init", str(images), "--output", "none/study.yaml", cwd=tmp_path)
    assert (code, err) == (2, "error: none/study.yaml: No such file or directory\n")

    def fail(*arguments: object) -> None:
        raise RuntimeError("of postgresql://ada:secret@db/mlflow")

    monkeypatch.setattr("tune_lt.study.reader.read", fail)
    code, _, err = cli("plan", str(study), cwd=tmp_path)
    assert code == 1
    assert err.startswith("Traceback")
    assert err.endswith("RuntimeError: of postgresql://ada:***@db/mlflow\n")


def test_questions_about_a_study_that_never_ran(cli: Call, tmp_path: Path, empty_store: Path, study: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    for arguments in (("status", "nope"), ("report", "nope")):
        code, _, err = cli(*arguments, cwd=tmp_path)
        assert code == 2
        assert "'nope'" in err
    code, _, err = cli("best", str(study), cwd=tmp_path)
    assert code == 2
    assert "no study 'tiny' in" in err
    code, out, _ = cli("status", cwd=tmp_path)
    assert (code, out.startswith("no studies")) == (0, True)


def test_doctor_finds_nothing_wrong_here_and_names_a_store_it_cannot_use(cli: Call, tmp_path: Path) -> None:
    code, out, _ = cli("doctor", cwd=tmp_path)
    assert code == 0
    assert "torch" in out
    assert "problems: none" in out
    (tmp_path / "mlflow.db").write_text("no database")
    code, out, _ = cli("doctor", cwd=tmp_path)
    assert code == 1
    assert "problem: tracking store" in out


def test_a_missing_study_names_the_bundled_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="bundled: ablation, alpha_cv, compare, digits, method_alpha, "):
        study_path("nope")
    assert study_path("digits").name == "digits.yaml"
    assert study_path("nope.yaml") == Path("nope.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # such as the folder of its reports, or of images
    assert study_path("digits").name == "digits.yaml"


def test_every_command_has_a_line_of_help_that_fits(cli: Call) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    lines = out.split("Commands:")[1].strip().splitlines()
    assert len(lines) == len(app.registered_commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines), out


@pytest.mark.smoke
def test_the_ui_serves_the_store(tmp_path: Path, empty_store: Path, cli: Call) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tune_lt", "ui", "--port", str(port)]
    server = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: answers(port), tmp_path / "none")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as answer:
            assert answer.status == 200
        code, _, err = cli("ui", "--port", str(port), cwd=tmp_path)
        assert code == 2
        assert f"port {port}" in err
        started = [" ".join(child.cmdline()) for child in psutil.Process(server.pid).children(recursive=True)]
        assert not [command for command in started if "mlflow.server.jobs" in command]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
