"""What a plan says it will cost: the arithmetic by hand, which past runs it goes by, a probe, the command."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_lt import data, training
from tune_lt.config import CellConfig, ImageHashes
from tune_lt.documents import SearchResult, Trial, search_file
from tune_lt.plan import cost, show
from tune_lt.plan.cost import Outlook, Work, comparable, doubt, from_runs, probe, slots, trained_share
from tune_lt.run import planner
from tune_lt.store import CellRecord, Store
from tune_lt.store.journal import Journal
from tune_lt.study import Resources, Study, flattened, reader
from tune_lt.training.identity import fingerprint

pytestmark = pytest.mark.long

Call = Callable[..., tuple[int, str, str]]
OWN = "ghm_cwap"
COUNTS = data.exponential(120, 20, 10)
FULL = sum(COUNTS)


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.build("digits")


def _cell(study: Study, holdout: float | None = 0.3, **changes: Any) -> CellConfig:
    config = study.base() | {"recipe": study.recipe}
    return replace(reader.cell(config, data_seed=0, init_seed=0, holdout=holdout), **changes)


def _record(cell: CellConfig, seconds: float = 2.0, memory: int = 10**9, number: int = 0, **tags: str) -> CellRecord:
    """A past run of ``cell`` as the recorder leaves one."""
    recipe = {"batch_size": cell.recipe.batch_size, "precision": cell.recipe.precision}
    content = {"data": dict(cell.data), "model": dict(cell.model), "recipe": recipe}
    params = {path: str(value) for path, value in flattened(content).items()} | {"loss/name": "any"}
    texts = {"epoch_seconds": str(seconds), "memory": str(memory), "device": "cpu", "fold": cell.fold} | tags
    return CellRecord(f"r{number}", "FINISHED", f"f{number}", params, {}, texts, ended=number)


def test_half_of_a_searchs_trials_are_taken_to_stop_at_each_decision() -> None:
    assert trained_share(40, [10, 20]) == 1 / 2  # 16 trials: 16 * 10 + 8 * 10 + 4 * 20 = 320 epochs of 640
    assert trained_share(7, []) == 1
    assert trained_share(3, [1, 2]) == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)


def test_the_doubt_of_past_runs_by_hand() -> None:
    """[1, 1, 4, 4]: logs are ±ln 2 about ln 2, variance 4 ln² 2 / 3 = 0.6406; with 0.04 / 4 its root is 0.8066.

    exp(2 * 0.8066) = 5.018; one value alone has exp(2 * 0.2).
    """
    assert doubt([1.0, 1.0, 4.0, 4.0]) == pytest.approx(5.018, rel=1e-3)
    assert doubt([3.0]) == pytest.approx(math.exp(0.4))


def test_more_runs_leave_less_doubt_but_not_less_than_their_own_spread() -> None:
    doubts = [math.log(doubt([1.0, 1.1] * pairs)) for pairs in (1, 3, 25)]
    assert doubts == sorted(doubts, reverse=True)
    assert doubts[-1] > 1.9 * math.log(1.1) / 2


def test_comparable_runs_share_images_network_batches_and_device(tiny: Study) -> None:
    cell = _cell(tiny)
    same = {
        "another loss": _record(cell),
        "another seed": _record(replace(cell, init_seed=7, data_seed=7)),
        "another fold": _record(_cell(tiny, None)),
        "another place": _record(replace(cell, data=dict(cell.data) | {"root": "/x"})),
    }
    old = same["another loss"].params
    same["an older version"] = replace(
        same["another loss"], params={path.replace("data/largest", "data/head"): value for path, value in old.items()}
    )
    different = {
        "imbalance": _record(replace(cell, data=dict(cell.data) | {"imbalance": 10.0})),
        "data set": _record(replace(cell, data=dict(cell.data) | {"name": "others"})),
        "a data set with more to it": _record(replace(cell, data=dict(cell.data) | {"size": 16})),
        "precision": _record(replace(cell, recipe=replace(cell.recipe, precision="bfloat16"))),
        "network": _record(replace(cell, model=dict(cell.model) | {"width": 8})),
        "head": _record(replace(cell, model=dict(cell.model) | {"head": "cosine"})),
        "batch": _record(replace(cell, recipe=replace(cell.recipe, batch_size=32))),
        "device": _record(cell, device="cuda:0"),
        "not timed": _record(cell, epoch_seconds="0"),
        "several units": _record(cell, fold="all"),
    }
    for why, record in same.items():
        assert comparable([record], cell, "cpu") == [record], why
    for why, record in different.items():
        assert comparable([record], cell, "cpu") == [], why
    assert comparable([different["device"]], cell, "cuda") == [different["device"]]
    many = [_record(cell, number=number) for number in reversed(range(80))]
    assert [record.ended for record in comparable(many, cell, "cpu")] == list(range(30, 80))


def test_past_runs_of_both_folds_are_scaled_by_their_images(tiny: Study, digits: data.Dataset) -> None:
    cell, table = _cell(tiny), _cell(tiny, None)
    trained = len(training.images_of(cell, digits).train_index)
    assert 0.65 * FULL < trained < 0.75 * FULL
    records = [_record(cell, trained * 0.01, 10**9), _record(table, FULL * 0.01, 2 * 10**9)]
    for wanted in (cell, table):
        pace = from_runs(records, wanted, digits, 0.3)
        assert (pace.image, pace.factor) == (pytest.approx(0.01), doubt([0.01, 0.01]))
        assert (pace.memory, pace.runs, pace.steps) == (2 * 10**9, 2, 0)


def test_the_whole_cost_by_hand(tiny: Study, digits: data.Dataset) -> None:
    """10 ms an image: a search cell's epoch is (trained + scored / 3) * 10 ms, a table's FULL * 10 ms.

    On one CPU at two at once the wall time is half of it, with the start of Ray. The epochs of the search are in doubt
    by a factor of 2, those of the table are not; the pace is by exp(0.4).
    """
    study = replace(tiny, resources=Resources(cpus=0.5, gpus=0, concurrent=2))
    search, table = _cell(study), _cell(study, None)
    trained = len(training.images_of(search, digits).train_index)
    records = [_record(table, FULL * 0.01)]
    work = [Work("search", search, 5, 10, 2.0), Work("tables", table, 1, 4)]
    estimated = cost.estimate(study, digits, Outlook({}, {}, [], 0, work, records))
    assert estimated is not None
    last = (len(digits.test_labels) + FULL) / 3 * 0.01  # the sealed test is scored once, and the training images
    seconds = [(trained + (FULL - trained) / 3) * 0.01 * 10, FULL * 0.01 * 4 + last]
    assert estimated.hours == pytest.approx(sum(seconds) / 3600)
    high = seconds[0] * math.exp(math.hypot(0.4, math.log(2))) + seconds[1] * math.exp(0.4)
    assert estimated.factor == pytest.approx(high / sum(seconds))
    at_once = min(2, slots(Resources(cpus=0.5), 0))
    assert (estimated.at_once, estimated.fits) == (at_once, True)
    wall = seconds[0] / at_once + seconds[1] + cost.STARTUP_SECONDS  # a single cell has nothing beside it
    assert estimated.wall_seconds == pytest.approx(wall)
    assert (estimated.memory_bytes, estimated.source) == (10**9, "1 past run on this store")
    nothing = cost.estimate(study, digits, Outlook({}, {}, [], 0, [], records))
    assert nothing is not None
    assert (nothing.hours, nothing.factor, nothing.wall_seconds) == (0, 1, 0)


def test_gpus_are_not_guessed_from_a_cpu(tiny: Study, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    study = replace(tiny, resources=Resources(gpus=2))
    work = [Work("tables", _cell(study, None), 1, 4)]
    assert cost.estimate(study, digits, Outlook({}, {}, [], 0, work, [_record(_cell(study, None))])) is None
    records = [_record(_cell(study, None), 3600.0, device="cuda:1")]
    estimated = cost.estimate(study, digits, Outlook({}, {}, [], 0, work, records))
    assert estimated is not None
    hours = 4 + (len(digits.test_labels) / FULL + 1) / 3  # an epoch takes an hour, scoring a third of training
    assert (estimated.gpus, estimated.hours) == (2, pytest.approx(hours))


def test_how_many_trials_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert slots(Resources(cpus=3), 0) == 2
    assert slots(Resources(cpus=1), 0) == 8
    assert slots(Resources(cpus=1), 0.5) == 4
    assert slots(Resources(cpus=0.1), 0) == 80
    assert slots(Resources(cpus=3, workers=2), 0) == 1
    assert slots(Resources(cpus=3, workers=3), 0) == 0
    assert slots(Resources(cpus=16), 0) == slots(Resources(), 4) == 0


def test_more_cores_than_this_machine_has_are_not_used_by_the_probe(
    tiny: Study, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 64 threads asked for and 4 cores here, a step takes between 1/16 and all of the time: 1/4, factor 4."""
    used: list[tuple[int, int]] = []

    def timed(*_: Any, threads: int, loaders: int, **__: Any) -> list[float]:
        used.append((threads, loaders))
        return [0.1, 0.1, 0.1, 0.1]

    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(training, "timed_steps", timed)
    study = replace(tiny, resources=Resources(cpus=64, gpus=0))
    pace = probe(_cell(tiny), digits, threads=64, device="cpu", loaders=64)
    assert (pace.image, pace.factor) == (pytest.approx(0.1 / 4), pytest.approx(1.3 * 4))
    several = probe(_cell(tiny), digits, threads=1, device="cpu", workers=9)
    assert (several.image, several.factor) == (pytest.approx(0.1 / 3), pytest.approx(1.3 * 3))
    estimated = cost.estimate(study, digits, cost.outlook(study, None, digits.hashes))
    assert estimated is not None
    assert (estimated.at_once, estimated.fits, used) == (1, False, [(4, 4), (1, 0), (4, 4), (4, 4)])


