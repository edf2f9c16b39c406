"""What earlier drivers have done of a search, read from the store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_lt.store import CellRecord, Store, own_tags
from tune_lt.store.records import reused_tag

ENDED = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Past:
    """One trial of the search. ``values``: the metrics it ended with, means over its units; ``units`` those of each.

    ``outcome`` is complete, pruned, failed, or running: a trial that was interrupted, or whose failure may pass, and is
    to be carried on with under the same number; or reused: its cells were known already. ``step``: the epochs it had,
    over all units; ``rungs``: step -> the value ASHA judged by.
    """

    number: int
    found: Mapping[str, Any]
    fingerprint: str
    outcome: str
    values: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    rungs: Mapping[int, float] = field(default_factory=dict)
    units: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def value(self, metric: str) -> float:
        return self.values.get(metric, math.nan)


def past_trials(
    store: Store,
    study: str,
    signature: str,
    metric: str,
    records: Sequence[CellRecord] | None = None,
    noted: Mapping[str, str] | None = None,
) -> list[Past]:
    """The trials of the search with this signature, by number. Those it took over from other cells are among them.

    Where known already: ``records``, what `Store.trials` gives for them; ``noted``, the tags of the study's run.
    """
    past: dict[int, Past] = {}
    for record in store.trials(study, signature) if records is None else records:
        tags = record.tags
        outcome = tags.get("outcome", "running")
        if outcome not in ENDED or (outcome == "failed" and tags.get("retry") == "yes"):
            outcome = "running"
        past[int(tags["trial"])] = Past(
            number=int(tags["trial"]),
            found=json.loads(tags["found"]),
            fingerprint=record.fingerprint,
            outcome=outcome,
            values=record.metrics,
            step=int(tags.get("epochs", 0)),
            rungs=_rungs(store, record, metric, flying=outcome == "running"),
            units=unit_values(record),
        )
    if noted is None:
        parent = store.parent(study)
        noted = own_tags(parent) if parent else {}
    prefix = reused_tag(signature, "")
    for tag, text in noted.items():
        if tag.startswith(prefix):
            number = int(tag.removeprefix(prefix))
            past.setdefault(number, Past(number, outcome="reused", **json.loads(text)))
    return sorted(past.values(), key=lambda trial: trial.number)


def unit_values(record: CellRecord) -> dict[str, list[float]]:
    """The metrics of each unit of a trial that has ended, NaN where one has none; its own where it had only one."""
    if "units" in record.tags:
        return {
            name: [math.nan if value is None else value for value in values]
            for name, values in json.loads(record.tags["units"]).items()
        }
    return {name: [value] for name, value in record.metrics.items()}


def _rungs(store: Store, record: CellRecord, metric: str, *, flying: bool) -> dict[int, float]:
    """Of an ended trial from its tag; of one in flight from its curve, every step of it."""
    if "rungs" in record.tags:
        return {int(epoch): value for epoch, value in json.loads(record.tags["rungs"]).items()}
    if not flying:
        return {}  # nobody judged it
    return {point.step: point.value for point in store.client.get_metric_history(record.run_id, metric)}
