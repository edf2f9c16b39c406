"""What is planned of a search: whose run a trial's is, what is known of it, whether the search has ended."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from stand_in import IMAGES, OTHERS

from tune_lt import training
from tune_lt.data.sources import digits
from tune_lt.documents import Contents, SearchResult, Trial, search_file
from tune_lt.run.planner import Plan
from tune_lt.run.search.planned import averages
from tune_lt.store import Store
from tune_lt.study import Study, reader

TEXT = """\
name: planned
data: {name: digits, imbalance: 20, validation: {folds: 2}}
model: {name: resnet8, width: 4}
recipe: {epochs: 4, batch_size: 64}
loss: {name: ghm_cwap, alpha: {uniform: [0.3, 1.0]}}
search: {trials: 4}
"""
OWN = "ghm_cwap"
FOUND = {"loss/alpha": 0.5}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return reader.parse(TEXT, tmp_path)


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_the_same_trial_of_two_searches_has_the_same_cells_and_a_run_of_its_own(tmp_path: Path, study: Study) -> None:
    """Another sampler is another search. With one key they would share a run, and one would lose its trial."""
    other = reader.parse(TEXT.replace("trials: 4", "trials: 4, sampler: random"), tmp_path)
    one, two = (Plan(each, IMAGES).trial(each.searches[OWN], FOUND, {}) for each in (study, other))
    assert [unit.fingerprint for unit in one.units] == [unit.fingerprint for unit in two.units]
    assert one.fingerprint == two.fingerprint
    assert one.record.key != two.record.key
    assert one.record.tags["search"] != two.record.tags["search"]


def test_a_search_of_fewer_trials_is_not_the_end_of_one_with_more(tmp_path: Path, study: Study, store: Store) -> None:
    """More trials are the same search, by its signature, going on; what fewer of them found is not its result."""
    parent = store.ensure_parent(study.name)
    signature = study.search_signature(study.searches[OWN], IMAGES)
    best = Trial(FOUND, "complete")
    ended = SearchResult(OWN, signature, 4, ("val/balanced",), {}, {}, (best,), best)
    store.log_json(parent, search_file(OWN), ended.content())
    more = reader.parse(TEXT.replace("trials: 4", "trials: 9"), tmp_path)
    assert more.search_signature(more.searches[OWN], IMAGES) == signature
    found = Plan(study, IMAGES).recorded(study.searches[OWN], store, parent)
    assert found is not None
    assert found.best.found == FOUND
    assert Plan(more, IMAGES).recorded(more.searches[OWN], store, parent) is None
    assert Plan(study, OTHERS).recorded(study.searches[OWN], store, parent) is None


def test_a_mean_over_units_is_over_those_that_have_the_metric(study: Study) -> None:
    """A fold without images of the rare classes has no val/rare: 0.2 and 0.4 are 0.3 on average, not 0.2."""
    units = [{"val/top1": 0.5, "val/rare": 0.2}, {"val/top1": 0.8}, {"val/top1": 0.8, "val/rare": 0.4}]
    assert averages(units, ("val/top1", "val/rare")) == pytest.approx({"val/top1": 0.7, "val/rare": 0.3})
    assert math.isnan(averages(units[1:2], ("val/rare",))["val/rare"])


@pytest.mark.parametrize(
    ("network", "recorded"),
    [
        ("name: torchvision, architecture: resnet50", "resnet50"),  # what older versions recorded of {name: resnet50}
        ("name: torchvision, architecture: resnet50, weights: IMAGENET1K_V1", "torchvision"),
        ("name: timm, architecture: resnet50.a1_in1k", "timm"),
        ("name: resnet8, width: 4", "resnet8"),
    ],
)
def test_a_network_with_random_weights_is_recorded_by_its_architecture(
    tmp_path: Path, network: str, recorded: str
) -> None:
    """The paper's tables know it by that."""
    study = reader.parse(TEXT.replace("name: resnet8, width: 4", network), tmp_path)
    assert Plan(study, IMAGES).contents([], {}, None).model == recorded