def test_without_past_runs_some_steps_are_timed(tiny: Study, digits: data.Dataset) -> None:
    cell = _cell(tiny)
    pace = probe(cell, digits, threads=1, device="cpu")
    assert 1.3 <= pace.factor < math.inf
    assert (pace.runs, pace.steps >= 2) == (0, True)
    assert pace.memory is not None
    assert 10**8 < pace.memory < 10**10
    trained = len(training.images_of(cell, digits).train_index)
    epochs = [result.seconds for result in training.run_epochs(cell, dataset=digits, device="cpu")]
    assert 0.2 < pace.image * trained / min(epochs[1:]) < 10  # the machine may be busier at one of the two


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path / 'mlflow.db'}")


def _train(
    store: Store, study: Study, cells: list[tuple[CellConfig, dict[str, str], str]], images: ImageHashes
) -> None:
    journal = Journal(store, study.name, store.ensure_parent(study.name), store.state_folder(study.name))
    for cell, tags, outcome in cells:
        record, key = _record(cell, 2.0), fingerprint(cell, images, study.sources)
        own = {"kind": "cell", "fingerprint": key, "fold": cell.fold, "device": "cpu"}
        journal.start(key, "name", record.params, own | tags)
        ended = {"epoch_seconds": "2.0", "memory": "450000000"} | ({"retry": "no"} if outcome == "failed" else {})
        journal.end(key, outcome, ended)
    journal.close()


