from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import Metric, Param
from stand_in import IMAGES

from tune_lt.documents import ByImage, SearchResult, TableCell, Trial
from tune_lt.report.tables.summary import COLUMNS, Table, runs_by_row
from tune_lt.run.planner import Plan, found_by, parent_tags
from tune_lt.store import TAG, CellRecord, Store
from tune_lt.study import Study, reader


def line(row: str, seed: int, accuracies: Sequence[float], **changes: Any) -> dict[str, Any]:
    """One finished run; ``accuracies``: many, medium, few, rare, top1 as fractions."""
    many, medium, few, rare, top1 = accuracies
    return {
        "row": row,
        "data_seed": seed,
        "init_seed": seed,
        "run_id": f"{row}-{seed}",
        "experiment": "1",
        "test/top1": top1,
        "test/many": many,
        "test/medium": medium,
        "test/few": few,
        "test/rare": rare,
        "class_counts": [4, 100, 20],
        "per_class": [few, many, medium],
        "class_names": ["lynx", "cat", "dog"],
    } | changes


@pytest.fixture
def make_line() -> Callable[..., dict[str, Any]]:
    return line


@pytest.fixture
def frame() -> pd.DataFrame:
    """Three runs of `margin+weight_ura` and of `softmax`, one of `margin`; nobody has Rare classes."""
    runs = {
        "margin+weight_ura": [0.7, 0.8, 0.9],
        "softmax": [0.5, 0.6, 0.7],
        "margin": [0.99],
    }
    return pd.DataFrame(
        [
            line(row, seed, (0.9, top1, top1 / 2, nan, top1))
            for row, values in runs.items()
            for seed, top1 in enumerate(values)
        ]
    )


def table_of(
    lines: pd.DataFrame | Sequence[Mapping[str, Any]], rows: Sequence[str], planned: int, reference: str | None = None
) -> Table[str]:
    """The table of some finished runs, as `line` makes them. Each row has ``planned`` cells, of seeds 0, 1, ..."""
    cells: dict[str, list[TableCell]] = {}
    finished = {}
    for row in rows:
        own = [one for one in pd.DataFrame(lines).to_dict("records") if one["row"] == row]
        done = {(one["data_seed"], one["init_seed"]): one for one in own}
        seeds = list(dict.fromkeys([*done, *((seed, seed) for seed in range(planned))]))[:planned]
        cells[row] = [TableCell(f"{row} {data} {init}", None, data, init) for data, init in seeds]
        for cell in cells[row]:
            one = done.get((cell.data_seed, cell.init_seed))
            if one:
                metrics = {name: one[name] for name in COLUMNS.values()}
                finished[cell.fingerprint] = CellRecord(one["run_id"], "FINISHED", cell.fingerprint, {}, metrics, {})
    return Table(rows, list(COLUMNS), runs_by_row(cells, finished), reference)


@pytest.fixture
def make_table() -> Callable[..., Table[str]]:
    return table_of


ALPHAS = """\
name: alphas
data: {name: digits, imbalance: 20, validation: {folds: 5}}
model: {name: resnet8, width: 4}
recipe: {epochs: 4, batch_size: 64}
loss: {name: ghm_cwap, alpha: {choice: [0.4, 0.6, 0.8, 1.0]}}
search: {sampler: grid}
seeds: [0, 1, 2, 3, 4]
"""


THREE_ROWS = """\
name: rows
data: {name: digits, imbalance: 20}
model: {name: resnet8, width: 4}
recipe: {epochs: 4, batch_size: 64}
loss: {name: ghm_cwap}
rows:
  softmax: {loss: {name: softmax}}
  focal: {loss: {name: focal}}
  ghm_cwap: {}
seeds: [0, 1, 2, 3, 4]
"""
TWO_METRICS = """\
name: two
data: {name: digits, imbalance: 20, validation: {folds: 2}}
model: {name: resnet8, width: 4}
recipe: {epochs: 4, batch_size: 64}
loss: {name: ghm_cwap, alpha: {uniform: [0.3, 1.0]}, aura: {choice: [true, false]}}
search: {trials: 5, metric: [val/top1, val/rare], constraints: {val/many: 0.01}}
"""


