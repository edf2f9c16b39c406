"""Timing some steps of a cell: they are those of a training, and leave no trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tune_lt import data, training
from tune_lt.config import CellConfig, Recipe
from tune_lt.training import loop

MODEL = {"name": "resnet8", "width": 4}
CELL = CellConfig({"name": "digits", "imbalance": 20.0}, MODEL, {"name": "ghm_cwap"}, Recipe(epochs=1))


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.build("digits")


def _sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images of each batch that a network gets from now on."""
    found, build = [], loop.build

    def watched(*arguments: Any) -> Any:
        model, loss = build(*arguments)
        model.register_forward_pre_hook(lambda _, inputs: found.append(len(inputs[0])))
        return model, loss

    monkeypatch.setattr(loop, "build", watched)
    return found


def test_steps_are_timed_and_nothing_else_changes(digits: data.Dataset) -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    steps = training.timed_steps(CELL, digits, device="cpu", threads=threads + 1)
    assert 2 <= len(steps) <= 20
    assert min(steps) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_timed_are_whole_batches_after_a_warm_up(digits: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = len(training.images_of(CELL, digits).train_index)
    size = trained * 2 // 3  # of two batches one is short
    sizes = _sizes(monkeypatch)
    steps = training.timed_steps(replace(CELL, recipe=replace(CELL.recipe, batch_size=size)), digits, device="cpu")
    assert sizes[:-1] == [size] * (4 + len(steps))


def test_as_many_images_are_held_at_once_as_in_a_training(
    digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored are more than trained on at a time: what that takes belongs to the peak of memory."""
    sizes = _sizes(monkeypatch)
    training.timed_steps(CELL, digits, device="cpu")
    timed = max(sizes)
    sizes.clear()
    list(training.run_epochs(CELL, dataset=digits, device="cpu", score_test=True))
    assert max(sizes) == timed == len(digits.test_labels)
