"""The store's URI, and the user name and password for a server."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, make_url

from tune_lt.errors import InputError, redacted

SQLITE = "sqlite:///"
DEFAULT_FILE = "mlflow.db"
URIS = f"{SQLITE}FILE, an MLflow server's http://HOST:PORT or https://HOST/PATH, postgresql://USER@HOST/DATABASE"
USER, PASSWORD, PASSWORD_FILE = (f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "PASSWORD_FILE"))


def store_uri(option: str | None = None) -> str:
    """The tracking URI: the option, else MLFLOW_TRACKING_URI, else an SQLite file in the working directory.

    An SQLite file's path is made absolute, since MLflow caches one connection per URI and the working directory may
    change. Raises InputError for a folder, and for a URI that is written wrongly.
    """
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    uri = option or variable or SQLITE + DEFAULT_FILE
    if valid := _mistake(uri):
        name = "--store" if option or not variable else "MLFLOW_TRACKING_URI"
        raise InputError(f"{name}: found {redacted(uri)}; valid: {valid}")
    return sqlite_uri(_database(uri).absolute()) if uri.startswith(SQLITE) else uri


def sqlite_uri(file: Path) -> str:
    """The URI of an SQLite file. In it, SQLAlchemy escapes characters such as % that have a meaning in a URI."""
    return str(URL.create("sqlite", database=str(file)))


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store, None for a server."""
    return _database(uri) if uri.startswith(SQLITE) else None


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


def _mistake(uri: str) -> str:
    """What would be valid in place of ``uri``; "" if it may be valid itself."""
    scheme = urlsplit(uri).scheme
    if uri.startswith(SQLITE):
        file, options = _database(uri), make_url(uri).query
        if options or str(file) in (".", ":memory:") or str(file).startswith("file:"):
            return f"{SQLITE} and the path of a file, such as {SQLITE}{DEFAULT_FILE}"
        return sqlite_uri(file / DEFAULT_FILE) if file.is_dir() else ""
    if scheme.startswith("sqlite"):
        return f"{SQLITE}{DEFAULT_FILE} here, or {SQLITE}/FOLDER/{DEFAULT_FILE}: three slashes, then the path of a file"
    if scheme in ("http", "https"):
        return "" if _has_host(uri) else f"{scheme}://HOST:PORT"
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        return f"http://{uri}"
    if uri == "databricks" or (len(scheme) > 1 and scheme != "file"):
        return ""  # MLflow knows whether there is a store of this kind
    place = Path(unquote(urlsplit(uri).path)) if scheme == "file" else Path(uri)
    return sqlite_uri(place if place.is_file() else place / DEFAULT_FILE)


def _database(uri: str) -> Path:
    return Path(make_url(uri).database or "")


def _has_host(uri: str) -> bool:
    try:
        return bool(urlsplit(uri).hostname) and urlsplit(uri).port != 0
    except ValueError:  # the port is no number below 65536
        return False
