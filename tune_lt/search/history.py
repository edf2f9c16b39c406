"""What earlier drivers have done of a search, read from the store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tune_lt.tracking import TAG, Store

ENDED = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Past:
    """One trial of the search. ``value``: the last one of the metric; ``rungs``: epoch -> the value ASHA judged by.

    ``outcome`` is complete, pruned, failed, or running: a trial that was interrupted, or whose failure may pass, and is
    to be carried on with under the same number.
    """

    number: int
    found: Mapping[str, Any]
    fingerprint: str
    outcome: str
    value: float = math.nan
    epochs: int = 0
    rungs: Mapping[int, float] = field(default_factory=dict)


def read(store: Store, study: str, signature: str, metric: str) -> list[Past]:
    """The trials of the search with this signature, by number. Those it took over from other cells are among them."""
    past: dict[int, Past] = {}
    for record in store.trials(study, signature):
        tags = record.tags
        outcome = tags.get("outcome", "running")
        if outcome not in ENDED or (outcome == "failed" and tags.get("retry") == "yes"):
            outcome = "running"
        past[int(tags["trial"])] = Past(
            number=int(tags["trial"]),
            found=json.loads(tags["found"]),
            fingerprint=record.fingerprint,
            outcome=outcome,
            value=record.metrics.get(metric, math.nan),
            epochs=int(tags.get("epochs", 0)),
            rungs=_rungs(store, record.run_id, metric, tags, flying=outcome == "running"),
        )
    parent = store.parent(study)
    prefix = reused_tag(signature, "")
    for tag, text in (parent.data.tags if parent else {}).items():
        if tag.startswith(TAG + prefix):
            number = int(tag.removeprefix(TAG + prefix))
            past.setdefault(number, Past(number, outcome="reused", **json.loads(text)))
    return sorted(past.values(), key=lambda trial: trial.number)


def reused_tag(signature: str, number: int | str) -> str:
    """The tag of the study's run that remembers a trial which needed no training: its cell was known already."""
    return f"reused.{signature}.{number}"


def _rungs(store: Store, run_id: str, metric: str, tags: Mapping[str, str], *, flying: bool) -> dict[int, float]:
    """Of an ended trial from its tag; of one in flight from its curve, every epoch of it."""
    if "rungs" in tags:
        return {int(epoch): value for epoch, value in json.loads(tags["rungs"]).items()}
    if not flying:
        return {}  # nobody judged it
    return {point.step: point.value for point in store.client.get_metric_history(run_id, metric)}