def test_a_bootstrap_is_of_the_rows_alone_and_makes_other_cells(tmp_path: Path) -> None:
    """The search and its signature stay the same, and the row that has what was found is recommended as ever."""
    text = TEXT.replace(", imbalance: 20", "") + "rows: {own: {loss: {best: true}}}\nseeds: [0, 1]\n"
    plain = Plan(reader.parse(text, tmp_path), IMAGES)
    drawn = Plan(reader.parse(text.replace("seeds: [0, 1]", "seeds: {resample: [0, 1]}"), tmp_path), IMAGES)
    before, after = (plan.cells({OWN: FOUND}) for plan in (plain, drawn))
    assert [(one.cell.data_seed, one.cell.init_seed) for one in after] == [(0, 0), (1, 1)]
    assert not {one.fingerprint for one in before} & {one.fingerprint for one in after}
    assert [training.images_of(one.cell, digits.digits()).train_index.unique().numel() for one in before] == [1297] * 2
    assert all(training.images_of(one.cell, digits.digits()).train_index.unique().numel() < 1000 for one in after)
    units = [[one.fingerprint for one in plan.units(plan.study.searches[OWN], FOUND)] for plan in (plain, drawn)]
    assert units[0] == units[1]
    assert plain.signatures == drawn.signatures
    best = Trial(FOUND, "complete", {"val/balanced": 0.5})
    result = SearchResult(OWN, drawn.signatures[OWN], 4, ("val/balanced",), {}, {}, (best,), best)
    chosen = drawn.recommended({OWN: result}, after)
    assert chosen is not None
    assert (chosen.row, chosen.fingerprint) == ("own", after[0].fingerprint)
    assert drawn.contents(after, {}, None).data["resample"] is True
    assert plain.contents(before, {}, None).data["resample"] is False


COMPARED = """\
name: compared
data: {name: digits, imbalance: 20}
model: {name: resnet8, width: 4}
recipe: {epochs: 4, batch_size: 64}
loss: {name: ghm_cwap, alpha: {uniform: [0.3, 1.0]}}
search: {trials: 4}
compare: {losses: [{loss: {name: focal, gamma: {uniform: [0.0, 4.0]}}}]}
rows:
  softmax: {loss: {name: softmax}}
  own: {loss: {best: true}}
  plainest: {loss: {best: one_standard_error}}
  fixed: {loss: {best: true, alpha: 0.5}}
  other: {loss: {best: focal}}
seeds: [0, 1]
"""


def test_rows_that_need_a_search_which_found_nothing_wait_and_the_others_do_not(tmp_path: Path) -> None:
    plan = Plan(reader.parse(COMPARED, tmp_path), IMAGES)
    own, other = {"ghm_cwap": FOUND}, {"focal": {"loss/gamma": 2.0}}
    for found, waiting in (
        ({}, {"own": "ghm_cwap", "plainest": "ghm_cwap", "other": "focal"}),
        (own, {"other": "focal"}),
        (other, {"own": "ghm_cwap", "plainest": "ghm_cwap"}),
        (own | other, {}),
    ):
        cells, missing = plan.settled(found)
        left = {row for row in missing if "(searched)" not in row}  # compare adds a row for each search
        assert {row: missing[row] for row in left} == waiting
        assert {cell.row for cell in cells} == set(plan.study.rows) - set(missing)
        expected = {(cell.row, cell.fingerprint) for cell in plan.cells(found) if cell.row not in missing}
        assert {(cell.row, cell.fingerprint) for cell in cells} == expected
        contents = plan.contents(cells, found, None, missing)
        assert set(contents.rows) == set(plan.study.rows) - set(missing)
        assert set(contents.searches) == set(plan.study.searches) - set(missing.values())
        assert Contents.of(contents.content()).missing == missing


def test_a_trial_with_a_unit_that_is_known_to_fail_fails_and_one_that_has_been_trained_since_does_not(
    study: Study,
) -> None:
    plan, space = Plan(study, IMAGES), study.searches[OWN]
    first, second = (cell.fingerprint for cell in plan.units(space, FOUND))
    assert plan.trial(space, FOUND, {}, {"another": "no"}).failing is None
    assert plan.trial(space, FOUND, {}, {second: "ValueError: boom"}).failing == "ValueError: boom"
    trained = {first: {"val/balanced": 0.5, "val/many": 0.5}}
    assert plan.trial(space, FOUND, trained, {first: "ValueError: boom"}).failing is None
