"""Metrics against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, recall_score
from torch import Tensor

from tune_lt.documents import ByImage
from tune_lt.training import accuracies
from tune_lt.training.accuracies import Scores, groups, tally

# Right predictions and images of each class. Class 2 has no images.
HAND = torch.tensor([[6, 8], [1, 2], [0, 0], [0, 4]])


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
    found = tally(predictions, targets, classes)
    assert found.dtype == torch.int64
    matrix = confusion_matrix(targets, predictions, labels=range(classes))
    np.testing.assert_array_equal(found, np.stack([matrix.diagonal(), matrix.sum(axis=1)], axis=1))
    scores = Scores.of(found, {})
    assert scores.top1 == pytest.approx(accuracy_score(targets, predictions))
    assert scores.balanced == pytest.approx(balanced_accuracy_score(targets, predictions))
    expected = recall_score(targets, predictions, labels=range(classes), average=None, zero_division=np.nan)
    np.testing.assert_allclose(scores.per_class, expected)


def test_groups_against_scikit_learn() -> None:
    predictions, targets = _random(10, 2000)
    for name, classes in groups(torch.bincount(targets, minlength=10).tolist()).items():
        chosen = torch.isin(targets, torch.tensor(classes))
        found = Scores.of(tally(predictions, targets, 10), {name: classes})
        assert found.groups[name] == pytest.approx(accuracy_score(targets[chosen], predictions[chosen]))


def test_by_hand() -> None:
    scores = Scores.of(HAND, {})
    assert (scores.top1, scores.balanced) == (7 / 14, pytest.approx((6 / 8 + 1 / 2 + 0) / 3))
    assert scores.per_class == (0.75, 0.5, pytest.approx(math.nan, nan_ok=True), 0.0)


def test_batches_add_up() -> None:
    predictions, targets = _random(5, 100)
    parts = [tally(p, t, 5) for p, t in zip(predictions.split(33), targets.split(33), strict=True)]
    assert torch.equal(sum(parts), tally(predictions, targets, 5))  # type: ignore[arg-type]


def test_an_image_counts_for_its_target_not_for_what_was_predicted() -> None:
    assert tally(torch.tensor([2, 1]), torch.tensor([0, 1]), 3).tolist() == [[0, 1], [1, 1], [0, 0]]


def test_nothing_scored_is_not_zero() -> None:
    empty = tally(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 3)
    assert empty.tolist() == [[0, 0]] * 3
    scores = Scores.of(empty, {"many": [0, 1]})
    assert all(map(math.isnan, [scores.top1, scores.balanced, *scores.groups.values(), *scores.per_class]))


def test_a_class_that_does_not_exist_lands_in_no_other_row() -> None:
    with pytest.raises(IndexError):
        tally(torch.tensor([0]), torch.tensor([3]), 3)
    assert tally(torch.tensor([3]), torch.tensor([0]), 3).tolist() == [[0, 1], [0, 0], [0, 0]]


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="must be"):
        tally(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), 3)


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


def test_group_scores_pool_images_and_leave_empty_groups_out() -> None:
    """Group (0, 1): 7 of 10 images, not the mean 0.625 of its two recalls."""
    found = Scores.of(HAND, {"many": [0, 1], "medium": [3], "few": [2], "rare": []}).groups
    assert (found["many"], found["medium"]) == (0.7, 0.0)
    assert math.isnan(found["few"])
    assert math.isnan(found["rare"])


def test_inputs_are_left_alone_and_readers_take_any_integer_type() -> None:
    before = HAND.clone()
    Scores.of(HAND, groups([8, 2, 1, 4]))
    assert torch.equal(HAND, before)
    small = tally(torch.tensor([1, 0], dtype=torch.int32), torch.tensor([1, 1], dtype=torch.uint8), 2)
    assert small.tolist() == [[0, 0], [1, 2]]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_and_never_waits() -> None:
    predictions, targets = _random(10, 1000)
    expected = tally(predictions, targets, 10)
    predictions, targets = predictions.cuda(), targets.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = tally(predictions, targets, 10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.is_cuda
    assert torch.equal(found.cpu(), expected)


def test_what_became_of_each_image() -> None:
    seen = accuracies.ImageScores(3, torch.device("cpu"))
    seen.add(slice(1, 3), torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]]), torch.tensor([1, 1]))
    seen.add(slice(0, 1), torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    assert seen.content() == ByImage([0, 1, 1], [1, 1, 0], [0.5, 0.75, 0.2])
