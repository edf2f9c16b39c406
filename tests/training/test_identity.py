"""Cells of one fingerprint have one result, to the last bit; what changes a result changes the fingerprint."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stand_in import IMAGES, OTHERS

from tune_lt import data, losses, training
from tune_lt.config import Augment, CellConfig, ImageHashes, Optimizer, Recipe, Schedule
from tune_lt.losses.ghm_cwap import GHMCWAP
from tune_lt.registry import parameters
from tune_lt.training import loop
from tune_lt.training.identity import canonical, fingerprint

EPOCHS = 4


def _cell(loss: Mapping[str, Any], **changes: Any) -> CellConfig:
    """A small cell; ``loss``: with every default, as a study file fills them in."""
    defaults = {name: default for name, (_, default) in parameters(losses.LOSSES[loss["name"]]).items()}
    cell = CellConfig(
        data={"name": "digits", "imbalance": 20.0, "profile": "exponential", "largest": 40, "sealed": 5},
        model={"name": "resnet8", "width": 4, "head": "linear"},
        loss={**defaults, "drw": None, **loss},
        recipe=Recipe(epochs=EPOCHS, batch_size=32, augment=Augment(crop=1, flip=False)),
        holdout=None,
    )
    recipe = {name: changes.pop(name) for name in [*changes] if name in Recipe.__dataclass_fields__}
    data_set, model = ({**getattr(cell, name), **changes.pop(name, {})} for name in ("data", "model"))
    return dataclasses.replace(
        cell, recipe=dataclasses.replace(cell.recipe, **recipe), data=data_set, model=model, **changes
    )


def _result(cell: CellConfig, dataset: data.Dataset) -> list[dict[str, Any]]:
    """Everything that a training gives, epoch by epoch, but for its time; of the cell exactly as it is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "canonical", lambda cell: cell)
        epochs = training.run_epochs(cell, dataset=dataset, device="cpu", score_test=cell.fold == "full")
        return [{**dataclasses.asdict(epoch), "seconds": 0} for epoch in epochs]


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.build("digits")


