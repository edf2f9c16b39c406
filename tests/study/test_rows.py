"""Designs over factors, crossings, and which losses a comparison searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stand_in import IMAGES

from tune_lt import losses, registry
from tune_lt.documents import SearchResult, Trial
from tune_lt.run.planner import Plan, found_by
from tune_lt.study import Dimension, Study, grid, ranges, reader, rows
from tune_lt.study.checks import Problems

BASE = """\
name: grid
data: {name: digits, imbalance: 20}
model: {name: resnet8}
loss: {name: ghm_cwap, gamma: 0.8}
"""
FACTORS: dict[str, Any] = {
    "margin": {"without": {"loss": {"gamma": 0.0}}},
    "cosine": {"with": {"model": {"head": "cosine"}}},
    "weight": {"levels": {"none": {"loss": {"weight": "none"}}, "ura": {"loss": {"aura": False}}, "aura": {}}},
}


def _parse(text: str, folder: Path) -> Study:
    return reader.parse(BASE + text, folder)


def _problem(text: str, folder: Path) -> str:
    with pytest.raises(Problems) as problems:
        _parse(text, folder)
    return str(problems.value)


@pytest.mark.parametrize(
    ("design", "names"),
    [
        (
            "factorial",
            [
                *("base", "ura", "aura", "cosine", "cosine+ura", "cosine+aura", "margin", "margin+ura", "margin+aura"),
                *("margin+cosine", "margin+cosine+ura", "margin+cosine+aura"),
            ],
        ),
        ("one_at_a_time", ["base", "margin", "cosine", "ura", "aura"]),
        ("leave_one_out", ["margin+cosine", "cosine", "margin", "margin+cosine+ura", "margin+cosine+aura"]),
    ],
)
def test_a_design_names_its_rows_by_the_factors_in_them(design: Any, names: list[str]) -> None:
    assert list(rows.designed(rows.Ablation(FACTORS, design))) == names


def test_a_design_changes_what_its_factors_say() -> None:
    made = rows.designed(rows.Ablation(FACTORS))
    assert made["base"] == {"loss": {"gamma": 0.0, "weight": "none"}}
    assert made["margin+cosine+ura"] == {"model": {"head": "cosine"}, "loss": {"aura": False}}


def test_rows_of_a_design_become_cells_at_every_imbalance_and_pair_of_seeds(tmp_path: Path) -> None:
    text = """
