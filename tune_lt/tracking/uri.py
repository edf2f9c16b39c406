"""Where the store is: its URI, and what of that may be shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

SQLITE = "sqlite:///"
DEFAULT_URI = "sqlite:///mlflow.db"


def store_uri(option: str | None = None) -> str:
    """The tracking URI: the option, else MLFLOW_TRACKING_URI, else an SQLite file in the working directory.

    An SQLite file's path is made absolute: MLflow keeps one connection per URI, whatever the working directory is then.
    """
    uri = option or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def redacted(text: str) -> str:
    """``text`` without the passwords of the URIs in it."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)


def exists(option: str | None = None) -> bool:
    """Whether there is a store to read: an SQLite file that is there, or any server (which answers for itself)."""
    uri = store_uri(option)
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists()


def sqlite_folder(uri: str) -> Path | None:
    """The folder of an SQLite store's file, None for any other store: a server decides itself where artifacts go."""
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None
