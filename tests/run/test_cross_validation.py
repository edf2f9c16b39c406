"""Studies with folds on a real local Ray and a real store: racing, comparison, constraints, and starting again."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ran import Ran

from tune_lt.documents import search_file

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
Call = Callable[..., tuple[int, str, str]]
COMMON = """\
model: {name: resnet8, width: 4}
recipe: {epochs: 2, batch_size: 64, augment: {crop: 1, flip: false}, clip_norm: 2.0}
seeds: [0]
resources: {cpus: 1, gpus: 0, concurrent: 1}
"""
RACE = (
    """\
name: race
data: {name: digits, imbalance: 20, validation: {folds: 2, seeds: [0, 1]}}
loss: {name: ghm_cwap, gamma: {choice: [0.0, 0.6, 1.2]}}
search: {sampler: grid, scheduler: racing}
rows:
  best: {loss: {best: true}}
  plainest: {loss: {best: one_standard_error}}
"""
    + COMMON
)
TWO = (
    """\
name: two
data: {name: digits, imbalance: 20, validation: {folds: 2}}
loss:
  name: ghm_cwap
  gamma: {uniform: [0.0, 1.5]}
  weight: {choice: [effective, none]}
  alpha: {uniform: [0.3, 1.0], when: {loss.weight: effective}}
search: {trials: 2, metric: [val/top1, val/few], constraints: {val/many: 0.01}}
compare: {losses: [logit_adjustment, balanced_softmax]}
cross: {imbalance: [5, 20]}
"""
    + COMMON
)


def _content(ran: Ran, search: str) -> Mapping[str, Any]:
    """What the study's search concluded."""
    parent = ran.store.parent(ran.file.stem)
    assert parent is not None
    content: Mapping[str, Any] = ran.store.read_json(parent.info.run_id, search_file(search))
    return content


def _ran(text: str, folder: Path, empty_store: Path, on_ray: Call) -> Ran:
    shutil.copy(empty_store, folder / "mlflow.db")
    study = folder / f"{yaml.safe_load(text)['name']}.yaml"
    study.write_text(text)
    code, out, err = on_ray("run", str(study), cwd=folder)
    assert code == 0, err
    return Ran(folder, study, out)


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, on_ray: Call) -> Ran:
    return _ran(RACE, tmp_path_factory.mktemp("race"), empty_store, on_ray)


def test_a_fold_is_a_run_and_a_trial_carries_the_mean_over_its_folds(race: Ran) -> None:
    folds = {record.fingerprint: record for record in race.cells() if record.tags["row"] == "fold"}
    trials = race.cells("trial")
    assert len(trials) == 3
    assert {json.loads(trial.tags["found"])["loss/gamma"] for trial in trials} == {0.0, 0.6, 1.2}
    order = [("0", "1/2"), ("0", "2/2"), ("1", "1/2"), ("1", "2/2")]
    for trial in trials:
        own = {
            (record.tags["init_seed"], record.tags["fold"]): record.metrics["val/balanced"]
            for record in folds.values()
            if record.params["loss/gamma"] == str(json.loads(trial.tags["found"])["loss/gamma"])
        }
        values = json.loads(trial.tags["units"])["val/balanced"]
        assert values == [own[unit] for unit in order[: len(values)]]
        assert list(own) == order[: len(values)]  # in this order, and nothing beyond
        assert trial.metrics["val/balanced"] == pytest.approx(statistics.fmean(values))
        assert (len(values) == 4) == (trial.tags["outcome"] == "complete")
        assert trial.tags["epochs"] == str(2 * len(values))
    assert not [record for record in race.store.cells("race") if record.status == "RUNNING"]


