"""What is said of a search, read back from a real store."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from dataclasses import replace
from math import nan, sqrt
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from tune_lt.documents import SearchResult, Trial
from tune_lt.report import formats
from tune_lt.report.tables import searches
from tune_lt.study import Study

if TYPE_CHECKING:
    from tests.report.conftest import Recorded

COMPARED = """\
name: compared
data: {name: digits, imbalance: 20, validation: {folds: 2}}
model: {name: resnet8, width: 4}
recipe: {epochs: 4, batch_size: 64}
loss: {name: ghm_cwap, alpha: {uniform: [0.3, 1.0]}}
search: {trials: 2}
compare: {losses: [focal]}
"""


def read(recorded: Recorded, study: Study) -> list[SearchResult]:
    return searches.read(recorded.store, recorded.store.ensure_parent(study.name))


def _searched(*trials: Trial) -> SearchResult:
    """A search for one metric, whose last trial is the best."""
    return SearchResult("ghm_cwap", "", len(trials), ("val/balanced",), {}, {}, trials, trials[-1])


def test_both_choices_and_their_numbers(recorded: Recorded, alphas: Study, alpha_trials: list[Trial]) -> None:
    """Folds 78, 79, 80, 81, 82: mean 80, s = √(10 / 4) = 1.58, standard error 1.58 / √5 = 0.71; 20 + 20 + 8 epochs."""
    recorded.search(alphas, alpha_trials)
    (searched,) = read(recorded, alphas)
    sheet = searches.chosen_sheet(searched)
    assert sheet.header == ("Choice", "Found", "val/balanced", "Units", "Trials complete / pruned / failed", "Epochs")
    assert sheet.lines == (
        ("best mean", "alpha 0.6", "80.00 ± 0.71", "5", "2 / 1 / 1", "48"),
        ("one standard error", "alpha 1", "79.50 ± 0.71", "5", "2 / 1 / 1", "48"),
    )
    assert (sheet.name, searched.dimensions()) == ("search_ghm_cwap", ["loss/alpha"])
    assert not any("repeated" in note for note in sheet.notes)


def test_a_search_with_more_trials_than_it_declares_has_none_that_only_repeated(alpha_trials: list[Trial]) -> None:
    searched = dataclasses.replace(_searched(*alpha_trials[::-1]), trials=len(alpha_trials) - 1)
    assert not any("repeated" in note for note in searches.chosen_sheet(searched).notes)


def test_the_csv_has_every_digit(recorded: Recorded, alphas: Study, alpha_trials: list[Trial]) -> None:
    recorded.search(alphas, alpha_trials)
    back = pd.read_csv(io.StringIO(formats.csv(searches.chosen_sheet(read(recorded, alphas)[0]))))
    assert back["loss/alpha"].tolist() == [0.6, 1.0]
    assert back["val/balanced"].tolist() == pytest.approx([80, 79.5], rel=1e-14)
    assert back["val/balanced standard error"].tolist() == pytest.approx([sqrt(2.5) / sqrt(5)] * 2)
    assert back[["units", "complete", "pruned", "failed", "epochs"]].to_numpy().tolist() == [[5, 2, 1, 1, 48]] * 2


def test_one_line_where_both_rules_agree(recorded: Recorded, alphas: Study, make_trial: Callable[..., Trial]) -> None:
    trial = make_trial({"loss/alpha": 1.0}, val_balanced=[0.7, 0.8, 0.9, 0.8, 0.8])
    recorded.search(alphas, [trial])
    sheet = searches.chosen_sheet(read(recorded, alphas)[0])
    assert [line[0] for line in sheet.lines] == ["best mean, one standard error"]
    assert any("3 of 4 trials only repeated another" in note for note in sheet.notes)


def test_a_unit_without_the_class_is_left_out_and_counted(
    recorded: Recorded, alphas: Study, make_trial: Callable[..., Trial]
) -> None:
    """Four folds of five have a value: 70, 80, 80, 90, mean 80, s = √(200 / 3), standard error s / √4 = 4.08."""
    trial = make_trial({"loss/alpha": 0.4}, val_balanced=[0.7, nan, 0.8, 0.8, 0.9])
    recorded.search(alphas, [trial])
    line = searches.chosen_sheet(read(recorded, alphas)[0]).lines[0]
    assert line[2:4] == ("80.00 ± 4.08", "4 of 5")


def test_two_metrics_have_a_line_for_each_of_the_front(
    recorded: Recorded, two_metrics: str, two_metric_trials: list[Trial]
) -> None:
    study = recorded.study(two_metrics)
    recorded.search(study, two_metric_trials, reference={"val/many": 0.95})
    (searched,) = read(recorded, study)
    sheet = searches.chosen_sheet(searched)
    assert [(line[0], line[2], line[3], line[4]) for line in sheet.lines] == [
        ("best mean, front 2", "88.00 ± 1.00", "60.00 ± 0.00", "95.00 ± 0.00"),
        ("front 1", "90.00 ± 1.00", "40.00 ± 0.00", "95.00 ± 0.00"),
        ("front 3", "86.00 ± 1.00", "62.00 ± 0.00", "94.00 ± 0.00"),
    ]
    assert sheet.lines[0][1] == "alpha 0.6, aura False"
    limit = "val/many may fall to 94.00 (softmax 95.00 on the same images, less 1); 1 of 5 complete trials fall lower."
    assert limit in sheet.notes
    assert not any("them least" in note for note in sheet.notes)


def test_a_search_that_keeps_no_constraint_says_so(
    recorded: Recorded, two_metrics: str, two_metric_trials: list[Trial]
) -> None:
    """The least violation is that of many = 0.96: 0.99 − 0.01 − 0.96 = 2 points."""
    study = recorded.study(two_metrics)
    recorded.search(study, two_metric_trials, reference={"val/many": 0.99})
    notes = searches.chosen_sheet(read(recorded, study)[0]).notes
    assert "No trial keeps the constraints; this one breaks them least, by 2.00 points." in notes


def test_compared_searches_show_their_budgets(recorded: Recorded, make_trial: Callable[..., Trial]) -> None:
    study = recorded.study(COMPARED)
    own = [make_trial({"loss/alpha": alpha}, epochs=8, val_balanced=[0.8, alpha]) for alpha in (0.6, 0.7)]
    other = [make_trial({"loss/gamma": gamma}, epochs=8, val_balanced=[0.5, 0.5]) for gamma in (1.0, 2.0)]
    recorded.search(study, own, "ghm_cwap")
    recorded.search(study, other, "focal")
    listed = {name: f"search.{name}.json" for name in study.searches}
    both = searches.read(recorded.store, recorded.store.ensure_parent(study.name), listed)
    sheet = searches.compared_sheet(both)
    assert [(line[0], line[1], line[2], line[-1]) for line in sheet.lines] == [
        ("ghm_cwap", "alpha 0.7", "75.00 ± 5.00", "16"),
        ("focal", "gamma 1", "50.00 ± 0.00", "16"),
    ]
    assert sheet.name == "searches"


def test_searches_are_found_without_a_list_of_them(
    recorded: Recorded, alphas: Study, alpha_trials: list[Trial]
) -> None:
    assert read(recorded, alphas) == []
    recorded.search(alphas, alpha_trials)
    assert [one.name for one in read(recorded, alphas)] == ["ghm_cwap"]
    assert searches.read(recorded.store, recorded.store.ensure_parent("alphas"), {"gone": "search.gone.json"}) == []


def test_every_complete_trial_stands_beside_the_best_unit_by_unit(make_trial: Callable[..., Trial]) -> None:
    """Units 0.5, 0.7 against the best one's 0.6, 0.9: -10 and -20 points, s = 7.071, so -15 ± 7.071 / √2."""
    best = make_trial({"loss/alpha": 0.4}, val_balanced=[0.6, 0.9])
    other = make_trial({"loss/alpha": 0.8}, val_balanced=[0.5, 0.7])
    stopped = make_trial({"loss/alpha": 0.6}, "pruned", val_balanced=[0.5, nan])
    searched = _searched(other, stopped, best)
    sheet = searches.trials_sheet(searched)
    assert sheet.lines == (
        ("alpha 0.4", "75.00 ± 15.00", "—", "2"),
        ("alpha 0.8", "60.00 ± 10.00", "−15.00 ± 5.00", "2"),
    )
    assert list(sheet.data["difference"][1:]) == pytest.approx([-15.0])