def test_what_is_done_is_not_counted_again(tiny: Study, digits: data.Dataset, store: Store) -> None:
    """Before the search, rows with a loss of their own are settled: two of ``softmax``, one done, one known to fail."""
    content = digits.hashes
    nothing = cost.outlook(tiny, None, content)
    # 5 trials of 4 epochs judged at 1 and 2: 5 + 2.5 + 2.5; 6 cells of 4 epochs
    assert sum(work.epochs for work in nothing.work if work.phase == "search") == 10
    assert sum(work.epochs for work in nothing.work if work.phase == "tables") == 24
    assert (nothing.found, nothing.trials_done, nothing.cells_done, len(nothing.cells)) == ({}, {OWN: 0}, 0, 6)
    softmax = [reader.cell(reader.row_config(tiny, "softmax", {}), data_seed=seed, init_seed=seed) for seed in (0, 1)]
    trials = [_cell(tiny, loss=dict(tiny.loss) | {"alpha": alpha}) for alpha in (0.4, 0.5, 0.6)]
    search = {"row": "search", "search": tiny.search_signature(tiny.searches[OWN], content), "found": "{}"}
    cells = [
        (softmax[0], {"row": "softmax"}, "complete"),
        (softmax[1], {"row": "softmax"}, "failed"),
        (trials[0], search | {"trial": "0"}, "complete"),
        (trials[1], search | {"trial": "1"}, "pruned"),
        (trials[2], search | {"trial": "2"}, "interrupted"),
    ]
    _train(store, tiny, cells, content)
    seen = cost.outlook(tiny, store, content)
    assert (seen.found, seen.trials_done, seen.cells_done, len(seen.cells)) == ({}, {OWN: 2}, 1, 6)
    assert sum(work.epochs for work in seen.work if work.phase == "search") == 6  # 3 + 1.5 + 1.5
    assert sum(work.epochs for work in seen.work if work.phase == "tables") == 16
    assert sum(work.cells for work in seen.work) == 3 + 4
    estimated = cost.estimate(tiny, digits, replace(seen, work=seen.work[:1]))
    assert estimated is not None
    assert estimated.source == "2 past runs on this store"  # the complete ones
    assert estimated.memory_bytes == 450_000_000
    for trials in (2, 1):  # fewer than are recorded
        space = tiny.searches[OWN]
        fewer = replace(tiny, searches={OWN: replace(space, search=replace(space.search, trials=trials))})
        seen = cost.outlook(fewer, store, content)
        assert (seen.trials_done, {work.phase for work in seen.work}) == ({OWN: trials}, {"tables"})
        assert f"search: {trials} trials of at most 4 epochs, done" in show.lines(fewer, [], seen, None)
        assert show.content(fewer, [], seen, cost.estimate(fewer, digits, seen))["search"]["epochs_left"]["mean"] == 0


