"""Records studies in MLflow and reads them back. No other package of tune_lt uses MLflow.

A study is one experiment. Its parent run holds the study file, the tables and the figures; each cell is a nested run,
which `tune_lt.store.journal` writes. Our tags begin with ``tune_lt.``.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # set before MLflow is imported
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # we try again ourselves and tell the user
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")  # the server's S3 may be out of our reach
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it costs a request at each run's end

from tune_lt.errors import redacted
from tune_lt.store.client import refused
from tune_lt.store.opening import NoStore, adopt
from tune_lt.store.records import DAMAGED, DUPLICATE, TAG, CellRecord, Cells, own_tags
from tune_lt.store.store import PAGE, TAG_CHARACTERS, Store
from tune_lt.store.uri import store_uri

__all__ = [
    "DAMAGED",
    "DUPLICATE",
    "PAGE",
    "TAG",
    "TAG_CHARACTERS",
    "CellRecord",
    "Cells",
    "NoStore",
    "Store",
    "adopt",
    "own_tags",
    "redacted",
    "refused",
    "store_uri",
]
