"""The only place that knows MLflow: where a study is recorded, and how it is read back.

One experiment per study; one parent run, which holds the study file, the tables and the figures; one nested run per
cell. Our tags begin with ``tune_lt.``. Cells are written by `tune_lt.store.journal`.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import; nothing leaves the machine unasked
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # we try again ourselves, and say so
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")  # we may not reach the server's own S3
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines and a request for each run's end

from tune_lt.errors import redacted
from tune_lt.store.client import answered, refused
from tune_lt.store.records import DAMAGED, DUPLICATE, TAG, CellRecord, Cells, own_tags
from tune_lt.store.store import PAGE, TAG_CHARACTERS, Store
from tune_lt.store.uri import access_problem, exists, store_uri

__all__ = [
    "DAMAGED",
    "DUPLICATE",
    "PAGE",
    "TAG",
    "TAG_CHARACTERS",
    "CellRecord",
    "Cells",
    "Store",
    "access_problem",
    "answered",
    "exists",
    "own_tags",
    "redacted",
    "refused",
    "store_uri",
]