PLAIN = {"name": "ghm_cwap", "weight": "none", "margin_counts": "raw"}
COSINE = Schedule("cosine")
SAME = {
    "ghm_cwap without weights and effective sizes": (
        _cell(PLAIN),
        _cell({**PLAIN, "alpha": 0.9, "regions": 10, "aura": False, "size": "density", "normalization": "none"}),
    ),
    "ghm_cwap without margin": (
        _cell({"name": "ghm_cwap", "gamma": 0.0}),
        _cell({"name": "ghm_cwap", "gamma": 0.0, "margin_counts": "raw", "size": "density"}),
    ),
    "seesaw without mitigation": (
        _cell({"name": "seesaw", "p": 0.0}),
        _cell({"name": "seesaw", "p": 0.0, "online": False}),
    ),
    "equalization without tail": (
        _cell({"name": "equalization", "gamma": 0.0}),
        _cell({"name": "equalization", "gamma": 0.0, "tail_threshold": 0.1}),
    ),
    "drw that never begins": (
        _cell({"name": "softmax"}),
        _cell({"name": "softmax", "drw": {"start": 0.9, "beta": 0.9}}),  # round(0.9 * 4) = 4
    ),
    "drw with equal weights": (
        _cell({"name": "ghm_cwap"}),
        _cell({"name": "ghm_cwap", "drw": {"start": 0.0, "beta": 0.0}}),
    ),
    "cosine": (
        _cell({"name": "focal"}, schedule=COSINE),
        _cell({"name": "focal"}, schedule=Schedule("cosine", milestones=(0.1,), factors=(0.5,))),
    ),
    "no imbalance": (
        _cell({"name": "softmax"}, data={"imbalance": None}),
        _cell({"name": "softmax"}, data={"imbalance": None, "profile": "step"}),
    ),
    "no score of the test": (
        _cell({"name": "softmax"}, fold="1/2"),
        _cell({"name": "softmax"}, fold="1/2", data={"sealed": None}),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_cells_of_one_fingerprint_have_one_result(pair: tuple[CellConfig, CellConfig], digits: data.Dataset) -> None:
    one, two = pair
    assert fingerprint(one, digits.hashes, {}) == fingerprint(two, digits.hashes, {})
    assert _result(one, digits) == _result(two, digits)


GHM = {"name": "ghm_cwap"}
OTHER = {
    "loss": _cell({"name": "softmax"}),
    **{
        f"loss.{key}": _cell({**GHM, key: value})
        for key, value in {
            "alpha": 0.9,
            "gamma": 0.8,
            "regions": 10,
            "aura": False,
            "weight": "reciprocal",
            "normalization": "none",
            "margin_counts": "raw",
            "size": "density",
            "tau": 0.5,
            "drw": {"start": 0.5},
        }.items()
    },
    "drw.start": _cell({**GHM, "drw": {"start": 0.25}}),
    "drw.beta": _cell({**GHM, "drw": {"start": 0.5, "beta": 0.9}}),
    "model.width": _cell(GHM, model={"width": 5}),
    "model.head": _cell(GHM, model={"head": "cosine"}),
    "data.imbalance": _cell(GHM, data={"imbalance": 10.0}),
    "data.profile": _cell(GHM, data={"profile": "step"}),
    "data.largest": _cell(GHM, data={"largest": 41}),
    "data.sealed": _cell(GHM, data={"sealed": 6}),
    "epochs": _cell(GHM, epochs=5),
    "batch_size": _cell(GHM, batch_size=31),
    "clip_norm": _cell(GHM, clip_norm=0.1),
    "precision": _cell(GHM, precision="bfloat16"),
    "posthoc_tau": _cell(GHM, posthoc_tau=1.0),
    **{f"optimizer.{name}": _cell(GHM, optimizer=dataclasses.replace(Optimizer(), **{name: value}))
       for name, value in {"name": "adamw", "lr": 0.05, "momentum": 0.5, "weight_decay": 0.01}.items()},
    "schedule.name": _cell(GHM, schedule=COSINE),
    "schedule.warmup": _cell(GHM, schedule=Schedule(warmup=0.5)),
    "schedule.milestones": _cell(GHM, schedule=Schedule(milestones=(0.25, 0.5))),
    "schedule.factors": _cell(GHM, schedule=Schedule(milestones=(0.25, 0.5), factors=(0.5, 0.25))),
    **{f"augment.{name}": _cell(GHM, augment=dataclasses.replace(Augment(crop=1, flip=False), **{name: True}))
       for name in ("flip", "vertical", "rotate")},
    "augment.crop": _cell(GHM, augment=Augment(crop=2, flip=False)),
    "data_seed": _cell(GHM, data_seed=1),
    "init_seed": _cell(GHM, init_seed=1),
    "fold": _cell(GHM, fold="1/2"),
    "another fold": _cell(GHM, fold="2/2"),
    "hold-out": _cell(GHM, fold="holdout", holdout=0.5),
    "another hold-out": _cell(GHM, fold="holdout", holdout=0.3),
}  # fmt: skip


@pytest.mark.long
def test_cells_that_differ_in_one_field_differ_in_fingerprint_and_result(digits: data.Dataset) -> None:
    cells = {"base": _cell(GHM), **OTHER}
    prints = {name: fingerprint(cell, digits.hashes, {}) for name, cell in cells.items()}
    results = {name: _result(cell, digits) for name, cell in cells.items()}
    for one, two in itertools.combinations(cells, 2):
        assert prints[one] != prints[two], (one, two)
        assert results[one] != results[two], (one, two)


def test_every_field_of_a_recipe_is_tried_above() -> None:
    tried = {name.split(".")[0] for name in OTHER}
    assert tried >= {field.name for field in dataclasses.fields(Recipe)}
    for section in (Optimizer, Schedule):
        fields = {f"{section.__name__.lower()}.{field.name}" for field in dataclasses.fields(section)}
        assert OTHER.keys() >= fields
    assert {f"loss.{name}" for name in parameters(losses.LOSSES["ghm_cwap"])} <= OTHER.keys()


def test_a_canonical_form_is_its_own() -> None:
    for cell in (*OTHER.values(), *itertools.chain(*SAME.values())):
        assert canonical(canonical(cell)) == canonical(cell)
    for cell in OTHER.values():
        assert canonical(cell) == cell


def test_plugins_count_for_the_cells_that_use_one() -> None:
    one, two = {"mine": "hash"}, {"mine": "another hash"}
    own = _cell(GHM)
    assert fingerprint(own, IMAGES, one) == fingerprint(own, IMAGES, two) == fingerprint(own, IMAGES, {})
    for section in ("data", "model", "loss"):
        using = dataclasses.replace(own, **{section: {**getattr(own, section), "name": "mine"}})
        assert len({fingerprint(using, IMAGES, sources) for sources in (one, two, {})}) == 3


def test_pretrained_weights_count_by_their_content_and_plugins_do_not_with_them() -> None:
    section = {"name": "torchvision", "architecture": "resnet18", "weights": "V", "head": "linear"}
    cell = dataclasses.replace(_cell(GHM), model=section)
    name = "weights:torchvision/resnet18/V"
    one, two = {name: "hash"}, {name: "another hash"}
    assert fingerprint(cell, IMAGES, one) != fingerprint(cell, IMAGES, two)
    assert fingerprint(cell, IMAGES, one | {"mine": "1"}) == fingerprint(cell, IMAGES, one | {"mine": "2"})
    random = dataclasses.replace(cell, model={**section, "weights": None})
    assert fingerprint(random, IMAGES, one) == fingerprint(random, IMAGES, {})


def test_a_plugins_loss_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be derived from one of ours and use what that one does not, or change what deferred re-weighting does."""

    class Mine(GHMCWAP):
        pass

    losses.register("mine")(Mine)
    cell = _cell({**PLAIN, "name": "mine", "alpha": 0.9, "drw": {"start": 1.0}})
    assert canonical(cell) == cell


def test_a_fold_does_not_depend_on_the_sealed_test() -> None:
    full, fold, hold_out = _cell(GHM), _cell(GHM, fold="1/2"), _cell(GHM, fold="holdout", holdout=0.3)
    more_test = ImageHashes(IMAGES.training, OTHERS.whole)
    assert fingerprint(full, IMAGES, {}) != fingerprint(full, more_test, {})
    for cell in (fold, hold_out):
        assert fingerprint(cell, IMAGES, {}) == fingerprint(cell, more_test, {})
        assert fingerprint(cell, IMAGES, {}) != fingerprint(cell, OTHERS, {})


def test_a_state_goes_on_in_a_cell_of_the_same_fingerprint(digits: data.Dataset, tmp_path: Path) -> None:
    """As it does when a study is changed, between two runs, where nothing depends on it; the regions' shapes differ."""
    one, two = SAME["ghm_cwap without weights and effective sizes"]
    begun = training.run_epochs(one, dataset=digits, device="cpu", save_to=tmp_path / "state.pt")
    first = next(begun)
    with pytest.raises(StopIteration):
        begun.send(True)
    rest = training.run_epochs(two, dataset=digits, device="cpu", save_to=tmp_path / "state.pt")
    whole = training.run_epochs(two, dataset=digits, device="cpu")
    assert [one.train_loss for one in (first, *rest)] == [one.train_loss for one in whole]
