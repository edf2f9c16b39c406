"""Training: deterministic, resumable bit for bit, honest about the sealed test, clear when it fails."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tune_lt import data, losses, models, training
from tune_lt.config import Augment, CellConfig, Optimizer, Recipe, Schedule, fold_of
from tune_lt.errors import InputError, TrainingFailed
from tune_lt.training import checkpoint, loop
from tune_lt.training.accuracies import Scores, evaluate
from tune_lt.training.step import lr_factor

RECIPE = Recipe(
    epochs=4, batch_size=64, optimizer=Optimizer(lr=0.05), augment=Augment(crop=1, flip=False), clip_norm=2.0
)
CELL = CellConfig(
    data={"name": "digits", "imbalance": 20.0},
    model={"name": "resnet8", "width": 4},
    loss={"name": "ghm_cwap"},
    recipe=RECIPE,
    fold="holdout",
    holdout=0.3,
)


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.build("digits")


def _results(cell: CellConfig, digits: data.Dataset, **options: object) -> list[training.EpochResult]:
    return list(training.run_epochs(cell, dataset=digits, device="cpu", **options))  # type: ignore[arg-type]


def _numbers(results: list[training.EpochResult]) -> list[dict[str, float]]:
    return [result.as_metrics() for result in results]


def test_equal_seeds_give_equal_numbers_and_others_do_not(digits: data.Dataset) -> None:
    first = _numbers(_results(CELL, digits))
    torch.rand(17)  # the state of the global generator must not matter
    assert _numbers(_results(CELL, digits)) == first
    assert _numbers(_results(dataclasses.replace(CELL, init_seed=1), digits)) != first
    assert _numbers(_results(dataclasses.replace(CELL, data_seed=1), digits)) != first


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "ghm_cwap"},
        {"name": "seesaw"},
        {"name": "ghm", "momentum": 0.75},
        {"name": "equalization", "tail_threshold": 0.1},
        {"name": "ldam", "drw": {"start": 0.5, "beta": 0.99}},
    ],
    ids=lambda loss: loss["name"],
)
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, digits: data.Dataset, loss: dict[str, object], stop: int
) -> None:
    cell = dataclasses.replace(CELL, loss=loss)
    whole = _numbers(_results(cell, digits))
    state = tmp_path / "state.pt"
    run = training.run_epochs(cell, dataset=digits, device="cpu", save_to=state)
    before = [next(run).as_metrics() for _ in range(stop)]
    run.close()  # the process dies here
    torch.manual_seed(999)
    after = _numbers(_results(cell, digits, save_to=state))
    assert before == whole[:stop]
    assert after == whole[stop - 1 :]  # the epoch that nobody had confirmed is repeated


def test_a_run_that_ended_is_scored_again_from_its_last_state(tmp_path: Path, digits: data.Dataset) -> None:
    cell = dataclasses.replace(CELL, fold="full", holdout=None)
    state = tmp_path / "state.pt"
    last = _results(cell, digits, save_to=state, score_test=True)[-1]
    again = _results(cell, digits, save_to=state, score_test=True)
    assert [result.as_metrics() for result in again] == [last.as_metrics()]


@pytest.mark.parametrize(("seconds", "epochs"), [(0.0, [1, 2, 3, 4]), (1e9, [4])])
def test_save_seconds_saves_less_often_but_always_the_last(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch, seconds: float, epochs: list[int]
) -> None:
    saved = []
    monkeypatch.setattr(checkpoint, "save", lambda path, identity, state: saved.append(state["epoch"]))
    _results(CELL, digits, save_to=tmp_path / "a.pt", save_seconds=seconds)
    assert saved == epochs


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path, digits: data.Dataset) -> None:
    state = tmp_path / "state.pt"
    _results(CELL, digits, save_to=state)
    with pytest.raises(InputError, match="another configuration"):
        _results(dataclasses.replace(CELL, init_seed=1), digits, save_to=state)
    with pytest.raises(InputError, match="another configuration"):
        _results(CELL, digits, save_to=state, identity="another plugin")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        _results(CELL, digits, save_to=state)


def test_a_checkpoint_of_other_images_is_refused(tmp_path: Path, digits: data.Dataset) -> None:
    cell = dataclasses.replace(CELL, data=CELL.data | {"largest": 40})
    _results(cell, digits, save_to=tmp_path / "state.pt")
    other = data.Dataset.of(
        255 - digits.train_images, digits.train_labels, digits.test_images, digits.test_labels, digits.class_names
    )
    with pytest.raises(InputError, match="another configuration"):
        _results(cell, other, save_to=tmp_path / "state.pt")


def test_a_checkpoint_never_runs_pickled_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"format": 1, "identity": "x", "state": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "bomb.pt", "x")
    assert not (tmp_path / "harm").exists()


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, "x", {"epoch": 1})

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, "x", {"epoch": 2})
    assert checkpoint.load(path, "x") == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_sealed_test_is_scored_once_and_only_when_asked(
    digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def counting(model: object, batches: data.Batches, *rest: object) -> torch.Tensor:
        seen.append(sum(len(y) for _, y in batches.epoch(0)) == len(digits.test_labels))
        return evaluate(model, batches, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "evaluate", counting)
    results = _results(CELL, digits)
    assert not any(seen)
    assert len(seen) == 4
    assert all(result.val and not result.test for result in results)
    seen.clear()
    results = _results(dataclasses.replace(CELL, fold="full", holdout=None), digits, score_test=True)
    assert seen == [True]
    assert [bool(result.test) for result in results] == [False, False, False, True]


@pytest.mark.long
def test_it_learns(digits: data.Dataset) -> None:
    cell = dataclasses.replace(
        CELL,
        data={"name": "digits"},
        loss={"name": "softmax"},
        fold="full",
        holdout=None,
        recipe=dataclasses.replace(RECIPE, epochs=6),
    )
    results = _results(cell, digits, score_test=True)
    assert results[-1].train_loss < 0.5 * results[0].train_loss
    assert results[-1].test is not None
    assert results[-1].test.top1 > 0.8


def test_the_training_loss_is_the_mean_over_images_whatever_the_batches(digits: data.Dataset) -> None:
    """Of a loss that is an example's label: Σ c · n_c / Σ n_c, the last batch being a short one."""

    class Label(losses.Loss):
        def terms(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, None]:
            return targets + 0 * logits.sum(1), None

    counts = data.exponential(40, 20, 10)
    expected = sum(label * count for label, count in enumerate(counts)) / sum(counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.LOSSES, "label", Label)
        for size in (50, 64):
            assert sum(counts) % size
            recipe = dataclasses.replace(RECIPE, epochs=1, batch_size=size)
            cell = dataclasses.replace(CELL, data=CELL.data | {"largest": 40}, loss={"name": "label"}, recipe=recipe)
            (result,) = _results(dataclasses.replace(cell, fold="full", holdout=None), digits)
            assert result.train_loss == pytest.approx(expected)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_reason(digits: data.Dataset) -> None:
    cell = dataclasses.replace(
        CELL, recipe=dataclasses.replace(RECIPE, optimizer=Optimizer(lr=1e30), clip_norm=None), loss={"name": "softmax"}
    )
    with pytest.raises(TrainingFailed, match=r"training loss became nan in epoch \d of 4"):
        _results(cell, digits)


