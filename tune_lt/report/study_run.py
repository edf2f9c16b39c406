"""What the store has of a study beside its scores: where it comes from, learning curves, gradient norms.

What is read is bounded, whatever the number of runs: the study's own run, `MOST_HISTORIES` metric histories,
`MOST_NORMS` artifacts, the runs of `MOST_TRIALS` trials of a search.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
from mlflow.entities import Run

from tune_lt.documents import NORMS, Norms, SearchResult, Trial
from tune_lt.report.tables.origins import different
from tune_lt.report.tables.sheet import Sheet
from tune_lt.report.tables.summary import Runs, Scored
from tune_lt.store import CellRecord, Store, own_tags
from tune_lt.study import FULL

MOST_HISTORIES = 100
MOST_NORMS = 60
MOST_TRIALS = 30
CURVES = ("train/loss", "val/top1", "val/balanced")

Curve = tuple[tuple[int, ...], tuple[float, ...]]  # epochs and values


@dataclass(frozen=True)
class Recorded:
    """A study as its own run has it, and what its tables' runs left behind.

    ``store``: its URI without a password; ``server``: the address of the MLflow UI if the store is one, else "".
    ``tags`` of the study's run, without their prefix. ``began`` and ``ended`` in milliseconds since 1970, 0 where
    unknown. ``origins``: commits, devices and versions of the tables' runs. ``curves[metric, imbalance][row]`` are of
    each row's first seed, so are ``norms[imbalance][row]``; ``left_out`` counts the histories that were not read.
    """

    store: str
    server: str
    experiment: str
    run_id: str
    tags: Mapping[str, str]
    text: str
    began: int
    ended: int
    origins: Mapping[str, Sequence[str]] = field(default_factory=dict)
    curves: Mapping[tuple[str, float | None], Mapping[str, Curve]] = field(default_factory=dict)
    norms: Mapping[float | None, Mapping[str, Norms]] = field(default_factory=dict)
    left_out: int = 0

    @property
    def scale(self) -> str:
        """The scale at which the study was run."""
        return self.tags.get("scale", FULL)


def read(store: Store, run: Run, frame: pd.DataFrame, records: Iterable[CellRecord]) -> Recorded:
    """What there is to know of the study of ``run``; ``records``: of the runs in ``frame``, and others maybe."""
    firsts = _firsts(frame)
    known = {record.run_id: record for record in records}
    curves, left_out = _curves(store, firsts, known)
    used = [known[run_id] for run_id in dict.fromkeys(frame["run_id"])]
    return Recorded(
        store.shown,
        store.shown.rstrip("/") if store.uri.startswith(("http://", "https://")) else "",
        str(run.info.experiment_id),
        str(run.info.run_id),
        own_tags(run),
        store.read_text(run.info.run_id, "study.yaml") or "",
        run.info.start_time or 0,
        run.info.end_time or 0,
        _origins(used),
        curves,
        _norms(store, firsts),
        left_out,
    )


def with_runs(sheet: Sheet, trials: Sequence[tuple[SearchResult, Trial]], store: Store, study: str) -> Sheet:
    """The sheet of searches with the runs behind its metrics: ``trials`` are those of its lines, in order.

    A trial has one run, also where it is a mean over several cells. The runs of `MOST_TRIALS` lines are looked up.
    """
    behind: dict[tuple[int, int], Runs] = {}
    for line, (searched, trial) in enumerate(trials[:MOST_TRIALS]):
        value = trial.value(searched.metric)
        records = [
            record
            for record in store.trials_found(study, searched.name, json.dumps(dict(trial.found)))
            if math.isclose(record.metrics.get(searched.metric, math.nan), value)  # another version of the study's not
        ]
        for column, name in enumerate(sheet.header):
            if records and name in trial.metrics:
                one = records[0]
                seeds = int(one.tags["data_seed"]), int(one.tags["init_seed"])
                behind[line, column] = Runs((Scored(one.run_id, one.experiment, *seeds, trial.value(name)),))
    return replace(sheet, behind=behind)


def _firsts(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each row and imbalance factor the line of the first seed."""
    return frame.drop_duplicates(["row", "imbalance"])


def _curves(
    store: Store, firsts: pd.DataFrame, known: Mapping[str, CellRecord]
) -> tuple[dict[tuple[str, float | None], dict[str, Curve]], int]:
    curves: dict[tuple[str, float | None], dict[str, Curve]] = {}
    read: dict[tuple[str, str], Curve] = {}  # two rows may share a run
    left_out = 0
    for _, line in firsts.iterrows():
        for metric in CURVES:
            if metric not in known[line["run_id"]].metrics:
                continue
            key = (line["run_id"], metric)
            if key not in read:
                if len(read) >= MOST_HISTORIES:
                    left_out += 1
                    continue
                read[key] = store.history(*key)
            if len(read[key][0]) > 1:
                curves.setdefault((metric, _factor(line)), {})[line["row"]] = read[key]
    return curves, left_out


def _norms(store: Store, firsts: pd.DataFrame) -> dict[float | None, dict[str, Norms]]:
    found: dict[float | None, dict[str, Norms]] = {}
    for _, line in firsts.head(MOST_NORMS).iterrows():
        content = store.read(line["run_id"], NORMS, Norms.of)
        if content is not None:
            found.setdefault(_factor(line), {})[line["row"]] = content
    return found


def _factor(line: pd.Series) -> float | None:
    return None if pd.isna(line["imbalance"]) else float(line["imbalance"])


def _origins(records: Sequence[CellRecord]) -> dict[str, list[str]]:
    """The different commits, devices and versions of the runs."""
    versions = map(json.loads, different(records, "versions", "{}"))
    origins = {
        "git commit": different(records, "git"),
        "device": different(records, "device"),
        "trained elsewhere": different([one for one in records if "elsewhere" in one.tags], "elsewhere"),
        "versions": [", ".join(f"{name} {version}" for name, version in one.items()) for one in versions],
    }
    return {label: values for label, values in origins.items() if any(values)}
