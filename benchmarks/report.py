"""The tables of a study of 10,000 runs, against one bare `search_runs` over the same runs.

The store is a fresh SQLite file. Its runs are written through MLflow's client as the driver writes them: a run a cell
with the tags, parameters and metrics of a real one, and its two artifacts. Both sides run in processes of their own, in
turn, on the same file; each side's memory is the growth of its process's peak while it works.

    python benchmarks/report.py                       # 10,000 runs, about 12 minutes on two cores, most of it to write
    python benchmarks/report.py --runs 1000
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from lib import common, timing

ROWS = 10
NAME = "large"
TARGET = 2.0
STUDY = """\
name: {name}
data: {{name: digits, imbalance: 20}}
model: {{name: resnet8}}
recipe: {{epochs: 40, batch_size: 64}}
loss: {{name: ghm_cwap}}
rows: {{{rows}}}
seeds: {{data: [{data}], init: [{init}]}}
"""


def fill(folder: Path, runs: int) -> None:
    """Record a study with ``runs`` finished cells."""
    from mlflow.entities import Metric, Param, RunTag

    from tune_lt import provenance
    from tune_lt.config import ImageHashes
    from tune_lt.documents import Norms
    from tune_lt.run.driver import _where
    from tune_lt.run.planner import Plan, parent_tags
    from tune_lt.store import TAG, Store, sqlite
    from tune_lt.study import reader

    store = Store(f"sqlite:///{folder / 'mlflow.db'}")
    sqlite.write_ahead(store.engine)
    rows = ", ".join(f"row {k}: {{loss: {{alpha: {0.5 + 0.05 * k}}}}}" for k in range(1, ROWS))
    inits = max(1, runs // ROWS // 100)
    text = STUDY.format(
        name=NAME,
        rows="softmax: {loss: {name: softmax}}, " + rows,
        data=", ".join(map(str, range(runs // ROWS // inits))),
        init=", ".join(map(str, range(inits))),
    )
    study = reader.parse(text, folder)
    hashes = ImageHashes("images", "images")
    plan = Plan(study, hashes, {"git": "0" * 40, "device": "cpu", "versions": json.dumps(provenance.versions())})
    cells = plan.cells({})
    parent = store.ensure_parent(study.name)
    store.begin(parent, text, {**parent_tags(study), **_where(folder)})
    store.log_json(parent, "cells.json", plan.contents(cells, {}, None).content())
    experiment, draw = store.experiment(study.name), random.Random(0)
    names = [f"test/{name}" for name in ("top1", "balanced", "many", "medium", "few", "rare")]
    for planned in cells:
        record = plan.record(planned)
        tags = dict(record.tags) | {"study": NAME, "key": record.key, "outcome": "complete", "epochs": "40"}
        run = store.client.create_run(
            experiment, tags={f"{TAG}{key}": value for key, value in tags.items()} | {"mlflow.parentRunId": parent}
        )
        score = draw.uniform(0.8, 0.9)
        store.client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, score, 0, 40) for name in names] + [Metric("train/loss", 0.1, 0, 40)],
            params=[Param(key, str(value)) for key, value in record.params.items()],
            tags=[RunTag("mlflow.runName", record.name)],
        )
        classes = {"class_counts": [120 // (k + 1) for k in range(10)], "test": [score] * 10}
        classes |= {"class_names": [str(k) for k in range(10)]}
        store.put_json(run.info.artifact_uri, "per_class.json", classes)
        counts = {name: [1] * 100 for name in ("all", "many", "medium", "few", "rare", "largest", "smallest")}
        norms = Norms(100, counts, 0, 9, None, classes={"largest": "0", "smallest": "9"}).content()
        store.put_json(run.info.artifact_uri, "norms.json", norms)
        store.client.set_terminated(run.info.run_id)
    store.finish(parent)
    sqlite.write_through(store.engine)


def bare(folder: Path) -> tuple[float, int, int]:
    """Seconds, bytes and runs of one `search_runs` over the study, page by page, keeping all."""
    from mlflow import MlflowClient

    from tune_lt.store import PAGE

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(NAME).experiment_id
    client.search_runs([experiment], max_results=1)
    return _timed(lambda: _everything(client, experiment, PAGE))


def tables(folder: Path) -> tuple[float, int, int]:
    """Seconds and bytes of assembling the study's report, and the runs in its frame."""
    from tune_lt.report import collect
    from tune_lt.store import Store

    store = Store(f"sqlite:///{folder / 'mlflow.db'}")
    store.client.search_runs([store.experiment(NAME)], max_results=1)
    return _timed(lambda: len(collect.collect(store, NAME).frame))


def page(folder: Path) -> tuple[float, int, int]:
    """The same, and all files written, the page and its figures too."""
    from tune_lt.report import collect, write
    from tune_lt.store import Store

    store = Store(f"sqlite:///{folder / 'mlflow.db'}")

    def whole() -> int:
        collected = collect.collect(store, NAME)
        write.write_report(collected, folder / "report")
        return len(collected.frame)

    return _timed(whole)


def _everything(client: Any, experiment: str, size: int) -> int:
    kept, token = [], None
    while True:
        found = client.search_runs([experiment], max_results=size, page_token=token)
        kept += found
        token = found.token
        if not token:
            return len(kept)


def _timed(what: Any) -> tuple[float, int, int]:
    from tune_lt.training.results import peak_memory

    gc.collect()
    before, began = peak_memory(), time.perf_counter()
    count = what()
    return time.perf_counter() - began, peak_memory() - before, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    print(timing.heading(packages=common.PACKAGES))
    with common.workplace() as fresh:
        folder = fresh()
        common.in_process(fill, folder, arguments.runs)
        sides = {"one bare search_runs": bare, "tables (collect)": tables, "tables and all files, page too": page}
        taken: dict[str, list[tuple[float, int, int]]] = {name: [] for name in sides}
        for _ in range(arguments.repetitions):
            for name, side in sides.items():
                taken[name].append(common.in_process(side, folder))
                print(name, taken[name][-1], file=sys.stderr)
    base = taken["one bare search_runs"]
    lines = []
    for name, some in taken.items():
        ratios = [own[0] / other[0] for own, other in zip(some, base, strict=True)]
        lines.append(
            [
                name,
                str(some[0][2]),
                f"{statistics.median(one[0] for one in some):.2f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{statistics.median(one[1] for one in some) / 2**20:.0f}",
            ]
        )
    print(timing.table(["side", "runs", "seconds", "ratio", "memory added, MiB"], lines))
    print(f"target: tables at most {TARGET:g} times the bare search_runs")


if __name__ == "__main__":
    main()