def test_folds_share_training_images_and_have_a_larger_error(make_trial: Callable[..., Trial]) -> None:
    """As above over two folds: 7.071 · √(1/2 + 1/(2 − 1)) = 8.66 (Nadeau and Bengio 2003)."""
    best = make_trial({"loss/alpha": 0.4}, val_balanced=[0.6, 0.9])
    other = make_trial({"loss/alpha": 0.8}, val_balanced=[0.5, 0.7])
    searched = replace(_searched(other, best), order=("seed 0, 1/2", "seed 0, 2/2"))
    sheet = searches.trials_sheet(searched)
    assert sheet.lines[1][2] == "−15.00 ± 8.66"
    assert any("Nadeau and Bengio" in note for note in sheet.notes)


def test_a_unit_without_a_value_shifts_no_other(make_trial: Callable[..., Trial]) -> None:
    """Units 2 and 3 have both trials: 0.5 and 0.7 against 0.6 and 0.9, -15 points, whatever stands in unit 1."""
    best = make_trial({"loss/alpha": 0.4}, val_balanced=[0.8, 0.6, 0.9])
    other = make_trial({"loss/alpha": 0.8}, val_balanced=[nan, 0.5, 0.7])
    searched = _searched(other, best)
    line = searches.trials_sheet(searched).lines[1]
    assert (line[0], line[2], line[3]) == ("alpha 0.8", "−15.00 ± 5.00", "2")


def test_what_was_chosen_is_the_complete_trial_and_no_stopped_one_with_the_same_values(
    recorded: Recorded, alphas: Study, make_trial: Callable[..., Trial]
) -> None:
    """As where a trial that a broken run had stopped was tried again under another number."""
    stopped = make_trial({"loss/alpha": 0.6}, "pruned", val_balanced=[0.5, 0.5])
    whole = make_trial({"loss/alpha": 0.6}, val_balanced=[0.7, 0.8, 0.9, 0.8, 0.8])
    recorded.search(alphas, [stopped, whole])
    (searched,) = read(recorded, alphas)
    assert (searched.best.outcome, searched.best.value("val/balanced")) == ("complete", pytest.approx(0.8))
