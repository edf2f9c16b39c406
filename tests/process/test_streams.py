"""What a command prints may go nowhere: small programs that end as the command line does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import contextlib, sys
from pathlib import Path
from rich.console import Console
from tune_lt import process

def command():
    with process.stoppable("stopped") if sys.argv[1] == "trains" else contextlib.nullcontext():
        for number in range(5000):
            print("number", number, flush=number % 2 == 0)
        Console().print("the last", highlight=False)
        print("and an error", file=sys.stderr)
        Path("done").touch()

process.run(command)
"""
SIGNS = 'print("a ± b − Δ 字 \\udc80"); from rich.console import Console; Console().print("± Δ")'
SIGNS = f"from tune_lt import process\n\ndef command():\n    {SIGNS}\n\nprocess.run(command)\n"


def _run(folder: Path, kind: str, redirected: str) -> tuple[int, str, bool]:
    """The exit code of the program with its output ``redirected`` by bash, its stderr, whether it came to its end."""
    (folder / "program.py").write_text(PROGRAM)
    shell = f'set -o pipefail; "$0" program.py {kind} {redirected}; echo "${{PIPESTATUS[0]}}" >code'
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return int((folder / "code").read_text()), done.stderr, (folder / "done").exists()


@pytest.mark.parametrize("redirected", ["| head -1 >first", ">/dev/full", ">&-"])
def test_a_training_goes_on_whatever_becomes_of_its_display(tmp_path: Path, redirected: str) -> None:
    code, err, ended = _run(tmp_path, "trains", redirected)
    full = "error: standard output cannot be written: No space left on device\n" if "full" in redirected else ""
    assert (code, err, ended) == (0, f"and an error\n{full}", True)


def test_a_command_that_only_prints_ends_where_nobody_reads(tmp_path: Path) -> None:
    assert _run(tmp_path, "prints", "| head -1 >first") == (141, "", False)
    assert (tmp_path / "first").read_text() == "number 0\n"
    code, err, ended = _run(tmp_path, "prints", ">/dev/full")
    assert (code, err, ended) == (1, "error: standard output cannot be written: No space left on device\n", False)
    assert _run(tmp_path, "prints", "2>&1 >/dev/full | head -0") == (1, "", False)


def test_a_pipe_that_does_not_block_gets_everything(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen([sys.executable, "program.py", "prints"], cwd=tmp_path, stdout=writer) as process:
        os.close(writer)
        with open(reader) as pipe:
            lines = pipe.read().splitlines()
    assert process.returncode == 0
    assert lines == [*(f"number {number}" for number in range(5000)), "the last"]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "a +- b - Delta \\u5b57 \\udc80\n+- Delta\n"),
        ("latin-1", "a ± b - Delta \\u5b57 \\udc80\n± Delta\n"),
        ("utf-8", "a ± b − Δ 字 \\udc80\n± Δ\n"),
    ],
)
def test_signs_that_an_encoding_lacks_are_written_otherwise(tmp_path: Path, encoding: str, expected: str) -> None:
    (tmp_path / "signs.py").write_text(SIGNS, encoding="utf-8")
    variables = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "signs.py"], cwd=tmp_path, capture_output=True, env=variables, timeout=120)
    assert (done.returncode, done.stderr, done.stdout.decode(encoding)) == (0, b"", expected)
