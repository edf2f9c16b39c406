"""A whole small study on a real Ray with a real store, by the command line, looked at from all sides."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image
from ran import Ran

from tune_lt import data, provenance
from tune_lt.errors import InputError
from tune_lt.run.driver import _check_images
from tune_lt.run.planner import parent_tags
from tune_lt.run.rehearsal import load_data
from tune_lt.store import Store
from tune_lt.study import flattened, reader

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
Call = Callable[..., tuple[int, str, str]]


def test_every_trial_and_cell_is_one_nested_run(ran: Ran) -> None:
    runs = ran.store.client.search_runs([ran.store.experiment("tiny")], max_results=1000)
    (parent,) = [run for run in runs if run.data.tags["tune_lt.kind"] == "study"]
    assert parent.info.status == "FAILED"  # a row diverges
    rows = Counter(cell.tags["row"] for cell in ran.cells())
    tables = ("softmax", "margin+weight_aura", "other", "ldam+drw", "half", "diverges")
    assert rows == {"search": 5} | dict.fromkeys(tables, 2)
    assert len(runs) == 1 + rows.total()
    assert {cell.parent for cell in ran.cells()} == {parent.info.run_id}
    assert not any(run.info.status == "RUNNING" for run in runs)


def test_a_trial_that_diverges_is_recorded_with_its_reason_and_harms_no_other(ran: Ran) -> None:
    for cell in ran.cells():
        diverged = cell.tags["row"] == "diverges"
        assert (cell.status == "FAILED") == diverged
        assert (cell.tags["outcome"] == "failed") == diverged
        if diverged:
            assert cell.tags["reason"].startswith("TrainingFailed: the training loss became nan in epoch")
    assert "a trial failed and is recorded as such: TrainingFailed: the training loss became nan" in ran.printed


def test_a_runs_tags_say_where_its_numbers_come_from(ran: Ran) -> None:
    dataset = data.build("digits")
    for cell in ran.cells():
        tags = cell.tags
        searched = tags["row"] == "search"
        assert tags["study"] == "tiny"
        assert (tags["dataset"], tags["imbalance"], tags["protocol"]) == ("digits", "20.0", "sealed")
        assert tags["fold"] == ("holdout" if searched else "full")
        assert ("trial" in tags) == searched
        assert tags["git"] == provenance.git_commit()
        assert json.loads(tags["versions"]) == provenance.versions()
        assert len(tags["fingerprint"]) == 24
        assert dataset.content_hash not in tags.values()
    assert len({cell.fingerprint for cell in ran.cells()}) == len(ran.cells())


def test_a_runs_parameters_are_the_flattened_yaml(ran: Ran) -> None:
    row = reader.row_config(reader.read(ran.file), "ldam+drw", {})
    recipe = {"recipe": {"epochs": 4, "batch_size": 64}}
    expected = flattened({key: row[key] for key in ("data", "model", "loss")} | recipe)
    for cell in ran.cells():
        if cell.tags["row"] == "ldam+drw":
            assert {path: cell.params[path] for path in expected} == {
                path: str(value) for path, value in expected.items()
            }
    trial = next(cell for cell in ran.cells() if cell.tags["row"] == "search")
    assert 0.3 <= float(trial.params["loss/alpha"]) <= 1.0


def test_metrics_are_those_of_the_design_by_epoch_and_no_others(ran: Ran) -> None:
    names = ("top1", "balanced", "many", "medium", "few", "rare")
    by_epoch, final = ({"train/loss"} | {f"{split}/{name}" for name in names} for split in ("val", "test"))
    for cell in ran.cells():
        if cell.tags["outcome"] == "failed":
            continue
        assert set(cell.metrics) == (by_epoch if cell.tags["row"] == "search" else final)
        history = ran.store.client.get_metric_history(cell.run_id, "train/loss")
        steps = [point.step for point in history]
        assert steps == list(range(1, len(steps) + 1))
        assert (len(steps) == 4) == (cell.tags["outcome"] == "complete")


def test_pruned_trials_say_so(ran: Ran) -> None:
    outcomes = Counter(cell.tags["outcome"] for cell in ran.cells() if cell.tags["row"] == "search")
    assert outcomes["pruned"] >= 1
    assert outcomes["complete"] >= 1
    assert outcomes["pruned"] + outcomes["complete"] == 5


def test_each_finished_cell_has_its_class_counts_and_accuracies(ran: Ran) -> None:
    cell = next(cell for cell in ran.cells() if cell.tags["row"] == "softmax")
    content = ran.store.read_json(cell.run_id, "per_class.json")
    assert content["class_counts"] == data.exponential(120, 20, 10)
    assert content["class_names"] == [str(digit) for digit in range(10)]
    assert sum(content["test"]) / 10 == pytest.approx(cell.metrics["test/balanced"])


def test_the_parent_run_holds_the_study_file_the_tables_and_the_figure(ran: Ran) -> None:
    parent = ran.store.parent("tiny")
    assert parent is not None
    client = ran.store.client
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
        "study.yaml", "search.ghm_cwap.json", "cells.json", "basis.json", "report", "model"
    }  # fmt: skip
    reports = {Path(item.path).name for item in client.list_artifacts(parent.info.run_id, "report")}
    names = [
        "baselines",
        "search_ghm_cwap",
        "trials_ghm_cwap",
        "pairs",
        "difficulty",
        "precision",
        "ablation",
        "recommendation",
    ]
    files = {f"{name}.{suffix}" for name in names for suffix in ("md", "tex", "csv")}
    assert reports == files | {"accuracy_by_class_size.png", "accuracy_by_class_size.pdf", "report.html"}
    assert {path.name for path in (ran.folder / "reports" / "tiny").iterdir() if path.is_file()} == reports
    text = Path(client.download_artifacts(parent.info.run_id, "study.yaml")).read_text()
    assert text == ran.file.read_text()


def test_the_table_is_the_mean_over_the_recorded_runs_and_shows_a_failed_row_as_missing(ran: Ran) -> None:
    table = pd.read_csv(ran.folder / "reports" / "tiny" / "baselines.csv").set_index(["row", "column"])
    values = [100 * cell.metrics["test/top1"] for cell in ran.cells() if cell.tags["row"] == "softmax"]
    assert table.loc[("softmax", "Overall"), "mean"] == pytest.approx(sum(values) / 2)
    assert table.loc[("diverges", "Overall"), "n"] == 0
    assert pd.isna(table.loc[("diverges", "Overall"), "mean"])
    assert "0 of 2 runs" in ran.printed.replace("\n", " ") or "0 of 2" in ran.printed


def test_the_best_is_that_of_the_finished_trials_and_every_best_row_uses_it(ran: Ran) -> None:
    finished = [cell for cell in ran.cells() if cell.tags["outcome"] == "complete"]
    best = max((c for c in finished if c.tags["row"] == "search"), key=lambda trial: trial.metrics["val/balanced"])
    rows = [cell for cell in finished if cell.tags["row"] in ("margin+weight_aura", "other")]
    assert len(rows) == 4
    for cell in rows:
        assert cell.params["loss/alpha"] == best.params["loss/alpha"]
        assert cell.params["loss/gamma"] == ("0.33" if cell.tags["row"] == "other" else best.params["loss/gamma"])


def test_equal_trials_get_equal_numbers_whatever_runs_beside_them(ran: Ran) -> None:
    """The cell of the table, trained in a Ray worker, equals the same cell trained here, to the last bit."""
    from tune_lt import training

    study = reader.read(ran.file)
    cell = reader.cell(reader.row_config(study, "softmax", {}), data_seed=1, init_seed=1)
    here = list(training.run_epochs(cell, device="cpu", score_test=True))[-1].as_metrics()
    there = next(c.metrics for c in ran.cells() if (c.tags["row"], c.tags["init_seed"]) == ("softmax", "1"))
    assert there == here


def test_progress_was_visible(ran: Ran) -> None:
    for text in (
        "opening the store",
        "connecting to Ray",
        "search: 5 of 5 done",
        "best val/balanced",
        "tables: 12 cells",
        "next:",
    ):
        assert text in ran.printed
    assert "tune-lt ui" in ran.printed


def test_an_edited_file_extends_the_study_and_trains_only_what_is_new(ran: Ran, on_ray: Call, tmp_path: Path) -> None:
    """Two more trials and another row: what is there is reused, and what is known to fail is not tried again."""
    copy = ran.copy(tmp_path)
    before = {cell.run_id for cell in copy.cells()}
    edited = ran.folder / "edited.yaml"
    text = ran.file.read_text().replace("trials: 5", "trials: 7") + "# a comment\n"
    edited.write_text(text.replace("\nrows:\n", "\nrows:\n  focal: {loss: {name: focal}}\n"))
    states = copy.folder / ".tune_lt" / "tiny" / "checkpoints"
    (network,) = states.glob("*.pt")  # of the recommended row
    reference = next(cell for cell in copy.cells() if cell.tags["row"] == "softmax")
    stale = [states / f"{reference.fingerprint}.pt", states / f".{reference.fingerprint}.pt.x1y2"]
    for file in stale:  # as of a trial that was stopped while it wrote its state
        shutil.copy(network, file)
    code, out, err = on_ray("run", str(edited), cwd=copy.folder)
    assert code == 1, err
    assert "search: 7 trials, 5 reused, 0 to be carried on, 2 to begin" in out
    assert not any(file.exists() for file in stale)
    assert len(list(states.iterdir())) == 1
    assert "2 known to fail: TrainingFailed: the training loss became nan" in out
    new = [cell for cell in copy.cells() if cell.run_id not in before]
    assert sorted(cell.tags["trial"] for cell in new if cell.tags["row"] == "search") == ["5", "6"]
    rows = Counter(cell.tags["row"] for cell in new)
    assert rows["focal"] == 2
    assert set(rows) <= {"search", "focal", "margin+weight_aura", "other"}  # these two where a new trial is the best
    assert set(Counter(cell.fingerprint for cell in copy.cells()).values()) == {1}

    code, out, err = on_ray("run", str(edited), cwd=copy.folder)  # nothing is new now
    assert code == 1, err
    assert "search: 7 trials, all reused" in out
    assert "tables: 14 cells, 12 reused, 0 to train, 2 known to fail" in out
    assert "once more" not in out  # the recommended network was kept
    assert len(copy.cells()) == len(before) + rows.total()
    assert not (copy.folder / ".tune_lt" / "tiny" / "journal.jsonl").exists()
    assert len(ran.cells()) == len(before)
    code, out, _ = on_ray("doctor", "tiny", cwd=copy.folder)
    assert (code, out.splitlines()[-1]) == (0, "problems: none"), out


def test_status_plan_report_and_best_read_the_store(ran: Ran, cli: Call, tmp_path: Path) -> None:
    before = {one: one.stat().st_mtime_ns for one in ran.folder.rglob("*")}
    code, out, _ = cli("status", cwd=ran.folder)
    assert code == 0
    assert "search trials: " in out
    assert out.startswith("tiny: failed; ")  # a row diverges
    code, out, _ = cli("doctor", "tiny", cwd=ran.folder)
    assert (code, out.splitlines()[-1]) == (0, "problems: none"), out
    code, out, err = cli("plan", str(ran.file), cwd=ran.folder)
    assert code == 0, err
    assert "search: 5 trials of at most 4 epochs, done" in out
    assert "6 rows x 2 seeds = 12 cells, 10 done" in out
    code, out, _ = cli("report", "tiny", "--reports", str(tmp_path / "again"), cwd=ran.folder)
    assert code == 0
    assert (tmp_path / "again" / "tiny" / "baselines.csv").exists()
    code, out, err = cli("best", str(ran.file), "--export", str(tmp_path / "best.yaml"), cwd=ran.folder)
    assert code == 0, err
    assert {one: one.stat().st_mtime_ns for one in ran.folder.rglob("*")} == before
    exported = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert exported["loss"]["name"] == "ghm_cwap"
    complete = [cell for cell in ran.cells() if (cell.tags["row"], cell.tags["outcome"]) == ("search", "complete")]
    winner = max(complete, key=lambda trial: trial.metrics["val/balanced"])
    code, out, err = cli("train", str(tmp_path / "best.yaml"), cwd=tmp_path)
    assert code == 0, err
    assert f"balanced {winner.metrics['val/balanced']:.3f}" in out.splitlines()[-1]  # it is what was searched


def test_another_data_set_under_a_studys_name_is_refused_unless_it_is_to_replace_it(
    cli: Call, tmp_path: Path, empty_store: Path
) -> None:
    """Images that were added, or a folder that was moved, are the same data set; another folder of others is not."""

    def images(folder: Path, count: int, colour: int) -> None:
        for name in ("a", "b"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (index, colour, 0)).save(folder / name / f"{index}.png")

    def check(root: str, name: str = "image_folder", **more: bool) -> None:
        whole = {"name": "train", "data": {"name": name} | ({"root": root, "size": 8} if root else {})} | more
        whole |= {"model": {"name": "resnet8", "width": 4}, "loss": {"name": "softmax"}, "rows": {"softmax": {}}}
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(whole))
        study = reader.read(tmp_path / "train.yaml")
        content_hash = load_data(study).content_hash
        _check_images(study, store, content_hash)
        store.begin(store.ensure_parent("train"), study.text, parent_tags(study, content_hash))

    store = Store(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")
    images(tmp_path / "birds", 5, 0)
    images(tmp_path / "fish", 5, 99)
    check("birds")
    images(tmp_path / "birds", 6, 0)
    check("birds")
    (tmp_path / "birds").rename(tmp_path / "moved")
    check("moved")
    with pytest.raises(
        InputError, match=rf"found image_folder {tmp_path}/fish; the store .* of another data set, image"
    ):
        check("fish")
    with pytest.raises(InputError, match=r"found digits; the store .* valid: another name for this study, or replace:"):
        check("", "digits")
    code, _, err = cli("run", "train.yaml", cwd=tmp_path)
    assert (code, "data: found digits; the store" in err) == (2, True)
    check("fish", replace=True)
    check("fish")
    with pytest.raises(InputError, match=f"found image_folder {tmp_path}/moved; .* image_folder {tmp_path}/fish"):
        check("moved")