VARIANTS = {
    "epochs": {"epochs": 5},
    "batch_size": {"batch_size": 32},
    "lr": {"optimizer": Optimizer(lr=0.1)},
    "momentum": {"optimizer": Optimizer(lr=0.05, momentum=0.5)},
    "weight_decay": {"optimizer": Optimizer(lr=0.05, weight_decay=0.1)},
    "adamw": {"optimizer": Optimizer(name="adamw", lr=0.05)},
    "warmup": {"schedule": Schedule(warmup=0.5)},
    "cosine": {"schedule": Schedule(name="cosine")},
    "milestones": {"schedule": Schedule(milestones=(0.25, 0.9))},
    "factors": {"schedule": Schedule(factors=(0.1, 0.0001), milestones=(0.5, 0.9))},
    "crop": {"augment": Augment(crop=0, flip=False)},
    "flip": {"augment": Augment(crop=1, flip=True)},
    "clip_norm": {"clip_norm": 0.1},
    "posthoc_tau": {"posthoc_tau": 2.0},
}


@pytest.mark.long
def test_every_option_of_the_recipe_changes_the_result(digits: data.Dataset) -> None:
    plain = _numbers(_results(CELL, digits))
    for name, change in VARIANTS.items():
        assert (
            _numbers(_results(dataclasses.replace(CELL, recipe=dataclasses.replace(RECIPE, **change)), digits)) != plain
        ), name