def test_a_cell_that_waits_for_the_search_is_not_done_by_its_placeholder(
    tiny: Study, digits: data.Dataset, store: Store
) -> None:
    low = {path: dimension.values[0] for path, dimension in tiny.searches[OWN].space.items()}
    cell = reader.cell(reader.row_config(tiny, "margin+weight_aura", {OWN: low}), data_seed=0, init_seed=0)
    _train(store, tiny, [(cell, {"row": "any"}, "complete")], digits.hashes)
    seen = cost.outlook(tiny, store, digits.hashes)
    assert seen.cells_done == 0
    assert sum(work.cells for work in seen.work if work.phase == "tables") == 6


def test_with_the_search_done_only_missing_cells_count(tiny: Study, digits: data.Dataset, store: Store) -> None:
    content = digits.hashes
    found = {"loss/alpha": 0.7, "loss/gamma": 0.5, "loss/regions": 20, "loss/aura": True}
    cells = [planned.cell for planned in planner.Plan(tiny, content).cells({OWN: found})]
    _train(store, tiny, [(cell, {"row": "any"}, "complete") for cell in cells[:4]], content)
    signature, best = tiny.search_signature(tiny.searches[OWN], content), Trial(found, "complete")
    recorded = SearchResult(OWN, signature, 5, ("val/balanced",), {}, {}, (best,), best)
    parent = store.parent(tiny.name)
    assert parent is not None
    store.log_json(parent.info.run_id, search_file(OWN), recorded.content())
    seen = cost.outlook(tiny, store, content)
    assert (seen.found[OWN], seen.trials_done, seen.cells_done) == (found, {OWN: 5}, 4)
    assert [(work.phase, work.cells, work.epochs) for work in seen.work] == [("tables", 1, 4), ("tables", 1, 4)]


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_plan_prints_the_cost_of_a_probe_and_changes_nothing(cli: Call, tmp_path: Path, tiny_text: str) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_text)
    before = _snapshot(tmp_path)
    code, out, err = cli("plan", "tiny.yaml", cwd=tmp_path)
    assert code == 0, err
    assert "search: 5 trials of at most 4 epochs, to do, about 10 epochs left" in out
    assert "tables: 3 rows x 2 seeds = 6 cells, 0 done, 24 epochs left" in out
    line = next(line for line in out.splitlines() if line.startswith("estimated "))
    assert " CPU-hours (" in line
    assert "with 2 at once, from a timed probe of " in line
    assert "peak memory per trial " in out
    assert _snapshot(tmp_path) == before


