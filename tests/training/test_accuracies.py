"""Accuracies against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from torch import Tensor

from tune_lt.documents import ByImage
from tune_lt.training import accuracies
from tune_lt.training.accuracies import Scores, groups, scored


def _scored(predictions: Tensor, targets: Tensor, classes: int) -> Tensor:
    """The table of a network that gives these predictions."""
    return scored(torch.nn.functional.one_hot(predictions.long(), classes).float(), targets)


def _counted(counts: list[tuple[int, int]]) -> Tensor:
    """A table with so many right predictions and so many images of each class; what is wrong was taken for another."""
    guesses = [
        (label if image < right else (label + 1) % len(counts), label)
        for label, (right, images) in enumerate(counts)
        for image in range(images)
    ]
    predictions, targets = torch.tensor(guesses, dtype=torch.int64).view(-1, 2).T
    return _scored(predictions, targets, len(counts))


HAND = _counted([(6, 8), (1, 2), (0, 0), (0, 4)])  # class 2 has no images


def _random(classes: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, generator=generator) ** 3 * classes).long()
    guesses = torch.randint(0, classes, (n,), generator=generator)
    return torch.where(torch.rand(n, generator=generator) < 0.6, targets, guesses), targets


@pytest.mark.parametrize(("classes", "n"), [(2, 5), (10, 1000), (100, 3000), (7, 1)])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_against_scikit_learn(classes: int, n: int) -> None:
    predictions, targets = _random(classes, n)
    scores = Scores.of(_scored(predictions, targets, classes), classes, {})
    assert scores.top1 == pytest.approx(accuracy_score(targets, predictions))
    assert scores.balanced == pytest.approx(balanced_accuracy_score(targets, predictions))
    expected = recall_score(targets, predictions, labels=range(classes), average=None, zero_division=np.nan)
    np.testing.assert_allclose(scores.per_class, expected)


def test_groups_against_scikit_learn() -> None:
    predictions, targets = _random(10, 2000)
    members = groups(torch.bincount(targets, minlength=10).tolist())
    found = Scores.of(_scored(predictions, targets, 10), 10, members).groups
    assert found.keys() == members.keys()
    for name, classes in members.items():
        chosen = torch.isin(targets, torch.tensor(classes))
        assert found[name] == pytest.approx(accuracy_score(targets[chosen], predictions[chosen]))


def test_by_hand() -> None:
    scores = Scores.of(HAND, 4, {})
    assert (scores.top1, scores.balanced) == (7 / 14, pytest.approx((6 / 8 + 1 / 2 + 0) / 3))
    assert scores.per_class == (0.75, 0.5, pytest.approx(math.nan, nan_ok=True), 0.0)


def test_an_accuracy_is_the_quotient_of_two_whole_numbers() -> None:
    """To the last digit, not that of a sum of single-precision numbers: 1 of 3 images is 1 / 3."""
    scores = Scores.of(_counted([(1, 3), (5, 7)]), 2, {"many": [0, 1]})
    assert scores.per_class == (1 / 3, 5 / 7)
    assert scores.top1 == scores.groups["many"] == 6 / 10


def test_an_image_counts_for_its_target_not_for_what_was_predicted() -> None:
    scores = Scores.of(_scored(torch.tensor([2, 1]), torch.tensor([0, 1]), 3), 3, {"many": [0], "few": [2]})
    assert scores.per_class[:2] == (0.0, 1.0)
    assert math.isnan(scores.per_class[2])
    assert scores.groups["many"] == 0.0
    assert math.isnan(scores.groups["few"])


def test_nothing_scored_is_not_zero() -> None:
    scores = Scores.of(torch.zeros(0, 3), 3, {"many": [0, 1]})
    assert all(map(math.isnan, [scores.top1, scores.balanced, *scores.groups.values(), *scores.per_class]))
    assert len(scores.per_class) == 3


def test_a_class_that_does_not_exist_is_an_error() -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        scored(torch.zeros(1, 3), torch.tensor([3]))


@pytest.mark.parametrize(
    ("classes", "sizes"),
    [(10, [3, 3, 2, 2]), (8, [2] * 4), (11, [3, 3, 3, 2]), (4, [1] * 4), (3, [1, 1, 1, 0]), (1, [1, 0, 0, 0])],
)
def test_groups_are_four_nearly_equal_parts(classes: int, sizes: list[int]) -> None:
    found = groups(list(range(classes, 0, -1)))
    assert list(found) == ["many", "medium", "few", "rare"]
    assert [len(group) for group in found.values()] == sizes
    assert [c for group in found.values() for c in group] == list(range(classes))


def test_groups_go_by_size_not_by_index_and_ties_by_index() -> None:
    assert groups([5, 50, 5, 500, 5, 50, 1, 1000]) == {
        "many": [7, 3],
        "medium": [1, 5],
        "few": [0, 2],
        "rare": [4, 6],
    }
    assert groups([7] * 5) == {"many": [0, 1], "medium": [2], "few": [3], "rare": [4]}
    assert all(type(c) is int for group in groups([3, 2, 1]).values() for c in group)


def test_group_scores_pool_images_and_empty_groups_are_nan() -> None:
    """Group (0, 1): 7 of 10 images, not the mean 0.625 of its two recalls."""
    found = Scores.of(HAND, 4, {"many": [0, 1], "medium": [3], "few": [2], "rare": []}).groups
    assert (found["many"], found["medium"]) == (0.7, 0.0)
    assert math.isnan(found["few"])
    assert math.isnan(found["rare"])


def test_a_label_of_thousands_of_classes_is_kept_exactly() -> None:
    """The largest data set has 8,142 classes; labels lie in a table of single-precision numbers."""
    labels = torch.arange(8142)
    table = scored(torch.zeros(8142, 8142), labels)
    assert torch.equal(table[:, 0].long(), labels)
    assert Scores.of(table, 8142, {}).per_class == (1.0, *[0.0] * 8141)  # of equal logits the first one wins


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_and_never_waits() -> None:
    logits = torch.randn(1000, 10, generator=torch.Generator().manual_seed(0))
    targets = _random(10, 1000)[1]
    expected = scored(logits, targets)
    table, logits, targets = torch.zeros(1000, 3).cuda(), logits.cuda(), targets.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        table[0:1000] = scored(logits, targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(table[:, :2].cpu(), expected[:, :2])
    torch.testing.assert_close(table.cpu(), expected)


def test_what_became_of_each_image() -> None:
    table = torch.zeros(3, 3)
    table[1:3] = scored(torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]]), torch.tensor([1, 1]))
    table[0:1] = scored(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    assert accuracies.by_image(table) == ByImage([0, 1, 1], [1, 1, 0], [0.5, 0.75, 0.2])
