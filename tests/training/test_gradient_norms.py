"""The recorded gradient norms against plain loops, and what of them reaches a final cell's result."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from tune_lt import data, losses, training
from tune_lt.config import Augment, CellConfig, Optimizer, Recipe
from tune_lt.documents import Norms
from tune_lt.training import gradient_norms

COUNTS = [5, 2, 3]


class _Logits(nn.Module):
    """Takes the 'images' as the logits that they are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class _Batches:
    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def epoch(self, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(self.x[:7], self.y[:7]), (self.x[7:], self.y[7:])]


def _recorded(loss: losses.Loss, x: torch.Tensor, y: torch.Tensor) -> Norms:
    groups = {"many": [0], "medium": [2], "few": [1], "rare": []}
    return gradient_norms.recorded(_Logits(), loss, _Batches(x, y), groups)  # type: ignore[arg-type]


@pytest.fixture
def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.tensor([label for label, count in enumerate(COUNTS) for _ in range(count)])
    return 3 * torch.randn(len(y), 3, generator=torch.Generator().manual_seed(0)), y


def _by_hand(
    x: torch.Tensor, y: torch.Tensor, label: int | None, margins: list[list[float]] | None = None
) -> list[int]:
    """1 − p_y of every image (of one class) from exponentials, one at a time, in bins of a hundredth."""
    counts = [0] * gradient_norms.BINS
    for logits, target in zip(x.double().tolist(), y.tolist(), strict=True):
        if label in (None, target):
            shifted = [z + (margins[target][c] if margins else 0.0) for c, z in enumerate(logits)]
            p = math.exp(shifted[target]) / sum(map(math.exp, shifted))
            counts[min(int((1 - p) * gradient_norms.BINS), gradient_norms.BINS - 1)] += 1
    return counts


def test_norms_of_a_plain_loss_are_one_minus_the_targets_probability(
    labelled: tuple[torch.Tensor, torch.Tensor],
) -> None:
    content = _recorded(losses.build("softmax", class_counts=COUNTS), *labelled)
    assert content.counts == {
        "all": _by_hand(*labelled, None),
        "many": _by_hand(*labelled, 0),
        "medium": _by_hand(*labelled, 2),
        "few": _by_hand(*labelled, 1),
        "rare": [0] * gradient_norms.BINS,
        "largest": _by_hand(*labelled, 0),
        "smallest": _by_hand(*labelled, 1),
    }
    assert (content.largest, content.smallest, content.edges) == (0, 1, None)


def test_norms_of_ghm_cwap_are_those_it_bins_by_and_come_with_its_regions(
    labelled: tuple[torch.Tensor, torch.Tensor],
) -> None:
    loss = losses.build("ghm_cwap", class_counts=COUNTS, gamma=0.8, regions=2, alpha=1.0, aura=True)
    margins = [[0.8 * math.log(min(1.0, n / m)) for n in COUNTS] for m in COUNTS]  # first epoch: from raw counts
    content = _recorded(loss, *labelled)
    assert content.counts["all"] == _by_hand(*labelled, None, margins)  # type: ignore[index]
    assert content.edges == {"largest": [0.0, 0.5, 1.0], "smallest": [0.0, 0.5, 1.0]}
    assert not loss.live.counts.any()  # looking counts nothing
    x, y = labelled
    for _ in range(2):
        loss.train()
        loss(x, y)
        loss.end_epoch()
    assert _recorded(loss, x, y).edges["largest"] != [0.0, 0.5, 1.0]  # type: ignore[index]


def test_a_wrapped_loss_answers_for_its_base(labelled: tuple[torch.Tensor, torch.Tensor]) -> None:
    base = losses.build("ghm_cwap", class_counts=COUNTS)
    wrapped = losses.build("ghm_cwap", class_counts=COUNTS, drw={"start": 0.0}, epochs=2)
    assert _recorded(wrapped, *labelled) == _recorded(base, *labelled)


def test_a_final_cell_has_the_norms_of_every_training_image_and_no_other_cell_has_any() -> None:
    recipe = Recipe(epochs=2, batch_size=64, optimizer=Optimizer(lr=0.05), augment=Augment(crop=1, flip=False))
    cell = CellConfig(
        {"name": "digits", "imbalance": 20.0}, {"name": "resnet8", "width": 4}, {"name": "ghm_cwap"}, recipe
    )
    digits = data.build("digits")
    first, last = training.run_epochs(cell, dataset=digits, device="cpu", score_test=True)
    assert first.norms is None
    assert last.norms is not None
    assert sum(last.norms.counts["all"]) == sum(last.class_counts)
    assert sum(last.norms.counts["largest"]) == max(last.class_counts)
    held_out = dataclasses.replace(cell, fold="holdout", holdout=0.3)
    assert [one.norms for one in training.run_epochs(held_out, dataset=digits, device="cpu")] == [None, None]


def test_the_error_of_a_density_by_hand() -> None:
    """Four bins with 6, 2, 0, 0 images; regions [0, 0.5) and [0.5, 1]: density 8 / 0.5 against 24 and 8 per unit."""
    counts = np.array([6, 2, 0, 0])
    halves = gradient_norms.density_error(counts, np.array([0.0, 0.5, 1.0]))
    assert halves == pytest.approx((6 * math.log(24 / 16) + 2 * math.log(16 / 8)) / 8)
    assert gradient_norms.density_error(counts, np.array([0.0, 0.25, 0.5, 1.0])) == pytest.approx(0.0)
    between = gradient_norms.density_error(
        counts, np.array([0.0, 0.125, 1.0])
    )  # 3 of 8 images on an eighth, 5 on the rest
    assert between == pytest.approx((6 * math.log(24 / (5 / 0.875)) + 2 * abs(math.log((5 / 0.875) / 8))) / 8)
    assert gradient_norms.density_error(np.zeros(4), np.array([0.0, 1.0])) is None


def test_precision_is_recorded_for_each_class_of_a_loss_with_regions(
    labelled: tuple[torch.Tensor, torch.Tensor],
) -> None:
    x, y = labelled
    loss = losses.build("ghm_cwap", class_counts=COUNTS, aura=False, regions=4)
    content = _recorded(loss, x, y)
    assert content.precision["own"] == content.precision["equal"]  # type: ignore[index]
    assert len(content.precision["own"]) == 3  # type: ignore[index]
    assert _recorded(losses.build("softmax", class_counts=COUNTS), x, y).precision is None
