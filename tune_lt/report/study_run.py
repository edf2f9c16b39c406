"""What the store has of a study beside its scores: where they come from, learning curves, gradient norms.

However many runs there are, no more is read than the study's own run, `MOST_HISTORIES` metric histories, `MOST_NORMS`
artifacts and the runs of `MOST_TRIALS` trials for each table of searches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    """What a study's own run recorded, and what the runs of its rows recorded beside their scores.

    ``store``: its URI without a password; ``server``: that URI if it is an MLflow server, which has a UI, else "".
    ``experiment``, ``run_id`` and ``tags`` (without their prefix) of the study's run; ``text``: its study file.
    ``began`` and ``ended``: in milliseconds since 1970, 0 where unknown. ``origins``: commits, devices and versions of
    the rows' runs, by label. ``curves[metric, imbalance][row]`` and ``norms[imbalance][row]``: of each row's first
    seed; ``left_out``: how many curves were not read.
    """

    store: str
    server: str
    experiment: str
    run_id: str
    tags: Mapping[str, str]
    text: str
    began: int
    ended: int
    origins: Mapping[str, Sequence[str]]
    curves: Mapping[tuple[str, float | None], Mapping[str, Curve]]
    norms: Mapping[float | None, Mapping[str, Norms]]
    left_out: int

    @property
    def scale(self) -> str:
        """The scale at which the study was run."""
        return self.tags.get("scale", FULL)


def read(store: Store, run: Run, frame: pd.DataFrame, finished: Mapping[str, CellRecord]) -> Recorded:
    """What there is to know of a study. ``run``: its own; ``frame``: as `tune_lt.report.collect.collect` makes it.

    ``finished``: cells by fingerprint, those in ``frame`` and maybe others.
    """
    firsts = frame.drop_duplicates(["row", "imbalance"])
    curves, left_out = _curves(store, firsts, finished)
    return Recorded(
        store.shown,
        store.shown.rstrip("/") if store.uri.startswith(("http://", "https://")) else "",
        str(run.info.experiment_id),
        str(run.info.run_id),
        own_tags(run),
        store.read_text(run.info.run_id, "study.yaml") or "",
        run.info.start_time or 0,
        run.info.end_time or 0,
        _origins([finished[fingerprint] for fingerprint in frame["fingerprint"].unique()]),
        curves,
        _norms(store, firsts),
        left_out,
    )


def with_runs(sheet: Sheet, trials: Sequence[tuple[SearchResult, Trial]], store: Store, study: str) -> Sheet:
    """A table of searches with the run of each metric, for the lines whose ``trials`` are given in order.

    A trial has one run in MLflow, also where its value is a mean over several cells.
    """
    behind: dict[tuple[int, int], Runs] = {}
    for line, (searched, trial) in enumerate(trials[:MOST_TRIALS]):
        metric = searched.metric
        found = store.trials_found(study, searched.name, json.dumps(dict(trial.found)))
        same = (one for one in found if math.isclose(one.metrics.get(metric, math.nan), trial.value(metric)))
        record = next(same, None)  # the others are of earlier versions of the study
        for column, name in enumerate(sheet.header):
            if record and name in trial.metrics:
                seeds = int(record.tags["data_seed"]), int(record.tags["init_seed"])
                behind[line, column] = Runs((Scored(record.run_id, record.experiment, *seeds, trial.value(name)),))
    return replace(sheet, behind=behind)


def _curves(
    store: Store, firsts: pd.DataFrame, finished: Mapping[str, CellRecord]
) -> tuple[dict[tuple[str, float | None], dict[str, Curve]], int]:
    """`Recorded.curves` and `Recorded.left_out`."""
    wanted = [
        (line, metric)
        for _, line in firsts.iterrows()
        for metric in CURVES
        if metric in finished[line["fingerprint"]].metrics
    ]
    keys = list(dict.fromkeys((line["run_id"], metric) for line, metric in wanted))  # two rows may share a run
    read = {key: store.history(*key) for key in keys[:MOST_HISTORIES]}
    curves: dict[tuple[str, float | None], dict[str, Curve]] = {}
    for line, metric in wanted:
        epochs, values = read.get((line["run_id"], metric), ((), ()))
        if len(epochs) > 1:
            curves.setdefault((metric, _factor(line)), {})[line["row"]] = epochs, values
    return curves, len(keys) - len(read)


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
