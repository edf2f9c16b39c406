"""Views in MLflow's UI that show a study's rows and trials.

MLflow 3.17 stores what a user saves under "Views" in tags of the experiment. This module makes such tags.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from tune_lt.config import GROUPS
from tune_lt.store.records import TAG

_KEY = "mlflow.sharedViewState."  # followed by the view's name, as in an address: ?viewStateShareKey=tables
_ROW = f"{TAG}row"


def tags(searched: Sequence[str], metric: str) -> dict[str, str]:
    """The tags that give an experiment the views.

    The view of the trials has a column for each path in ``searched`` and is sorted by ``metric``, the highest first. It
    is left out if ``searched`` is empty.
    """
    accuracies = [f"metrics.`test/{name}`" for name in ("top1", *GROUPS)]
    rows = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": _ROW}]}
    tables = _state(f"tags.`{TAG}fold` = 'full'", "attributes.start_time", accuracies, ascending=True, groupBy=rows)
    found = {f"{_KEY}tables": _view("Tables: rows, means over seeds", tables)}
    if not searched:
        return found
    by = f"metrics.`{metric}`"
    columns = [*(f"params.`{path}`" for path in ("loss/name", *searched)), by]
    trials = _state(f"tags.`{_ROW}` = 'search'", by, columns, ascending=False)
    return found | {f"{_KEY}search": _view(f"Search: trials by {metric}, the best first", trials)}


def _state(search: str, order: str, columns: Sequence[str], *, ascending: bool, **more: Any) -> dict[str, Any]:
    """The state of a table of runs, as the UI stores it; what is not mentioned has the UI's defaults."""
    shown = {"searchFilter": search, "orderByKey": order, "orderByAsc": ascending, "selectedColumns": list(columns)}
    every = {"startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs"}
    return shown | every | more


def _view(name: str, state: dict[str, Any]) -> str:
    now = int(1000 * time.time())
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)})
