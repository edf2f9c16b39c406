"""Where a result comes from: the commit of this code, and the versions of the libraries."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from tune_lt import __version__

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "pandas", "numpy", "scikit-learn")


def git_commit() -> str:
    """The commit of this checkout, with ``-dirty`` if it has uncommitted changes; elsewhere the package's version."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # fails in a repository that only contains a venv
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return f"tune-lt {__version__}"


def versions() -> dict[str, str]:
    """Package -> installed version, or "missing"; also that of ``python``."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found