def test_plan_for_scripts_from_past_runs(
    cli: Call, tmp_path: Path, tiny_text: str, tiny: Study, digits: data.Dataset, store: Store
) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_text)
    rows = {row: reader.row_config(tiny, row, {}) for row in ("softmax", "ldam+drw")}
    cells = [reader.cell(config, data_seed=0, init_seed=0) for config in rows.values()]
    _train(store, tiny, [(cell, {"row": "any"}, "complete") for cell in cells], digits.hashes)
    before = _snapshot(tmp_path)
    code, out, err = cli("plan", "tiny.yaml", "--json", cwd=tmp_path)
    assert code == 0, err
    content = json.loads(out)
    assert content["name"] == "tiny"
    assert content["search"] == {
        "searches": {"ghm_cwap": {"trials": 5, "units": 1, "epochs": 4, "done": 0}},
        "epochs_left": {"mean": 10.0, "low": 5.0, "high": 20.0},
    }
    tables = content["tables"]
    assert (tables["rows"], tables["seeds"]) == (["softmax", "margin+weight_aura", "ldam+drw"], [0, 1])
    assert (tables["cells"], tables["done"], tables["epochs_left"]["mean"]) == (6, 2, 16)
    assert content["data"] == ["data: 10 classes, 120 to 6 training images, 500 images sealed"]
    cost = content["estimate"]
    assert cost["source"] == "2 past runs on this store"
    assert cost["memory_bytes"] == 450_000_000
    assert 0 < cost["cpu_hours"]["low"] < cost["cpu_hours"]["mean"] < cost["cpu_hours"]["high"]
    assert cost["gpu_hours"]["mean"] == 0
    code, out, err = cli("plan", "tiny.yaml", cwd=tmp_path)
    assert "at once, from 2 past runs on this store" in out
    assert "peak memory per trial 0.45 GB" in out
    assert {name: size for name, (_, size) in _snapshot(tmp_path).items()} == {
        name: size for name, (_, size) in before.items()
    }
    assert not (tmp_path / "reports").exists()


def test_racing_stops_trials_after_one_unit_or_never(tmp_path: Path, tiny_text: str, digits: data.Dataset) -> None:
    """5 trials of 4 folds of 4 epochs: 80 epochs, or 20 if every trial is stopped after its first fold."""
    study = reader.parse(tiny_text.replace("holdout: 0.3", "folds: 4"), tmp_path)
    (search,) = (work for work in cost.outlook(study, None, digits.hashes).work if work.phase == "search")
    assert (search.epochs * search.factor, search.epochs / search.factor) == pytest.approx((80, 20))