def test_the_recipe_of_the_paper_in_fractions() -> None:
    """200 epochs: warm-up over 5, x 0.01 after 160, x 0.0001 after 180, as LDAM-DRW; the same shape over 20."""
    factors = [lr_factor(Schedule(), epoch, 200) for epoch in range(200)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert (factors[159], factors[160], factors[179], factors[180], factors[199]) == (1.0, 0.01, 0.01, 0.0001, 0.0001)
    short = [lr_factor(Schedule(warmup=0.1), epoch, 20) for epoch in range(20)]
    assert short[:3] == [0.5, 1.0, 1.0]
    assert (short[15], short[16], short[18]) == (1.0, 0.01, 0.0001)


def test_cosine_falls_from_one_towards_zero() -> None:
    factors = [lr_factor(Schedule(name="cosine", warmup=0.0), epoch, 10) for epoch in range(10)]
    assert factors[0] == 1.0
    assert factors[5] == pytest.approx(0.5)
    assert all(earlier > later for earlier, later in itertools.pairwise(factors))


def test_cosine_begins_after_the_warm_up() -> None:
    """10 epochs, 2 of them warming up: ½, 1, then half a cosine over the other 8, which begins at 1."""
    factors = [lr_factor(Schedule(name="cosine", warmup=0.2), epoch, 10) for epoch in range(10)]
    assert factors == pytest.approx([0.5, 1.0, *((1 + math.cos(math.pi * k / 8)) / 2 for k in range(8))])


def test_posthoc_adjustment_subtracts_the_log_prior() -> None:
    """Logits (1, 0) with counts (3, 1) and tau 1: 1 - log 3 = -0.0986 < 0, so the answer turns from class 0 to 1."""
    images, labels = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([1])
    batches = data.Batches(
        images, labels, torch.tensor([0]), batch_size=1, mean=(0.0,), std=(1.0,), augment=None, seed=0, device="cpu"
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    groups: dict[str, list[int]] = {"many": [0], "rare": [1]}
    assert Scores.of(evaluate(model, batches, torch.zeros(2)), 2, groups).top1 == 0.0
    scores = Scores.of(evaluate(model, batches, torch.tensor([3.0, 1.0]).log()), 2, groups)
    assert scores.top1 == 1.0
    assert math.isnan(scores.groups["many"])


def test_metrics_leave_empty_groups_out() -> None:
    scores = Scores(0.5, 0.5, {"many": 0.5, "rare": math.nan}, (0.5,))
    result = training.EpochResult(epoch=1, epochs=1, lr=0.1, train_loss=1.0, seconds=1.0, test=scores)
    assert result.as_metrics() == {"train/loss": 1.0, "test/top1": 0.5, "test/balanced": 0.5, "test/many": 0.5}
    result = dataclasses.replace(result, val=scores, test=None)
    assert result.as_metrics() == {"train/loss": 1.0, "val/top1": 0.5, "val/balanced": 0.5, "val/many": 0.5}


def test_an_unknown_or_absent_device_is_named() -> None:
    for name in ("cudo", "cuda:99", "cpu:x", "meta", ""):
        with pytest.raises(InputError, match=f"^device '{name}' .*auto"):
            training.pick_device(name)
    assert training.pick_device("auto").type in ("cpu", "cuda", "mps")


def test_a_rehearsal_finds_what_cannot_be_trained_and_disturbs_nothing(digits: data.Dataset) -> None:
    class NoEpochs(torch.nn.Module):
        def __init__(self, class_counts: list[int]) -> None:
            super().__init__()

    class Broken(losses.Loss):
        def terms(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, None]:
            raise RuntimeError("shapes do not fit")

    class Vector(losses.Loss):
        def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return logits.sum(dim=1, keepdim=True).mean(dim=0)

    class Unbuildable(losses.Loss):
        def __init__(self, class_counts: list[int]) -> None:
            raise MemoryError("too many bins")

    before = torch.get_rng_state()
    split = training.rehearse(CELL, digits)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(split.class_counts) == len(split.train_index)
    cases = [(NoEpochs, r"no end_epoch\(\)"), (Broken, "RuntimeError: shapes do not fit"), (Vector, "must be a scalar")]
    cases += [(Unbuildable, "loss 'mine' cannot be trained on these images: MemoryError: too many bins")]
    for kind, message in cases:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(losses.LOSSES, "mine", kind)
            with pytest.raises(InputError, match=message):
                training.rehearse(dataclasses.replace(CELL, loss={"name": "mine"}), digits)


class _OneValue(nn.Sequential):
    """Batch normalisation gets one value of an image in each channel, as in large networks for small images."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


@pytest.fixture
def lone(monkeypatch: pytest.MonkeyPatch) -> CellConfig:
    """A cell whose network cannot train on a single one."""
    monkeypatch.setitem(models.MODELS, "one_value", _OneValue)
    return dataclasses.replace(CELL, model={"name": "one_value"}, fold="full", holdout=None)


def test_a_lone_last_image_trains_in_the_batch_before_it(digits: data.Dataset, lone: CellConfig) -> None:
    """All in one batch, whether the batch size is the number of images or one less; no image alone in 101s either."""
    images = len(training.rehearse(lone, digits).train_index)
    assert images % 101 == 1
    one, same, many = (
        _numbers(_results(dataclasses.replace(lone, recipe=dataclasses.replace(RECIPE, batch_size=size)), digits))
        for size in (images - 1, images, 101)
    )
    assert one == same != many


def test_the_rehearsal_tries_the_smallest_batch(digits: data.Dataset, lone: CellConfig) -> None:
    alone = dataclasses.replace(RECIPE, batch_size=1)
    with pytest.raises(
        InputError, match=r"in batches of one image: ValueError: .*; valid: recipe\.batch_size: 2 or more"
    ):
        training.rehearse(dataclasses.replace(lone, recipe=alone), digits)
    training.rehearse(dataclasses.replace(lone, recipe=dataclasses.replace(RECIPE, batch_size=2)), digits)
    training.rehearse(dataclasses.replace(CELL, recipe=alone), digits)  # its last map has more than one value


def test_nothing_to_hold_out_is_said_before_training(digits: data.Dataset) -> None:
    cell = dataclasses.replace(CELL, data={"name": "digits", "imbalance": 1.0})
    single = data.Dataset.of(
        digits.train_images[[int((digits.train_labels == label).nonzero()[0]) for label in range(10)]],
        torch.arange(10),
        digits.test_images,
        digits.test_labels,
        digits.class_names,
    )
    with pytest.raises(InputError, match="every class has a single training image"):
        training.rehearse(cell, single)


def test_largest_makes_the_whole_long_tail_smaller(digits: data.Dataset) -> None:
    cell = dataclasses.replace(CELL, data=CELL.data | {"largest": 40}, fold="full", holdout=None)
    assert _results(cell, digits)[0].class_counts == tuple(data.exponential(40, 20, 10))
    assert training.load_dataset(cell).content_hash == digits.content_hash  # of the images, before any long tail


def test_a_fold_trains_on_the_others_and_scores_its_own_images(digits: data.Dataset) -> None:
    cells = [dataclasses.replace(CELL, fold=f"{k}/3", holdout=None) for k in (1, 2, 3)]
    runs = [_results(cell, digits) for cell in cells]
    full = next(training.run_epochs(dataclasses.replace(CELL, fold="full", holdout=None), dataset=digits, device="cpu"))
    assert len({json.dumps(_numbers(run)) for run in runs}) == 3
    for run in runs:
        assert set(run[-1].as_metrics()) == {"train/loss"} | {
            f"val/{name}" for name in ("top1", "balanced", "many", "medium", "few", "rare")
        }
    trained = torch.tensor([run[-1].class_counts for run in runs]).sum(0)
    assert torch.equal(trained, 2 * torch.tensor(full.class_counts))  # each image is left out of one training in three


def test_groups_are_of_the_whole_long_tail_and_so_the_same_in_every_fold(digits: data.Dataset) -> None:
    """Five classes of 100 and five of 33 images: a fold leaves 66 or 67 of a large one, but that orders nothing."""
    cell = dataclasses.replace(
        CELL, data={"name": "digits", "imbalance": 3.0, "profile": "step", "largest": 100}, holdout=None
    )
    runs = [
        loop.Training(dataclasses.replace(cell, fold=fold), digits, torch.device("cpu"))
        for fold in ("1/3", "2/3", "3/3")
    ]
    assert len({run.class_counts for run in runs}) == 3
    expected = {"many": [0, 1, 2], "medium": [3, 4, 5], "few": [6, 7], "rare": [8, 9]}
    assert [run.groups for run in runs] == [expected] * 3


def test_the_posthoc_prior_is_of_the_images_that_were_trained_on(digits: data.Dataset) -> None:
    """Of six images of the rarest class two are held out at 0.3, a third and not 0.3: the prior is not the whole's."""
    recipe = dataclasses.replace(RECIPE, posthoc_tau=0.5)
    run = loop.Training(dataclasses.replace(CELL, recipe=recipe), digits, torch.device("cpu"))
    counts = torch.bincount(digits.train_labels[run.split.train_index], minlength=10)
    assert counts.tolist() != run.split.split_counts
    assert run.offset.tolist() == pytest.approx([0.5 * math.log(n) for n in counts.tolist()])


def test_folds_are_spelled_in_one_way() -> None:
    assert [fold_of(text) for text in ("full", "holdout", "1/2", "2/5", "10/10")] == [
        None,
        None,
        (1, 2),
        (2, 5),
        (10, 10),
    ]
    for text in ("", "0/5", "6/5", "1/1", "1/0", "02/5", "2/5 ", "2/5\n", "-1/5", "2/5/5", "half", "²/5", "1/2.0"):
        with pytest.raises(InputError, match="such as 2/5"):
            fold_of(text)


def test_folds_that_make_no_sense_are_said_before_training(digits: data.Dataset) -> None:
    for fold, holdout, message in (("6/5", None, "such as 2/5"), ("1/5", 0.3, "only one of them")):
        with pytest.raises(InputError, match=message):
            training.rehearse(dataclasses.replace(CELL, fold=fold, holdout=holdout), digits)
    one = torch.stack([(digits.train_labels == label).nonzero()[0, 0] for label in range(10)])
    pair = torch.cat([one, (digits.train_labels == 0).nonzero()[1]])  # two images of 0, one of each other digit
    few = data.Dataset.of(
        digits.train_images[pair],
        digits.train_labels[pair],
        digits.test_images,
        digits.test_labels,
        digits.class_names,
    )
    plain = dataclasses.replace(CELL, data={"name": "digits"}, holdout=None, loss={"name": "softmax"})
    said = []
    for k in range(1, 6):
        try:
            training.rehearse(dataclasses.replace(plain, fold=f"{k}/5"), few)
        except InputError as error:
            said.append(str(error))
    assert len(said) == 3
    assert all("too many folds" in message for message in said)


@pytest.mark.long
def test_every_loss_and_model_trains_an_epoch(digits: data.Dataset) -> None:
    for model in ("resnet8", "resnet32"):  # torchvision's take three channels
        for loss in sorted(losses.OWN):
            recipe = dataclasses.replace(RECIPE, epochs=1, batch_size=256)
            cell = dataclasses.replace(CELL, loss={"name": loss}, model={"name": model, "width": 4}, recipe=recipe)
            assert math.isfinite(_results(cell, digits)[0].train_loss), (model, loss)


def test_bfloat16_computes_the_network_in_it_and_nothing_else(digits: data.Dataset, tmp_path: Path) -> None:
    cell = dataclasses.replace(CELL, recipe=dataclasses.replace(RECIPE, precision="bfloat16"))
    mixed, plain = _numbers(_results(cell, digits)), _numbers(_results(CELL, digits))
    assert mixed != plain
    assert mixed[0]["train/loss"] == pytest.approx(plain[0]["train/loss"], rel=0.05)
    run = loop.Training(cell, digits, torch.device("cpu"))
    seen = []
    run.model.network.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    logits = run.model(torch.rand(2, 1, 8, 8))
    assert (seen, logits.dtype) == ([torch.bfloat16], torch.float32)
    assert (logits.bfloat16().float() != logits).any()  # not rounded to eight bits: of many classes two would be equal
    assert {value.dtype for value in run.model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    halted = training.run_epochs(cell, dataset=digits, device="cpu", save_to=tmp_path / "state.pt")
    for _ in range(2):
        next(halted)
    halted.close()
    assert _numbers(_results(cell, digits, save_to=tmp_path / "state.pt")) == mixed[1:]


def test_what_became_of_each_sealed_image_is_what_the_scores_count(digits: data.Dataset) -> None:
    cell = dataclasses.replace(CELL, fold="full", holdout=None, data={**CELL.data, "sealed": 7})
    last = _results(cell, digits, score_test=True)[-1]
    seen, index = last.by_image, data.test_index(digits, 7)
    assert seen is not None
    assert last.test is not None
    assert seen.label == digits.test_labels[index].tolist()
    assert sum(seen.right) / len(index) == pytest.approx(last.test.top1)
    for label, recall in enumerate(last.test.per_class):
        own = [right for right, true in zip(seen.right, seen.label, strict=True) if true == label]
        assert sum(own) / len(own) == pytest.approx(recall)
    assert all(right or p <= 0.5 for right, p in zip(seen.right, seen.p, strict=True))


def test_a_plugin_that_exits_during_the_training_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses.LOSSES["softmax"], "end_epoch", lambda self: sys.exit(0))
    with pytest.raises(RuntimeError, match=r"a plugin called sys.exit\(0\) during the training"):
        list(training.run_epochs(dataclasses.replace(CELL, loss={"name": "softmax"}), device="cpu"))
