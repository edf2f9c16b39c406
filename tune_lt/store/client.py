"""MLflow's client with calls that are repeated while the store does not answer."""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from tune_lt.errors import InputError, redacted
from tune_lt.store.uri import URIS, access_problem
from tune_lt.texts import first_line

PROBE_SECONDS = 5.0
CERTIFICATE = "MLFLOW_TRACKING_SERVER_CERT_PATH"
NO_MLFLOW = re.compile(r"failed with error code \d+ != 200|response body was not in a valid JSON format")  # by MLflow
AWAY = re.compile(r"too many (\d+) error responses")  # by urllib3


class StoreError(InputError):
    """The store refused a call, or did not answer for as long as the client is patient. ``cause``: MLflow's error."""

    def __init__(self, uri: str, cause: Exception, *, resumable: bool = False) -> None:
        reason = access_problem(answered(cause)) or f"cannot be used: {redacted(first_line(cause), uri)}"
        after = "; once it can, the same command goes on, and nothing that is recorded is lost" if resumable else ""
        super().__init__(f"tracking store {redacted(uri)} {reason}{after}")
        self.cause = cause


def answered(error: Exception) -> int:
    """The HTTP status of the server's answer that led to ``error``, 0 if there was no answer."""
    if isinstance(error, StoreError):
        return answered(error.cause)
    if isinstance(error, requests.HTTPError) and error.response is not None:  # from MLflow's requests for artifacts
        return error.response.status_code
    return error.get_http_status_code() if isinstance(error, MlflowException) else 0


def refused(error: Exception) -> bool:
    """Whether the store refused a call in such a way that repeating it is useless."""
    if not isinstance(error, MlflowException):
        return isinstance(error, KeyError | TypeError | ValueError)
    if error.error_code == "ENDPOINT_NOT_FOUND":
        return False  # a proxy's answer while the server behind it is away
    status = error.get_http_status_code()
    return 400 <= status < 500 and status not in (401, 403, 408, 429)


def absent(error: Exception) -> bool:
    """Whether the store answered that it has no such experiment, run or model."""
    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


def server_problem(error: Exception, uri: str) -> str:
    """What is wrong with a URI that led to ``error``, and what to do, in words; "" where that is not known."""
    if isinstance(error, UnsupportedModelRegistryStoreURIException):
        return f"is of no kind that MLflow knows; valid: {URIS}"
    address = urlsplit(uri)
    if address.scheme not in ("http", "https"):
        return ""
    file = os.environ.get(CERTIFICATE)
    if file and not Path(file).exists():
        return f"cannot be asked; {CERTIFICATE}: found {file}, where there is no file"
    found = list(_reasons(error))
    for one in found:
        if isinstance(one, ssl.SSLCertVerificationError):
            return (
                f"shows a certificate that is not accepted ({one.verify_message}); valid: a file that holds it, or the "
                f"certificate of who signed it, in {CERTIFICATE}, and one of the certificate's names in the URI"
            )
    if any(isinstance(one, ssl.SSLError) for one in found):
        return f"speaks no TLS, or not as we do; if it is plain HTTP, valid: http://{address.netloc}{address.path}"
    if address.scheme == "http" and _speaks_tls(address.hostname or "", address.port or 80):
        return f"speaks TLS; valid: https://{address.netloc}{address.path}"
    if NO_MLFLOW.search(str(error)):
        return (
            "answers, but not as an MLflow server does; if it stands behind a path, valid: the URI with that path, "
            "such as https://host/mlflow"
        )
    if away := AWAY.search(str(error)):
        return f"answers with HTTP status {away[1]}; the log of the server, or of the proxy before it, says why"
    reasons = [one.strerror for one in found if isinstance(one, OSError) and one.strerror]
    return f"does not answer ({reasons[-1]}); is the MLflow server running, and is this its address?" if reasons else ""


def redirect(uri: str) -> str:
    """The problem with a server that sends us from http to https, "" if there is none: it takes no change that way."""
    if not uri.startswith("http://"):
        return ""
    try:
        answer = http_request(get_default_host_creds(uri), "/health", "GET")
    except MlflowException:
        return ""
    at = answer.url.removesuffix("/health")
    return f"sends its clients to {at}; valid: --store {at}" if answer.history and at.startswith("https://") else ""


def _reasons(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it, the first cause last. The library requests keeps them in arguments."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            waiting += [one.__cause__ or one.__context__, getattr(one, "reason", None), *one.args]


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        with socket.create_connection((host, port), PROBE_SECONDS) as connection:
            context.wrap_socket(connection, server_hostname=host).close()
        return True
    except (OSError, ValueError):
        return False


class PatientClient:
    """An MlflowClient that repeats a call for up to ``patience`` seconds while the store does not answer.

    Its calls raise StoreError. ``raw`` is the MlflowClient itself, which calls once and raises what MLflow raises.
    """

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self.raw, self.patience, self._uri = client, 0.0, uri

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.raw, name)

        def call(*arguments: Any, **options: Any) -> Any:
            until, pause = time.monotonic() + self.patience, 0.5
            while True:
                try:
                    return method(*arguments, **options)
                except (KeyError, TypeError, ValueError):
                    raise  # a mistake in the call
                except Exception as error:
                    if refused(error) or time.monotonic() > until:
                        raise StoreError(self._uri, error, resumable=self.patience > 0) from error
                time.sleep(pause)
                pause = min(2 * pause, 10.0)

        return call