def test_the_choice_is_the_best_mean_and_the_plainest_within_its_standard_error(race: Ran) -> None:
    content = _content(race, "ghm_cwap")
    points = [point for point in content["points"] if point["outcome"] == "complete"]
    best = max(points, key=lambda point: point["values"]["val/balanced"])
    assert content["found"] == best["found"]
    values = best["units"]["val/balanced"]
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert content["standard_error"] == pytest.approx(error)
    near = [p for p in points if p["values"]["val/balanced"] >= best["values"]["val/balanced"] - error]
    plainest = min(near, key=lambda point: point["found"]["loss/gamma"])  # gamma 0 has no margin
    assert content["one_standard_error"]["found"] == plainest["found"]
    rows = {r.tags["row"]: r.params["loss/gamma"] for r in race.cells() if r.tags["fold"] == "full"}
    assert rows["best"] == str(best["found"]["loss/gamma"])
    assert rows.get("plainest", rows["best"]) == str(plainest["found"]["loss/gamma"])


def test_a_second_run_trains_nothing_and_another_study_takes_its_folds_over(
    race: Ran, on_ray: Call, tmp_path: Path
) -> None:
    """The other study has the first one's folds of seed 0, and a seed of its own: that alone is trained."""
    copy = race.copy(tmp_path)
    before = Counter(record.run_id for record in copy.store.cells("race"))
    code, out, err = on_ray("run", str(race.file), cwd=copy.folder)
    assert code == 0, err
    assert "search: 3 trials, all reused" in out
    assert Counter(record.run_id for record in copy.store.cells("race")) == before
    other = dataclasses.replace(copy, file=copy.folder / "other.yaml")
    text = RACE.replace("name: race", "name: other").replace("seeds: [0, 1]}", "seeds: [0, 2]}")
    without_rows = re.sub(r"rows:\n(  .*\n)+", "", text)
    other.file.write_text(without_rows.replace(", scheduler: racing", ", scheduler: none"))
    code, out, err = on_ray("run", str(other.file), cwd=copy.folder)
    assert code == 0, err
    trained = Counter(record.tags["init_seed"] for record in other.cells() if record.tags["row"] == "fold")
    assert trained == {"2": 6}
    for trial in other.cells("trial"):
        values = json.loads(trial.tags["units"])["val/balanced"]
        assert len(values) == 4
        assert trial.metrics["val/balanced"] == pytest.approx(statistics.fmean(values))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, on_ray: Call) -> Ran:
    return _ran(TWO, tmp_path_factory.mktemp("two"), empty_store, on_ray)


def test_every_compared_loss_has_the_same_budget(two: Ran) -> None:
    own, other = _content(two, "ghm_cwap"), _content(two, "logit_adjustment")
    assert own["epochs"] == other["epochs"] == 2 * 2 * 2
    assert len(own["points"]) == len(other["points"]) == 2
    assert two.store.read_json(two.store.parent("two").info.run_id, search_file("balanced_softmax")) is None  # type: ignore[union-attr]
    rows = {record.tags["row"] for record in two.cells() if record.tags["fold"] == "full"}
    assert rows == {"logit_adjustment (searched)", "balanced_softmax", "ghm_cwap (searched)"}


def test_the_reference_of_a_constraint_is_softmax_on_the_same_folds(two: Ran) -> None:
    cells = [record for record in two.cells() if record.tags["row"] == "reference"]
    assert sorted(record.tags["fold"] for record in cells) == ["1/2", "2/2"]
    assert {record.params["loss/name"] for record in cells} == {"softmax"}
    for search in ("ghm_cwap", "logit_adjustment"):
        reference = _content(two, search)["reference"]
        assert reference["val/many"] == pytest.approx(statistics.fmean(record.metrics["val/many"] for record in cells))


def test_weights_that_are_absent_are_not_searched(two: Ran) -> None:
    for trial in two.cells("trial"):
        found = json.loads(trial.tags["found"])
        if "loss/weight" in found:
            assert ("loss/alpha" in found) == (found["loss/weight"] == "effective")
            if "loss/alpha" not in found:
                assert trial.params["loss/alpha"] == "0.6"  # the default


def test_the_tables_are_crossed_with_the_imbalance(two: Ran) -> None:
    cells = [record for record in two.cells() if record.tags["fold"] == "full"]
    assert Counter(record.tags["imbalance"] for record in cells) == {"5.0": 3, "20.0": 3}
    names = {path.stem for path in (two.folder / "reports" / "two").iterdir()}
    assert {"baselines_5", "baselines_20"} <= names
