"""A whole small study on a real local Ray with a real store, by the command line, looked at from all sides."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
import ray
import yaml
from mlflow.entities import Run

from tune_lt import data, provenance, studyfile
from tune_lt.study import flattened
from tune_lt.tracking import Store

Call = Callable[..., tuple[int, str, str]]
DIVERGES = "  diverges: {loss: {name: softmax}, recipe: {optimizer: {lr: 1.0e+30}, clip_norm: null}}\nseeds"
PLUGIN = """\
import torch.nn.functional as F
from tune_lt import losses

@losses.register("half_softmax")
class HalfSoftmax(losses.Loss):
    def __init__(self, class_counts, *, factor: float = 0.5):
        super().__init__(class_counts)
        self.factor = factor

    def terms(self, logits, targets):
        return self.factor * F.cross_entropy(logits, targets, reduction="none"), None
"""


@dataclass
class Ran:
    """The study, once run: where, its file, what was printed, the store."""

    folder: Path
    file: Path
    printed: str
    store: Store

    def runs(self) -> list[Run]:
        return list(self.store.client.search_runs([self.store.experiment("tiny")], max_results=1000))

    def cells(self) -> list[Run]:
        return [run for run in self.runs() if run.data.tags["tune_lt.kind"] == "cell"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, cli: Call, tiny_text: str) -> Ran:
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "half.py").write_text(PLUGIN)
    file = folder / "tiny.yaml"
    rows = "  half: {loss: {name: half_softmax}}\n"
    file.write_text("plugins: [half]\n" + tiny_text.replace("seeds", rows + DIVERGES, 1))
    code, out, err = cli("run", str(file), cwd=folder)
    assert code == 1, err  # a row that diverges leaves its table incomplete
    return Ran(folder, file, out, Store(f"sqlite:///{folder / 'mlflow.db'}"))


def test_every_trial_and_cell_is_one_nested_run(ran: Ran) -> None:
    parents = [run for run in ran.runs() if run.data.tags["tune_lt.kind"] == "study"]
    assert len(parents) == 1
    assert parents[0].info.status == "FAILED"  # a row diverges
    rows = Counter(run.data.tags["tune_lt.row"] for run in ran.cells())
    assert rows == {"search": 5, "softmax": 2, "margin+weight_aura": 2, "ldam+drw": 2, "half": 2, "diverges": 2}
    assert {run.data.tags["mlflow.parentRunId"] for run in ran.cells()} == {parents[0].info.run_id}
    assert not any(run.info.status == "RUNNING" for run in ran.runs())


def test_a_trial_that_diverges_is_recorded_with_its_reason_and_harms_no_other(ran: Ran) -> None:
    for run in ran.cells():
        diverged = run.data.tags["tune_lt.row"] == "diverges"
        assert (run.info.status == "FAILED") == diverged
        assert (run.data.tags["tune_lt.outcome"] == "failed") == diverged
        if diverged:
            assert run.data.tags["tune_lt.reason"].startswith("TrainingFailed: the training loss became nan in epoch")
    assert "a trial failed and is recorded as such: TrainingFailed: the training loss became nan" in ran.printed


def test_a_runs_tags_say_where_its_numbers_come_from(ran: Ran) -> None:
    dataset = data.build("digits")
    for run in ran.cells():
        tags = {key.removeprefix("tune_lt."): value for key, value in run.data.tags.items()}
        searched = tags["row"] == "search"
        assert tags["study"] == "tiny"
        assert (tags["dataset"], tags["imbalance"], tags["protocol"]) == ("digits", "20.0", "sealed")
        assert tags["fold"] == ("holdout" if searched else "full")
        assert ("trial" in tags) == searched
        assert tags["git"] == provenance.git_commit()
        assert json.loads(tags["versions"]) == provenance.versions()
        assert len(tags["fingerprint"]) == 24
        assert dataset.content_hash not in tags.values()
    assert len({run.data.tags["tune_lt.fingerprint"] for run in ran.cells()}) == len(ran.cells())


def test_a_runs_parameters_are_the_flattened_yaml(ran: Ran) -> None:
    study = studyfile.read(ran.file)
    for run in ran.cells():
        row = run.data.tags["tune_lt.row"]
        if row == "ldam+drw":
            expected = studyfile.row_config(study, row, {})
            recipe = {"recipe": {"epochs": 4, "batch_size": 64}}
            for path, value in flattened({key: expected[key] for key in ("data", "model", "loss")} | recipe).items():
                assert run.data.params[path] == str(value)
    trial = next(run for run in ran.cells() if run.data.tags["tune_lt.row"] == "search")
    assert 0.3 <= float(trial.data.params["loss/alpha"]) <= 1.0


def test_metrics_are_those_of_the_design_by_epoch_and_no_others(ran: Ran) -> None:
    names = ("top1", "balanced", "many", "medium", "few", "rare")
    by_epoch, final = ({"train/loss"} | {f"{split}/{name}" for name in names} for split in ("val", "test"))
    for run in ran.cells():
        tags = run.data.tags
        if tags["tune_lt.outcome"] == "failed":
            continue
        assert set(run.data.metrics) == (by_epoch if tags["tune_lt.row"] == "search" else final)
        history = ran.store.client.get_metric_history(run.info.run_id, "train/loss")
        steps = [point.step for point in history]
        assert steps == list(range(1, len(steps) + 1))
        assert (len(steps) == 4) == (tags["tune_lt.outcome"] == "complete")


def test_pruned_trials_say_so(ran: Ran) -> None:
    outcomes = Counter(
        run.data.tags["tune_lt.outcome"] for run in ran.cells() if run.data.tags["tune_lt.row"] == "search"
    )
    assert outcomes["pruned"] >= 1
    assert outcomes["complete"] >= 1
    assert outcomes["pruned"] + outcomes["complete"] == 5


def test_each_finished_cell_has_its_class_counts_and_accuracies(ran: Ran) -> None:
    cell = next(run for run in ran.cells() if run.data.tags["tune_lt.row"] == "softmax")
    content = ran.store.read_json(cell.info.run_id, "per_class.json")
    assert content["class_counts"] == data.exponential(120, 20, 10)
    assert content["class_names"] == [str(digit) for digit in range(10)]
    assert sum(content["test"]) / 10 == pytest.approx(cell.data.metrics["test/balanced"])


def test_the_parent_run_holds_the_study_file_the_tables_and_the_figure(ran: Ran) -> None:
    parent = ran.store.parent("tiny")
    assert parent is not None
    client = ran.store.client
    found_on = ran.store.read_json(parent.info.run_id, "cells.json")["recommended"]  # where the search found AURA on
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
        "study.yaml", "search.ghm_cwap.json", "cells.json", "report", *(["model"] if found_on else [])
    }  # fmt: skip
    reports = {Path(item.path).name for item in client.list_artifacts(parent.info.run_id, "report")}
    names = [
        "baselines",
        "search_ghm_cwap",
        "trials_ghm_cwap",
        "pairs",
        "difficulty",
        "precision",
    ]  # one row of the searched loss is no ablation
    names += ["recommendation"] if found_on else []
    figures = ("accuracy_by_class_size", "curve_ghm_cwap")
    files = {f"{name}.{suffix}" for name in names for suffix in ("md", "tex", "csv")}
    assert reports == files | {f"{name}.{suffix}" for name in figures for suffix in ("png", "pdf")} | {"report.html"}
    assert {path.name for path in (ran.folder / "reports" / "tiny").iterdir() if path.is_file()} == reports
    text = Path(client.download_artifacts(parent.info.run_id, "study.yaml")).read_text()
    assert text == ran.file.read_text()


def test_the_table_is_the_mean_over_the_recorded_runs_and_shows_a_failed_row_as_missing(ran: Ran) -> None:
    table = pd.read_csv(ran.folder / "reports" / "tiny" / "baselines.csv").set_index(["row", "column"])
    runs = [run for run in ran.cells() if run.data.tags["tune_lt.row"] == "softmax"]
    values = [100 * run.data.metrics["test/top1"] for run in runs]
    assert table.loc[("softmax", "Overall"), "mean"] == pytest.approx(sum(values) / 2)
    assert table.loc[("diverges", "Overall"), "n"] == 0
    assert pd.isna(table.loc[("diverges", "Overall"), "mean"])
    assert "0 of 2 runs" in ran.printed.replace("\n", " ") or "0 of 2" in ran.printed


def test_the_best_is_that_of_the_finished_trials_and_every_best_row_uses_it(ran: Ran) -> None:
    finished = [run for run in ran.cells() if run.data.tags.get("tune_lt.outcome") == "complete"]
    trials = [run for run in finished if run.data.tags["tune_lt.row"] == "search"]
    best = max(trials, key=lambda run: run.data.metrics["val/balanced"])
    for run in finished:
        if run.data.tags["tune_lt.row"] == "margin+weight_aura":
            assert run.data.params["loss/alpha"] == best.data.params["loss/alpha"]
            assert run.data.params["loss/aura"] == "True"


def test_equal_trials_get_equal_numbers_whatever_runs_beside_them(ran: Ran) -> None:
    """The cell of the table, trained in a Ray worker, equals the same cell trained here, to the last bit."""
    from tune_lt import training

    study = studyfile.read(ran.file)
    cell = studyfile.cell(studyfile.row_config(study, "softmax", {}), data_seed=1, init_seed=1)
    here = list(training.run_epochs(cell, device="cpu", score_test=True))[-1].as_metrics()
    there = next(
        run.data.metrics
        for run in ran.cells()
        if run.data.tags["tune_lt.row"] == "softmax" and run.data.tags["tune_lt.init_seed"] == "1"
    )
    assert there == here


def test_progress_was_visible(ran: Ran) -> None:
    for text in (
        "opening the store",
        "starting Ray",
        "search: 5 of 5 done",
        "best val/balanced",
        "tables: 10 cells",
        "next:",
    ):
        assert text in ran.printed
    assert "tune-lt ui" in ran.printed


def test_running_again_trains_only_what_is_missing_and_an_edited_file_extends(ran: Ran, cli: Call) -> None:
    before = {run.info.run_id for run in ran.runs()}
    edited = ran.folder / "edited.yaml"
    text = ran.file.read_text().replace(DIVERGES, "  focal: {loss: {name: focal}}\nseeds")
    edited.write_text(text + "# a comment\n")
    code, out, err = cli("run", str(edited), cwd=ran.folder)
    assert code == 0, err
    assert "search: 5 trials, all reused" in out
    assert "tables: 10 cells, 8 reused, 2 to train" in out
    new = [run for run in ran.runs() if run.info.run_id not in before]
    assert Counter(run.data.tags["tune_lt.row"] for run in new) == {"focal": 2}
    code, out, err = cli("run", str(edited), cwd=ran.folder)
    assert "tables: 10 cells, 10 reused, 0 to train" in out
    assert not (ran.folder / ".tune_lt" / "tiny" / "journal.jsonl").exists()


def test_status_plan_report_and_best_read_the_store(ran: Ran, cli: Call) -> None:
    code, out, _ = cli("status", cwd=ran.folder)
    assert code == 0
    assert "search trials: " in out
    assert out.startswith("tiny: ")
    code, out, _ = cli("plan", str(ran.file), cwd=ran.folder)
    assert code == 0
    assert "search: 5 trials of at most 4 epochs, done" in out
    assert "5 rows x 2 seeds = 10 cells, 8 done" in out
    code, out, _ = cli("report", "tiny", "--reports", str(ran.folder / "again"), cwd=ran.folder)
    assert code == 0
    assert (ran.folder / "again" / "tiny" / "baselines.csv").exists()
    code, out, err = cli("best", str(ran.file), "--export", str(ran.folder / "best.yaml"), cwd=ran.folder)
    assert code == 0, err
    exported = yaml.safe_load((ran.folder / "best.yaml").read_text())
    assert exported["loss"]["name"] == "ghm_cwap"
    trials = [run for run in ran.cells() if run.data.tags["tune_lt.row"] == "search"]
    winner = max(
        (run for run in trials if run.data.tags["tune_lt.outcome"] == "complete"),
        key=lambda run: run.data.metrics["val/balanced"],
    )
    code, out, err = cli("train", str(ran.folder / "best.yaml"), cwd=ran.folder)
    assert code == 0, err
    assert f"balanced {winner.data.metrics['val/balanced']:.3f}" in out.splitlines()[-1]  # it is what was searched


def test_more_trials_extend_the_search_and_a_known_failure_is_not_repeated(ran: Ran, cli: Call) -> None:
    before = {run.info.run_id for run in ran.runs()}
    extended = ran.folder / "extended.yaml"
    extended.write_text(ran.file.read_text().replace("trials: 5", "trials: 7"))
    code, out, err = cli("run", str(extended), cwd=ran.folder)
    assert code == 1, err
    assert "search: 7 trials, 5 reused, 0 to be carried on, 2 to begin" in out
    assert "2 known to fail: TrainingFailed: the training loss became nan" in out
    new = [run for run in ran.runs() if run.info.run_id not in before]
    trials = [run.data.tags["tune_lt.trial"] for run in new if run.data.tags["tune_lt.row"] == "search"]
    assert sorted(trials) == ["5", "6"]
    assert not any(run.data.tags["tune_lt.row"] == "diverges" for run in new)
    prints = Counter(run.data.tags["tune_lt.fingerprint"] for run in ran.cells())
    assert set(prints.values()) == {1}


def test_nothing_is_left_running(ran: Ran) -> None:
    assert not ray.is_initialized()
    mine = psutil.Process().children(recursive=True)
    assert not [child for child in mine if "raylet" in child.name() or "gcs_server" in child.name()]
