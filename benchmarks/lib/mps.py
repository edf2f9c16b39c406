"""NVIDIA's Multi-Process Service, by which the kernels of several processes run on one GPU at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
SECONDS = 10.0  # that a command to the daemon, and the start of its server, may take


@contextmanager
def daemon() -> Iterator[dict[str, str]]:
    """MPS for the block: the environment variables of the processes that are to use it.

    They are none where there is no MPS or it does not start, which is said on stderr. Whoever uses it should have ended
    before the block does.
    """
    control = shutil.which(CONTROL)
    if control is None:
        print(f"MPS: there is no {CONTROL} here", file=sys.stderr, flush=True)
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="mps", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        variables = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
        for path in variables.values():
            Path(path).mkdir()
        environment = os.environ | variables
        try:
            problem = _start(control, environment, folder)
            if problem:
                print(f"MPS does not start: {problem}", file=sys.stderr, flush=True)
            yield {} if problem else variables
        finally:
            _ask(control, environment, "quit")


def _start(control: str, environment: dict[str, str], folder: Path) -> str:
    """Start the daemon and a server; what is wrong, or nothing."""
    said = folder / "said"
    with open(said, "wb") as file:  # no pipe: the daemon would keep it open
        try:
            code = subprocess.run(
                [control, "-d"], env=environment, stdout=file, stderr=file, timeout=SECONDS
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if code:
        return f"exit code {code}: {said.read_text(errors='replace').strip()[:500]}"
    _ask(control, environment, f"start_server -uid {os.getuid()}")
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if any(line.strip().isdigit() for line in _ask(control, environment, "get_server_list").splitlines()):
            return ""
        time.sleep(0.2)
    logs = "\n".join(path.read_text(errors="replace")[-500:] for path in sorted((folder / "log").glob("*.log")))
    return f"no server within {SECONDS:.0f} s\n{logs}".strip()


def _ask(control: str, environment: dict[str, str], command: str) -> str:
    """What the daemon answers to a command; nothing where it does not answer."""
    options = {"input": f"{command}\n", "capture_output": True, "text": True, "timeout": SECONDS}
    try:
        return subprocess.run([control], env=environment, **options).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"MPS: {command}: {error}", file=sys.stderr, flush=True)
        return ""
