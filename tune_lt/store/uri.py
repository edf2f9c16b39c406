"""The store's URI, and the user name and password for a server."""

from __future__ import annotations

import os
from pathlib import Path

from tune_lt.errors import InputError

SQLITE = "sqlite:///"
DEFAULT_URI = "sqlite:///mlflow.db"
USER, PASSWORD, PASSWORD_FILE = (f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "PASSWORD_FILE"))


def store_uri(option: str | None = None) -> str:
    """The tracking URI: the option, else MLFLOW_TRACKING_URI, else an SQLite file in the working directory.

    An SQLite file's path is made absolute, since MLflow caches one connection per URI and the working directory may
    change.
    """
    uri = option or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def use_password_file() -> None:
    """Read the password from the file that MLFLOW_TRACKING_PASSWORD_FILE names, such as a mounted secret.

    MLFLOW_TRACKING_PASSWORD takes precedence. Raises InputError if the file cannot be read.
    """
    file = os.environ.get(PASSWORD_FILE)
    if not file or os.environ.get(PASSWORD):
        return
    try:
        os.environ[PASSWORD] = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise InputError(f"{PASSWORD_FILE}: found {file}, which cannot be read ({reason})") from None


def access_problem(status: int) -> str:
    """What HTTP status 401 or 403 of an MLflow server means, in words; "" for any other status."""
    user = os.environ.get(USER)
    if status == 401:
        found = f"refuses the user {user!r} or this password" if user else "asks for a user name and a password"
        return f"{found}; valid: {USER}, and {PASSWORD} or a file {PASSWORD_FILE}"
    if status == 403:
        return f"the user {user!r} may not do this; who made the study, or an administrator, can permit it"
    return ""


def exists(option: str | None = None) -> bool:
    """Whether an SQLite store's file exists. True for a server, which is not asked."""
    uri = store_uri(option)
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists()


def sqlite_folder(uri: str) -> Path | None:
    """The folder of an SQLite store's file, None for a server."""
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None