class Recorded:
    """A real store on which studies are recorded as the driver records them, with made-up scores."""

    def __init__(self, file: Path) -> None:
        self.store = Store(f"sqlite:///{file}")
        self.folder = file.parent
        self.results: dict[str, SearchResult] = {}  # what the last one of each search concluded

    def study(self, text: str) -> Study:
        return reader.parse(text, self.folder)

    def search(
        self,
        study: Study,
        ended: Sequence[Trial],
        name: str | None = None,
        reference: Mapping[str, float] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """The end of one of the study's searches: chosen and written by the driver's own code."""
        from tune_lt.run.runner import Runner

        space = study.searches[name or next(iter(study.searches))]
        display = SimpleNamespace(say=lambda text: None)
        driver = SimpleNamespace(
            study=study,
            store=self.store,
            display=display,
            parent_id=self.store.ensure_parent(study.name),
            plan=Plan(study, IMAGES),
            failures=[],
        )
        result = Runner._conclude(driver, space, ended, reference or {})  # type: ignore[arg-type]
        assert result is not None
        self.results[space.name] = result
        return found_by(result)

    def rows(
        self,
        study: Study,
        found: Mapping[str, Mapping[str, Any]],
        top1: Callable[[str, float | None, int, int], float | None],
    ) -> None:
        """The study's cells: ``top1`` of row, imbalance factor and seeds, None where a cell is missing."""
        from tune_lt.run.driver import _show, _where

        plan = Plan(study, IMAGES, {"git": "0", "device": "cpu"})
        cells = plan.cells(found)
        parent = self.store.ensure_parent(study.name)
        self.store.tag(parent, {**parent_tags(study), **_where(self.folder)})
        _show(self.store, study)
        chosen = plan.recommended({name: one for name, one in self.results.items() if name in found}, cells)
        self.store.log_json(parent, "cells.json", plan.contents(cells, found, chosen).content())
        experiment = self.store.experiment(study.name)
        scored: set[str] = set()
        for planned in cells:
            cell = planned.cell
            value = top1(planned.row, planned.imbalance, cell.data_seed, cell.init_seed)
            if value is None or planned.fingerprint in scored:
                continue
            scored.add(planned.fingerprint)
            record = plan.record(planned)
            own = {f"{TAG}{key}": text for key, text in {**record.tags, "outcome": "complete"}.items()}
            run = self.store.client.create_run(experiment, tags=own, run_name=record.name)
            names = ("top1", "balanced", "many", "medium", "few", "rare")
            self.store.client.log_batch(
                run.info.run_id,
                metrics=[Metric(f"test/{name}", value, 0, 0) for name in names],
                params=[Param("loss/name", cell.loss["name"])],
            )
            classes = {"class_counts": [100, 20, 4], "test": [value] * 3, "class_names": ["cat", "dog", "lynx"]}
            self.store.log_json(run.info.run_id, "per_class.json", classes)
            if len(scored) == 1:  # a sealed test of 300 images; more runs with it would make a table by difficulty
                images = ByImage([0, 1, 2] * 100, [1] * 300, [1.0] * 300)
                self.store.log_json(run.info.run_id, "by_image.json", images.content())
            self.store.finish(run.info.run_id)


@pytest.fixture
def recorded(tmp_path: Path, empty_store: Path) -> Recorded:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Recorded(tmp_path / "mlflow.db")


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Recorded:
    """A store that the tests of a module share."""
    return Recorded(Path(shutil.copy(empty_store, tmp_path_factory.mktemp("recorded") / "mlflow.db")))


def ended(found: Mapping[str, Any], outcome: str = "complete", epochs: int = 20, **units: Sequence[float]) -> Trial:
    """A trial with the values of each unit by metric (``val_balanced=[...]``), NaN where a unit has none."""
    by_metric = {name.replace("_", "/"): list(values) for name, values in units.items()}
    finite = {name: [value for value in values if value == value] for name, values in by_metric.items()}
    means = {name: sum(values) / len(values) if values else nan for name, values in finite.items()}
    return Trial(found, outcome, means, by_metric, epochs, "broke" if outcome == "failed" else "")


@pytest.fixture
def make_trial() -> Callable[..., Trial]:
    return ended


@pytest.fixture
def alphas(recorded: Recorded) -> Study:
    return recorded.study(ALPHAS)


@pytest.fixture
def alpha_trials() -> list[Trial]:
    """Four alphas in five folds. 0.6 is best: its mean is 0.80, its standard error 0.01 · √2.5 / √5 = 0.00707.

    1.0, the neutral value, is at 0.795: within one standard error. 0.8 was stopped after two folds, 0.4 failed.
    """
    near = [0.775, 0.785, 0.795, 0.805, 0.815]
    return [
        ended({"loss/alpha": 0.6}, val_balanced=[0.78, 0.79, 0.80, 0.81, 0.82]),
        ended({"loss/alpha": 1.0}, val_balanced=near),
        ended({"loss/alpha": 0.8}, "pruned", 8, val_balanced=[0.70, 0.72]),
        ended({"loss/alpha": 0.4}, "failed", 0),
    ]


@pytest.fixture(scope="session")
def three_rows() -> str:
    """The text of a study of three rows and five seeds, without a search."""
    return THREE_ROWS


@pytest.fixture
def two_metrics() -> str:
    """The text of a study that searches two metrics under a constraint, in two folds."""
    return TWO_METRICS


@pytest.fixture
def two_metric_trials() -> list[Trial]:
    """top1, rare, many. The third breaks many's limit (0.94); the second is the best of both; the last is behind it."""
    scores = [(0.90, 0.40, 0.95), (0.88, 0.60, 0.95), (0.95, 0.90, 0.90), (0.86, 0.62, 0.94), (0.87, 0.50, 0.96)]
    return [
        ended(
            {"loss/alpha": 0.5 + index / 10, "loss/aura": index % 2 == 0},
            val_top1=[top1 - 0.01, top1 + 0.01],
            val_rare=[rare] * 2,
            val_many=[many] * 2,
        )
        for index, (top1, rare, many) in enumerate(scores)
    ]
