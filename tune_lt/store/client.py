"""MLflow's client with calls that are repeated while the store does not answer."""

from __future__ import annotations

import time
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient


def answered(error: Exception) -> int:
    """The HTTP status of the server's answer that led to ``error``, 0 if there was no answer."""
    if isinstance(error, requests.HTTPError) and error.response is not None:  # from MLflow's requests for artifacts
        return error.response.status_code
    return error.get_http_status_code() if isinstance(error, MlflowException) else 0


def refused(error: Exception) -> bool:
    """Whether the store refused a call in such a way that repeating it is useless."""
    if not isinstance(error, MlflowException):
        return isinstance(error, KeyError | TypeError | ValueError)
    status = error.get_http_status_code()
    return 400 <= status < 500 and status not in (401, 403, 408, 429)


class PatientClient:
    """An MlflowClient that repeats a call for up to ``patience`` seconds while the store does not answer.

    ``raw`` is the MlflowClient itself, which calls once.
    """

    def __init__(self, client: MlflowClient) -> None:
        self.raw, self.patience = client, 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.raw, name)

        def call(*arguments: Any, **options: Any) -> Any:
            until, pause = time.monotonic() + self.patience, 0.5
            while True:
                try:
                    return method(*arguments, **options)
                except Exception as error:
                    if refused(error) or time.monotonic() > until:
                        raise
                time.sleep(pause)
                pause = min(2 * pause, 10.0)

        return call
