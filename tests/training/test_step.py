"""A step, and what a recorded one relies on; `test_cuda.py` has that it is the plain one."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn
from watch import Watch

from tune_lt import data, losses, models, training
from tune_lt.config import CellConfig, Optimizer, Recipe
from tune_lt.training import loop
from tune_lt.training.step import Step, optimizer

COUNTS = [30, 14, 6, 2]
RECIPE = Recipe(epochs=2, batch_size=64, clip_norm=2.0)
CELL = CellConfig({"name": "digits", "imbalance": 20.0}, {"name": "resnet8", "width": 4}, {"name": "ghm_cwap"}, RECIPE)
every_loss = pytest.mark.parametrize("name", sorted(losses.OWN))


def _step(name: str, recipe: Optimizer = RECIPE.optimizer, lr: Tensor | None = None) -> Step:
    torch.manual_seed(0)
    model = models.build("resnet8", classes=len(COUNTS), channels=1, width=4).train()
    loss = losses.build(name, class_counts=COUNTS, epochs=2, drw={"start": 0.5})
    return Step(model, loss, optimizer(recipe, model, lr), 2.0, torch.device("cpu"))


def _batch(seed: int = 0) -> tuple[Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % len(COUNTS), 8


def _places(step: Step) -> list[int]:
    states = [value for state in step.optimizer.state.values() for value in state.values()]
    tensors = [*step.model.state_dict().values(), *step.loss.buffers(), *states, step.total]
    return [tensor.data_ptr() for tensor in tensors]


@every_loss
def test_a_step_asks_the_device_nothing(name: str) -> None:
    step = _step(name)
    step(*_batch())
    with Watch() as watch:
        step(*_batch(1))
    assert {"convolution_backward", "native_batch_norm_backward"} <= watch.seen


@every_loss
def test_all_that_an_epoch_changes_stays_where_it_is_in_memory(name: str) -> None:
    step = _step(name)
    step(*_batch())
    before = _places(step)
    step.loss.end_epoch()
    step(*_batch(1))
    step.loss.end_epoch()
    assert _places(step) == before


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_learning_rate_of_a_recorded_step_is_read_anew_at_each(name: str) -> None:
    optimizer = Optimizer(name=name, lr=0.05)  # type: ignore[arg-type]
    lr = torch.tensor(0.05)
    plain, recorded = _step("softmax", optimizer), _step("softmax", optimizer, lr)
    for number, value in enumerate((0.05, 0.05, 0.001)):
        lr.fill_(value)
        plain.optimizer.param_groups[0]["lr"] = value
        plain(*_batch(number))
        recorded(*_batch(number))
    for one, other in zip(plain.model.parameters(), recorded.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_total_is_the_sum_of_the_losses_of_all_images() -> None:
    step = _step("softmax")
    x, y, images = _batch()
    expected = images * nn.functional.cross_entropy(copy.deepcopy(step.model)(x), y).item()
    step(x, y, images)
    assert step.total.item() == pytest.approx(expected, rel=1e-5)


def test_gradients_are_clipped_by_their_norm_all_together() -> None:
    """A step of plain descent with rate 1 is the gradient, shortened to the length allowed, in its own direction."""
    plain, clipped = (_step("softmax", Optimizer(lr=1.0, momentum=0.0, weight_decay=0.0)) for _ in range(2))
    plain.clip_norm, clipped.clip_norm = None, 0.01
    moved = []
    for step in (plain, clipped):
        before = nn.utils.parameters_to_vector(step.model.parameters()).detach().clone()
        step(*_batch())
        moved.append(before - nn.utils.parameters_to_vector(step.model.parameters()).detach())
    assert moved[0].norm() > 0.1
    torch.testing.assert_close(moved[1], 0.01 * moved[0] / moved[0].norm(), rtol=1e-2, atol=1e-6)


def test_a_state_saved_with_other_optimizer_options_is_taken_over() -> None:
    """As when a training that began on a GPU goes on without one."""
    digits = data.build("digits")
    cell = dataclasses.replace(CELL, recipe=dataclasses.replace(RECIPE, optimizer=Optimizer(name="adamw", lr=0.01)))
    saved, other = (loop.Training(cell, digits, torch.device("cpu")) for _ in range(2))
    saved.train_epoch(1)
    state = saved.state(1)
    state["optimizer"]["param_groups"][0] |= {"fused": True, "capturable": True, "lr": torch.tensor(0.5)}
    other.restore(copy.deepcopy(state))
    assert other.optimizer.param_groups[0]["capturable"] is False
    other.train_epoch(2)
    saved.train_epoch(2)
    assert other.train_loss == saved.train_loss


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_the_first_gpu_is_a_device_without_a_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which torch.cuda.set_device refuses, before it asks whether there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert training.pick_device(name) == torch.device("cuda")


def test_a_network_of_ones_own_is_not_recorded() -> None:
    models.register("own")(lambda classes, channels: models.resnet8(classes, channels, width=4))
    run = loop.Training(dataclasses.replace(CELL, model={"name": "own"}), data.build("digits"), torch.device("cpu"))
    assert isinstance(run.step, Step)
    assert "own" not in models.OWN
