"""Deliberate mistakes in the product, each of which the fast tests must catch; none of them is made in this checkout.

    python tests/mutations.py             # all of tests/mutations.yaml
    python tests/mutations.py 3 holm      # the third, and those that speak of holm

An entry says ``what`` is wrong; ``old``, a text found once in all of tune_lt, becomes ``new`` in a copy of the tree;
``tests`` are files or node ids below tests/. Exit code 1 if one is not caught, or stale: its text is not found once.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PASSED, FAILED, INTERRUPTED = 0, 1, 2  # pytest's exit codes; what cannot be collected interrupts it
LISTED = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
PYTEST = ["-m", "pytest", "-x", "-q", "-n", "0", "--timeout", "300"]


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Python in the copy, whose package comes before the one that is installed: exit code and output."""
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}  # no file is taken for its old self
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def failing(folder: Path, tests: list[str], *expected: int) -> str:
    """The first test that failed, or could not be collected; "" if all passed. Nothing else is taken for an answer."""
    code, output = run(folder, *PYTEST, *(f"tests/{test}" for test in tests))
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    if code not in expected or (code == PASSED) != (failed is None):
        sys.exit(f"{output}\npytest ended with {code}, which is no answer")
    return failed[1] if failed else ""


def outcome(folder: Path, entry: dict[str, Any]) -> str:
    """What became of one mistake."""
    texts = {file: file.read_text() for file in folder.glob("tune_lt/**/*.py")}
    holding = [file for file, text in texts.items() for _ in range(text.count(entry["old"]))]
    if len(holding) != 1:
        return "stale: text not found once"
    holding[0].write_text(texts[holding[0]].replace(entry["old"], entry["new"]))
    caught = failing(folder, entry["tests"], PASSED, FAILED, INTERRUPTED)
    holding[0].write_text(texts[holding[0]])
    return f"caught by {caught}" if caught else "NOT CAUGHT"


entries = dict(enumerate(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()), start=1))
if chosen := sys.argv[1:]:
    entries = {n: one for n, one in entries.items() if str(n) in chosen or any(c in one["what"] for c in chosen)}
with tempfile.TemporaryDirectory(prefix="mutations_") as name:
    copy, said = Path(name).resolve(), []
    for file in filter(None, subprocess.check_output(LISTED, cwd=ROOT, text=True).split("\0")):
        if (ROOT / file).is_file():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy / file)
    package = run(copy, "-c", "import tune_lt; print(tune_lt.__file__)")[1].strip()
    assert Path(package).is_relative_to(copy), f"another package than the copy's would be tested: {package}"
    failing(copy, sorted({test for one in entries.values() for test in one["tests"]}), PASSED)
    for number, entry in entries.items():
        said.append(outcome(copy, entry))
        print(f"{number:3} {entry['what']}: {said[-1]}", flush=True)
sys.exit(0 if said and all(line.startswith("caught") for line in said) else 1)
