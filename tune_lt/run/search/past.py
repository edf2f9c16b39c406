"""The trials of a search that earlier drivers left in the store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from tune_lt.documents import Trial
from tune_lt.store import CellRecord, Cells, Store
from tune_lt.store.records import reused_tag

ENDED = ("complete", "pruned", "failed")


def past_trials(store: Store, cells: Cells, noted: Mapping[str, str], signature: str, metric: str) -> list[Trial]:
    """The trials of the search with this signature, by number, with those that needed no training.

    ``cells``: all runs of the study; ``noted``: the tags of the study's own run, which name the trials that needed no
    training. ``metric``: whose values ASHA judges by.
    """
    past: dict[int, Trial] = {}
    for record in cells.trials(signature):
        tags = record.tags
        outcome = tags.get("outcome", "running")
        if outcome not in ENDED or (outcome == "failed" and tags.get("retry") == "yes"):
            outcome = "running"
        past[int(tags["trial"])] = Trial(
            number=int(tags["trial"]),
            found=json.loads(tags["found"]),
            fingerprint=record.fingerprint,
            outcome=outcome,
            metrics=record.metrics,
            epochs=int(tags.get("epochs", 0)),
            rungs=_rungs(store, record, metric, running=outcome == "running"),
            units=unit_values(record),
            reason=tags.get("reason", "") if outcome == "failed" else "",
        )
    prefix = reused_tag(signature, "")
    for tag, text in noted.items():
        if tag.startswith(prefix):
            number = int(tag.removeprefix(prefix))
            past.setdefault(number, Trial(**json.loads(text), outcome="reused", number=number))
    return sorted(past.values(), key=lambda trial: trial.number)


def unit_values(record: CellRecord) -> dict[str, list[float]]:
    """Metric -> its value in each unit of an ended trial, NaN where a unit has none."""
    if "units" in record.tags:
        return {
            name: [math.nan if value is None else value for value in values]
            for name, values in json.loads(record.tags["units"]).items()
        }
    return {name: [value] for name, value in record.metrics.items()}


def _rungs(store: Store, record: CellRecord, metric: str, *, running: bool) -> dict[int, float]:
    """Step -> value, for ASHA: from the tag of an ended trial, from the recorded curve of one that still runs."""
    if "rungs" in record.tags:
        return {int(epoch): value for epoch, value in json.loads(record.tags["rungs"]).items()}
    if not running:
        return {}  # ASHA did not judge it
    return {point.step: point.value for point in store.client.get_metric_history(record.run_id, metric)}