rows: {softmax: {loss: {name: softmax}}}
ablation: {design: one_at_a_time, factors: {margin: {without: {loss: {gamma: 0.0}}}}}
cross: {imbalance: [10, 100]}
seeds: {data: [0, 1], init: [0, 1, 2]}
"""
    study = _parse(text, tmp_path)
    assert list(study.rows) == ["softmax", "base", "margin"]
    assert study.columns == (10, 100)
    assert study.seeds == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert reader.row_config(study, "base", {})["loss"]["gamma"] == 0.0
    assert reader.row_config(study, "margin", {})["loss"]["gamma"] == 0.8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ablation: {factors: {}}", "ablation.factors: found {}; dictionary should have at least 1 item"),
        ("ablation: {factors: {a: {with: {}, without: {}}}}", "ablation.factors.a: found with, without; valid: one of"),
        ("ablation: {factors: {a: {levels: {x: {}}}}}", "ablation.factors.a.levels: found 1; valid: at least two"),
        ("ablation: {factors: {a: {without: {loss: {gama: 0}}}}}", "rows.base.loss.gama: unknown"),
        ("ablation: {design: latin, factors: {a: {with: {}}}}", 'ablation.design: found "latin"'),
        (
            "ablation: {factors: {a: {with: {}}, a b: {with: {}}}}\nrows: {a: {}}",
            "found a row 'a' that is in rows, too",
        ),
        ("cross: {imbalance: [10, 10]}", "cross.imbalance: found"),
        ("cross: {imbalance: []}", "cross.imbalance: found"),
        ("cross: {alpha: [1]}", "cross.alpha: unknown"),
        ("seeds: {data: [0, 0]}", "seeds.data: found"),
        ("seeds: {init: [-1]}", "seeds.init"),
    ],
)
def test_a_mistake_in_a_design_names_the_field(tmp_path: Path, text: str, found: str) -> None:
    assert found in _problem(text, tmp_path)


SEARCH = "search: {trials: 4}\n"


def test_every_range_in_a_signature_is_one_its_loss_takes(tmp_path: Path) -> None:
    searched = 0
    for name in sorted(losses.OWN):
        for path, dimension in ranges.knobs(name).items():
            annotation, _ = registry.parameters(losses.LOSSES[name])[path.removeprefix("loss/")]
            assert all(registry.violation(annotation, value) is None for value in dimension.values), (name, path)
            searched += 1
    assert searched >= 15


def test_compared_losses_search_their_own_knobs_with_one_budget(tmp_path: Path) -> None:
    text = "compare: {losses: [focal, {loss: {name: ldam, s: 20.0}}, balanced_softmax, %s]}\n"
    study = _parse(text % "{loss: {name: vs, tau: {uniform: [0, 1]}}}" + SEARCH, tmp_path)
    assert {name: list(space.space) for name, space in study.searches.items()} == {
        "focal": ["loss/gamma"],
        "ldam": ["loss/max_m"],  # s is fixed
        "vs": ["loss/tau"],  # as written, gamma stays at its default
    }
    assert {space.search.budget for space in study.searches.values()} == {4}
    assert list(study.rows) == ["focal (searched)", "ldam (searched)", "balanced_softmax", "vs (searched)"]
    found = {"ldam": {"loss/max_m": 0.3}}
    assert reader.row_config(study, "ldam (searched)", found)["loss"]["max_m"] == 0.3
    assert reader.row_config(study, "ldam (searched)", found)["loss"]["s"] == 20.0
    assert study.own_search() is None


def test_the_studys_own_loss_is_searched_beside_them_and_recipes_are_searched_for_all(tmp_path: Path) -> None:
    text = BASE.replace("gamma: 0.8", "gamma: {uniform: [0.0, 1.5]}")
    text += "recipe: {optimizer: {lr: {loguniform: [0.01, 0.5]}}}\ncompare: {losses: [focal, balanced_softmax]}\n"
    study = reader.parse(text + SEARCH, tmp_path)
    assert {name: list(space.space) for name, space in study.searches.items()} == {
        "ghm_cwap": ["recipe/optimizer/lr", "loss/gamma"],
        "focal": ["recipe/optimizer/lr", "loss/gamma"],
        "balanced_softmax": ["recipe/optimizer/lr"],
    }
    assert list(study.rows)[-1] == "ghm_cwap (searched)"
    own = study.own_search()
    assert own is not None
    assert own.name == "ghm_cwap"
    found = {"ghm_cwap": {"loss/gamma": 1.0, "recipe/optimizer/lr": 0.2}, "focal": {"loss/gamma": 2.0}}
    assert reader.row_config(study, "ghm_cwap (searched)", found)["recipe"].optimizer.lr == 0.2
    assert reader.row_config(study, "focal (searched)", found)["loss"] == {
        "name": "focal",
        "gamma": 2.0,
        "drw": None,
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("compare: {losses: [focal]}", "search: missing"),
        ("compare: {losses: [foca]}\n" + SEARCH, "compare.losses[0]: unknown loss 'foca'; did you mean 'focal'"),
        ("compare: {losses: [{loss: {name: focal, gama: 1}}]}\n" + SEARCH, "compare.losses[0].loss.gama: unknown; did"),
        ("compare: {losses: [focal, focal]}\n" + SEARCH, "found focal, focal; valid: each loss once"),
        ("compare: {losses: [focal, softmax, softmax]}\n" + SEARCH, "valid: each loss once"),
        ("compare: {losses: [{loss: {name: [focal]}}]}\n" + SEARCH, "unknown loss ['focal']"),
        (
            "compare: {losses: [{name: focal}]}\n" + SEARCH,
            "compare.losses[0]: found a loss with its parameters; write {loss:",
        ),
        ("compare: {losses: [{loss: focal}]}\n" + SEARCH, "compare.losses[0].loss.name: missing; valid: balanced"),
        ("compare: {losses: [{loss: {name: focal}, model: 3}]}\n" + SEARCH, "compare.losses[0].model: found 3"),
        ("compare: {losses: [focal]}\nrows: {focal (searched): {}}\n" + SEARCH, "rows.focal (searched): found a name"),
        ("rows: {a: {loss: {name: [x]}}}", "rows.a.loss.name: unknown loss ['x']"),
        ("compare: {losses: [focal], trials: 5}\n" + SEARCH, "compare.trials: unknown; write search.trials instead"),
        ("compare: {losses: [focal]}\nsearch: {sampler: grid}", "search.sampler: found grid, but loss.gamma"),
        ("compare: {losses: [balanced_softmax]}\n" + SEARCH, "search: the file searches nothing"),
    ],
)
def test_a_mistake_in_a_comparison_names_the_field(tmp_path: Path, text: str, found: str) -> None:
    assert found in _problem(text, tmp_path)


def _searching(loss: str, rest: str = SEARCH) -> str:
    return BASE.replace("gamma: 0.8", loss) + rest


def test_a_dimension_can_wait_for_another(tmp_path: Path) -> None:
    loss = "alpha: {uniform: [0.3, 1.0], when: {loss.weight: effective}}, weight: {choice: [effective, none]}"
    study = reader.parse(_searching(loss), tmp_path)
    space = study.searches["ghm_cwap"]
    assert list(space.space) == ["loss/weight", "loss/alpha"]  # the condition comes first
    assert space.space["loss/alpha"] == Dimension("uniform", (0.3, 1.0), {"loss/weight": ("effective",)})
    assert space.complete({"loss/weight": "none"}) == {"loss/alpha": 0.6, "loss/weight": "none"}  # the default
    assert space.complete({"loss/weight": "effective", "loss/alpha": 0.4})["loss/alpha"] == 0.4


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        ("alpha: {uniform: [0.3, 1], when: {loss.weight: effective}}", "loss.alpha.when.loss.weight: not searched"),
        ("alpha: {uniform: [0.3, 1], when: effective}", "loss.alpha.when: found 'effective'; valid"),
        ("aura: {choice: [true, false], when: {loss.gamma: 0}}, gamma: {uniform: [0, 1]}", "has a continuous range"),
        (
            "gamma: {uniform: [0, 1], when: {loss.aura: 1}}, aura: {choice: [true, false]}",
            "found 1; valid: choice [True, False]",
        ),
        (
            "regions: {choice: [9], when: {loss.aura: true}}, aura: {choice: [true, false], when: {loss.regions: 9}}",
            "form a circle",
        ),
    ],
)
def test_a_condition_that_cannot_hold_is_a_mistake(tmp_path: Path, loss: str, found: str) -> None:
    with pytest.raises(Problems) as problems:
        reader.parse(_searching(loss), tmp_path)
    assert found in str(problems.value)


@pytest.mark.parametrize(
    ("search", "validation", "scheduler"),
    [
        ("{trials: 4}", "", "asha"),
        ("{trials: 4}", "{folds: 3}", "racing"),
        ("{trials: 4}", "{holdout: 0.3, seeds: [0, 1]}", "racing"),
        ("{trials: 4, metric: [val/top1, val/rare]}", "{folds: 3}", "none"),
        ("{trials: 4, constraints: {val/many: 0.01}}", "{folds: 3}", "none"),  # else it would stop what keeps them
        ("{sampler: grid}", "{folds: 3}", "none"),
        ("{sampler: grid, scheduler: asha}", "{folds: 3}", "asha"),
    ],
)
def test_the_scheduler_suits_the_validation(tmp_path: Path, search: str, validation: str, scheduler: str) -> None:
    text = _searching("regions: {choice: [10, 20]}, aura: {choice: [true, false]}", f"search: {search}\n")
    if validation:
        text = text.replace("imbalance: 20", f"imbalance: 20, validation: {validation}")
    space = reader.parse(text, tmp_path).searches["ghm_cwap"]
    assert space.search.scheduler == scheduler
    assert space.search.budget == 4  # the grid's size too


@pytest.mark.parametrize(
    ("search", "validation", "found"),
    [
        ("{trials: 4, scheduler: racing}", "{holdout: 0.2}", "search.scheduler: found racing without folds"),
        ("{trials: 4, scheduler: asha, metric: [val/top1, val/rare]}", "{folds: 3}", "found asha with two metrics"),
        ("{metric: [val/top1, val/top1]}", "{folds: 3}", "search.metric: found"),
        ("{metric: test/top1}", "{folds: 3}", "search.metric"),
        ("{sampler: grid, trials: 3}", "{folds: 3}", "search.trials: found 3, but the grid has 2 points"),
        ("{constraints: {val/many: -1}}", "{folds: 3}", "search.constraints"),
        (
            "{scheduler: racing, constraints: {val/many: 0.01}}",
            "{folds: 3}",
            "found racing with two metrics or constraints",
        ),
        ("{trials: 1000000000}", "{folds: 3}", "search.trials"),
        ("{trials: 4}", "{folds: 3, holdout: 0.2}", "data.validation: found holdout and folds"),
        ("{trials: 4}", "{folds: 1}", "data.validation.folds"),
        ("{trials: 4}", "{folds: 3, seeds: []}", "data.validation.seeds: found []"),
    ],
)
def test_a_mistake_in_the_search_names_the_field(tmp_path: Path, search: str, validation: str, found: str) -> None:
    text = _searching("regions: {choice: [10, 20]}", f"search: {search}\n")
    text = text.replace("imbalance: 20", f"imbalance: 20, validation: {validation}")
    with pytest.raises(Problems) as problems:
        reader.parse(text, tmp_path)
    assert found in str(problems.value)


def test_the_search_goes_on_under_its_signature_unless_what_decides_changes(tmp_path: Path) -> None:
    def signature(**changes: str) -> str:
        text = _searching("regions: {choice: [10, 20]}", "search: {trials: 4}\nseeds: [0]\n")
        for old, new in changes.values() and [tuple(value.split(" -> ")) for value in changes.values()]:
            assert old in text
            text = text.replace(old, new)
        study = reader.parse(text, tmp_path)
        return study.search_signature(study.searches["ghm_cwap"], IMAGES)

    assert signature() == signature(trials="trials: 4 -> trials: 9")
    assert signature() == signature(seeds="seeds: [0] -> seeds: [0, 1]")
    assert signature() == signature(name="name: grid -> name: other")
    assert signature() != signature(folds="imbalance: 20 -> imbalance: 20, validation: {folds: 3}")
    assert signature() != signature(choice="[10, 20] -> [10, 30]")
    assert signature() != signature(seed="trials: 4 -> trials: 4, seed: 1")


def test_a_grid_leaves_out_what_a_condition_excludes(tmp_path: Path) -> None:
    loss = "aura: {choice: [true, false]}, regions: {choice: [10, 20, 30], when: {loss.aura: true}}"
    study = reader.parse(_searching(loss, "search: {sampler: grid}\n"), tmp_path)
    space = study.searches["ghm_cwap"]
    points = [{"loss/aura": True, "loss/regions": regions} for regions in (10, 20, 30)] + [{"loss/aura": False}]
    assert list(grid(space.space)) == points
    assert space.search.budget == 4


def test_of_several_conditions_all_must_hold(tmp_path: Path) -> None:
    loss = (
        "aura: {choice: [true, false]}, weight: {choice: [effective, none]}, "
        "regions: {choice: [10, 20], when: {loss.aura: true, loss.weight: effective}}"
    )
    study = reader.parse(_searching(loss, "search: {sampler: grid}\n"), tmp_path)
    with_regions = [point for point in grid(study.searches["ghm_cwap"].space) if "loss/regions" in point]
    assert with_regions == [
        {"loss/aura": True, "loss/weight": "effective", "loss/regions": regions} for regions in (10, 20)
    ]


def test_the_norm_that_gradients_are_clipped_at_can_be_searched(tmp_path: Path) -> None:
    text = _searching("alpha: 0.5", "recipe: {clip_norm: {choice: [2.0, null]}}\nsearch: {sampler: grid}\n")
    study = reader.parse(text, tmp_path)
    assert list(grid(study.searches["ghm_cwap"].space)) == [{"recipe/clip_norm": 2.0}, {"recipe/clip_norm": None}]


def test_a_huge_range_costs_nothing_to_read(tmp_path: Path) -> None:
    alphas = [(number + 1) / 20 for number in range(11)]  # 9,991 x 11 points
    text = f"regions: {{int: [10, 10000]}}, alpha: {{choice: {alphas}}}"
    with pytest.raises(Problems, match="found a grid of more than 100000 points"):
        reader.parse(_searching(text, "search: {sampler: grid}\n"), tmp_path)
    waits = "aura: {choice: [true, false], when: {loss.regions: 12}}, regions: {int: [10, 10000]}"
    assert "loss/aura" in reader.parse(_searching(waits), tmp_path).searches["ghm_cwap"].space


def test_a_row_is_what_was_found_and_defaults_where_a_condition_does_not_hold(tmp_path: Path) -> None:
    loss = "regions: {choice: [10, 20], when: {loss.aura: true}}, aura: {choice: [true, false]}"
    study = reader.parse(_searching(loss, SEARCH + "rows: {best: {loss: {best: true}}}\n"), tmp_path)
    found = {"ghm_cwap": {"loss/aura": False}}
    assert reader.row_config(study, "best", found)["loss"]["regions"] == 30  # not 10, the range's first value


def test_without_a_plainer_choice_its_row_is_the_best(tmp_path: Path) -> None:
    best = Trial({"loss/alpha": 0.77}, "complete")
    concluded = SearchResult("ghm_cwap", "", 1, ("val/balanced",), {}, {}, (best,), best)
    study = reader.parse(
        _searching("alpha: {uniform: [0.3, 1.0]}", SEARCH + "rows: {se: {loss: {best: one_standard_error}}}\n"),
        tmp_path,
    )
    config = reader.row_config(study, "se", found_by(concluded))
    assert config["loss"]["alpha"] == 0.77


def test_the_reference_of_constraints_has_the_default_recipe(tmp_path: Path) -> None:
    text = _searching("gamma: {uniform: [0.0, 1.0]}", "search: {trials: 4, constraints: {val/many: 0.01}}\n")
    study = reader.parse(text + "recipe: {optimizer: {lr: {loguniform: [0.001, 0.3]}}}\n", tmp_path)
    (cell,) = (planned.cell for planned in Plan(study, IMAGES).reference(study.searches["ghm_cwap"]))
    assert cell.loss["name"] == "softmax"
    assert cell.recipe.optimizer.lr == 0.1


def test_a_fixed_loss_may_be_compared_with_its_own_search(tmp_path: Path) -> None:
    study = _parse("compare: {losses: [ghm_cwap, focal]}\n" + SEARCH, tmp_path)
    assert list(study.rows) == ["ghm_cwap (searched)", "focal (searched)"]
    assert study.rows["ghm_cwap (searched)"] == {"loss": {"best": True}}


def test_moving_the_images_changes_neither_fingerprint_nor_search(tmp_path: Path) -> None:
    def signature(root: str) -> str:
        text = _searching("gamma: {uniform: [0.0, 1.0]}").replace(
            "name: digits, imbalance: 20", f"name: image_folder, root: {root}, size: 8"
        )
        study = reader.parse(text, tmp_path)
        return study.search_signature(study.searches["ghm_cwap"], IMAGES)

    assert signature("/one") == signature("/two")
