"""Long-tailed sub-sampling, the hold-out and folds: counts, separation, determinism, no global state."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from tune_lt import data
from tune_lt.data import CellData, Dataset, cell_data, exponential
from tune_lt.data.sampling import seal, set_aside
from tune_lt.errors import InputError


def _dataset(counts: list[int], largest: int | None = None, seed: int = 0, side: int = 8) -> Dataset:
    """A data set of noise with these many training images per class, in shuffled order."""
    generator = np.random.default_rng(seed)
    labels = torch.from_numpy(generator.permutation(np.repeat(np.arange(len(counts)), counts)))
    images = torch.from_numpy(generator.integers(0, 256, (len(labels), 1, side, side), dtype=np.uint8))
    names = [f"class {c}" for c in range(len(counts))]
    return Dataset.of(images, labels, images[:1], labels[:1], names, largest=largest)


def _cell(dataset: Dataset, **changes: object) -> CellData:
    settings = {"imbalance": 20, "profile": "exponential", "data_seed": 0, "holdout": None}
    return cell_data(dataset, **{**settings, **changes})  # type: ignore[arg-type]


def _counts(dataset: Dataset, index: torch.Tensor) -> list[int]:
    return torch.bincount(dataset.train_labels[index], minlength=len(dataset.class_names)).tolist()


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.build("digits")


def test_digits_at_imbalance_20(digits: Dataset) -> None:
    """The head has 120, the tail 6."""
    cell = _cell(digits)
    assert cell.class_counts == cell.split_counts == exponential(120, 20, 10)
    assert _counts(digits, cell.train_index) == cell.class_counts
    assert cell.val_index is None
    assert cell.unvalidated == ()


def test_index_is_sorted_int64_without_repeats(digits: Dataset) -> None:
    cell = _cell(digits, holdout=0.2)
    assert cell.val_index is not None
    for index in (cell.train_index, cell.val_index):
        assert index.dtype == torch.int64
        assert (index.diff() > 0).all()


def test_holdout_splits_the_same_subsample(digits: Dataset) -> None:
    whole, part = _cell(digits), _cell(digits, holdout=0.2)
    assert part.val_index is not None
    joined = torch.cat([part.train_index, part.val_index]).sort().values
    assert torch.equal(joined, whole.train_index)
    assert part.split_counts == whole.class_counts
    assert _counts(digits, part.train_index) == part.class_counts
    held = _counts(digits, part.val_index)
    assert held == [math.floor(0.2 * n + 0.5) for n in whole.class_counts]
    assert [a + b for a, b in zip(held, part.class_counts, strict=True)] == part.split_counts


@pytest.mark.parametrize(
    ("count", "fraction", "aside"),
    [
        (1, 0.2, 0),
        (2, 0.2, 1),
        (2, 0.9, 1),
        (3, 0.2, 1),
        (3, 0.99, 2),
        (5, 0.1, 1),
        (10, 0.25, 3),
        (5, 0.3, 2),
        (7, 0.2, 1),
        (8, 0.2, 2),
        (100, 0.2, 20),
        (1, 0.99, 0),
        (0, 0.5, 0),
        (45, 0.7, 32),
        (25, 0.58, 15),
    ],
)
def test_set_aside_rounds_half_up_and_leaves_one(count: int, fraction: float, aside: int) -> None:
    """0.7 · 45 is 31.5 and 0.58 · 25 is 14.5, but less in floating point."""
    positions = np.arange(100, 100 + count)
    held, kept = set_aside(positions, fraction, np.random.default_rng(0))
    assert len(held) == aside
    assert sorted([*held, *kept]) == positions.tolist()


def test_single_images_stay_in_training() -> None:
    dataset = _dataset([40, 1, 2, 1, 9])
    cell = _cell(dataset, imbalance=None, holdout=0.5)
    assert cell.val_index is not None
    assert cell.unvalidated == (1, 3)
    assert cell.class_counts == [20, 1, 1, 1, 4]
    assert _counts(dataset, cell.val_index) == [20, 0, 1, 0, 5]


def test_only_single_images_leave_no_validation_at_all() -> None:
    cell = _cell(_dataset([1, 1]), imbalance=None, holdout=0.5)
    assert cell.val_index is not None
    assert len(cell.val_index) == 0
    assert cell.unvalidated == (0, 1)


def test_no_imbalance_keeps_every_image() -> None:
    dataset = _dataset([5, 30, 9], largest=4)
    cell = _cell(dataset, imbalance=None)
    assert cell.train_index.tolist() == list(range(44))
    assert cell.class_counts == [5, 30, 9]


def test_counts_are_what_there_is_where_the_profile_asks_for_more() -> None:
    """100, 46, 21, 10 wanted; the paper's code records the wanted number."""
    dataset = _dataset([100, 20, 50, 3])
    cell = _cell(dataset, imbalance=10)
    assert cell.class_counts == [100, 20, 21, 3]
    assert _counts(dataset, cell.train_index) == [100, 20, 21, 3]


def test_head_is_capped_by_largest_and_by_what_there_is() -> None:
    assert _cell(_dataset([100, 100], largest=60), imbalance=2).class_counts == [60, 30]
    assert _cell(_dataset([40, 100], largest=60), imbalance=2).class_counts == [40, 20]
    assert _cell(_dataset([40, 100]), imbalance=2).class_counts == [40, 20]


def test_step_profile(digits: Dataset) -> None:
    assert _cell(digits, profile="step").class_counts == [120] * 5 + [6] * 5


def test_smaller_imbalance_only_adds_images(digits: Dataset) -> None:
    few, many = (set(_cell(digits, imbalance=i).train_index.tolist()) for i in (50, 10))
    assert few < many


def test_seed_decides_subsample_and_holdout(digits: Dataset) -> None:
    first, again, other = (_cell(digits, data_seed=s, holdout=0.2) for s in (3, 3, 4))
    assert torch.equal(first.train_index, again.train_index)
    assert torch.equal(first.val_index, again.val_index)
    assert not torch.equal(first.train_index, other.train_index)
    dataset = _dataset([20, 20])  # nothing to sub-sample: only the hold-out can differ
    assert not torch.equal(*(_cell(dataset, imbalance=None, data_seed=s, holdout=0.5).val_index for s in (0, 1)))


def _public(labels: list[int], classes: int, factor: float, seed: int) -> list[int]:
    """What the recipe of LDAM-DRW keeps, restated: its counts, its global generator, class after class.

    ``factor`` is images of the smallest class / of the largest, as it is given there.
    """
    members: list[list[int]] = [[] for _ in range(classes)]
    for position, label in enumerate(labels):
        members[label].append(position)
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    kept: list[int] = []
    for c in range(classes):
        wanted = int(len(labels) / classes * factor ** (c / (classes - 1.0)))
        own = np.array(members[c])
        np.random.shuffle(own)  # noqa: NPY002
        kept += own[:wanted].tolist()
    np.random.set_state(before)  # noqa: NPY002
    return sorted(kept)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(("imbalance", "factor"), [(10, 0.1), (50, 0.02), (100, 0.01), (200, 0.005), (500, 0.002)])
def test_the_subsample_is_the_public_one_image_by_image(classes: int, imbalance: float, factor: float) -> None:
    """As many labels as CIFAR-10 and -100 have, mixed as theirs are; 2³² − 1 is the largest seed."""
    dataset = _dataset([50_000 // classes] * classes, side=1)
    for seed in (0, 1, 123, 2**32 - 1):
        expected = _public(dataset.train_labels.tolist(), classes, factor, seed)
        assert _cell(dataset, imbalance=imbalance, data_seed=seed).train_index.tolist() == expected


def test_head_bounds_the_largest_class() -> None:
    dataset = _dataset([100, 90, 80, 3], largest=60)
    assert _cell(dataset, imbalance=10, largest=40).class_counts == [*exponential(40, 10, 4)[:3], 3]
    assert _cell(dataset, imbalance=10, largest=70).class_counts == [*exponential(60, 10, 4)[:3], 3]
    assert _cell(dataset, imbalance=None, largest=40).class_counts == [40, 40, 40, 3]
    assert _cell(dataset, imbalance=None, largest=95).class_counts == [95, 90, 80, 3]
    assert _cell(dataset, imbalance=10, largest=40, profile="step").class_counts == [40, 40, 4, 3]


@pytest.mark.parametrize("imbalance", [None, 10])
def test_a_smaller_head_only_takes_images_away(imbalance: float | None) -> None:
    dataset = _dataset([100, 90, 80, 30])
    few, many = (set(_cell(dataset, imbalance=imbalance, largest=n).train_index.tolist()) for n in (20, 60))
    assert few < many < set(_cell(dataset, imbalance=imbalance).train_index.tolist())


def test_subsample_is_uniform_over_the_images() -> None:
    """Each of 20 images is among the 5 kept in a quarter of 400 seeds; 6 standard deviations are allowed."""
    dataset = _dataset([20, 20])
    hits = np.zeros(40)
    for seed in range(400):
        hits[_cell(dataset, imbalance=4, data_seed=seed).train_index] += 1
    tail = hits[dataset.train_labels.numpy() == 1]
    assert np.abs(tail - 100).max() < 6 * math.sqrt(400 * 0.25 * 0.75)


def test_global_generators_are_neither_read_nor_moved(digits: Dataset) -> None:
    def states() -> tuple[object, ...]:
        numpy_state = np.random.get_state()  # noqa: NPY002
        return random.getstate(), numpy_state[1].tolist(), numpy_state[2], torch.get_rng_state().tolist()

    first = _cell(digits, holdout=0.2)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = states()
    second = _cell(digits, holdout=0.2)
    assert states() == before
    assert torch.equal(first.train_index, second.train_index)


def test_seal_takes_a_fifth_and_ignores_other_classes() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 1, 2, 8])
    test, train = seal(labels, 4, 0.2)
    assert np.bincount(labels[test], minlength=4).tolist() == [10, 0, 1, 2]
    assert sorted([*test, *train]) == list(range(61))
    more, _ = seal(np.append(labels, [3] * 30), 4, 0.2)
    assert more[more < 53].tolist() == test[test < 53].tolist()


def _folds(dataset: Dataset, folds: int, **changes: object) -> list[CellData]:
    return [_cell(dataset, fold=(k, folds), **changes) for k in range(1, folds + 1)]


def _held(cells: list[CellData]) -> list[list[int]]:
    assert all(cell.val_index is not None for cell in cells)
    return [cell.val_index.tolist() for cell in cells if cell.val_index is not None]


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_partition_the_same_subsample(digits: Dataset, folds: int) -> None:
    whole, cells = _cell(digits), _folds(digits, folds)
    held = _held(cells)
    assert sorted(position for fold in held for position in fold) == whole.train_index.tolist()
    for cell, aside in zip(cells, held, strict=True):
        assert sorted([*aside, *cell.train_index.tolist()]) == whole.train_index.tolist()
        assert (cell.train_index.dtype, cell.val_index.dtype) == (torch.int64, torch.int64)
        assert (cell.train_index.diff() > 0).all()
        assert (cell.val_index.diff() > 0).all()
        assert cell.split_counts == whole.class_counts
        assert cell.class_counts == _counts(digits, cell.train_index)
        assert cell.unvalidated == tuple(c for c, n in enumerate(_counts(digits, cell.val_index)) if n == 0)


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_are_balanced_within_and_over_classes(folds: int) -> None:
    """Each class gives every fold n // K or one more; all classes together as well; a class of 1 gives nothing."""
    counts = [40, 1, 2, 3, 1, 9, 2, 2, 2, 5]
    dataset = _dataset(counts)
    for seed in range(20):
        cells = _folds(dataset, folds, imbalance=None, data_seed=seed)
        by_class = np.array([_counts(dataset, cell.val_index) for cell in cells])
        for c, n in enumerate(counts):
            dealt = n if n > 1 else 0
            assert by_class[:, c].sum() == dealt
            assert set(by_class[:, c]) <= {dealt // folds, dealt // folds + 1}
        assert np.ptp(by_class.sum(axis=1)) <= 1
        assert all(min(cell.class_counts) >= 1 for cell in cells)
        assert all({1, 4} <= set(cell.unvalidated) for cell in cells)


def test_small_classes_do_not_meet_in_the_first_fold() -> None:
    """Four classes of 2 in 5 folds: 8 images, of which no fold holds more than two."""
    dataset = _dataset([2, 2, 2, 2])
    for seed in range(10):
        assert sorted(map(len, _held(_folds(dataset, 5, imbalance=None, data_seed=seed)))) == [1, 1, 2, 2, 2]


def test_a_class_smaller_than_the_folds_changes_folds_with_the_seed(digits: Dataset) -> None:
    """The 6 images of the digit 9 in 5 folds: the fold that holds two of them is not always the same."""
    double = {
        next(k for k, cell in enumerate(_folds(digits, 5, data_seed=seed)) if _counts(digits, cell.val_index)[9] == 2)
        for seed in range(30)
    }
    assert double == set(range(5))


def test_each_image_is_in_each_fold_equally_often() -> None:
    """400 seeds, 3 folds: an image is in the first in a third of them; 6 standard deviations are allowed."""
    dataset = _dataset([7, 5])
    hits = np.zeros(12)
    for seed in range(400):
        hits[_cell(dataset, imbalance=None, data_seed=seed, fold=(1, 3)).val_index] += 1
    assert np.abs(hits - 400 / 3).max() < 6 * math.sqrt(400 * (1 / 3) * (2 / 3))


def test_folds_have_a_stream_of_their_own(digits: Dataset) -> None:
    before = _cell(digits, holdout=0.2)
    first, again, other = (_held(_folds(digits, 5, data_seed=s)) for s in (3, 3, 4))
    assert first == again
    assert first != other
    after = _cell(digits, holdout=0.2)
    assert torch.equal(before.val_index, after.val_index)
    dataset = _dataset([10, 10])  # half of each class either way: the same images only if the stream were the same
    fold, holdout = _cell(dataset, imbalance=None, fold=(1, 2)), _cell(dataset, imbalance=None, holdout=0.5)
    assert not torch.equal(fold.val_index, holdout.val_index)


def test_more_folds_than_images_leave_some_empty() -> None:
    cells = _folds(_dataset([2, 1]), 5, imbalance=None)
    assert sorted(map(len, _held(cells))) == [0, 0, 0, 1, 1]
    assert {cell.unvalidated for cell in cells} == {(0, 1), (1,)}
    assert all(cell.class_counts in ([2, 1], [1, 1]) for cell in cells)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"holdout": 0}, "holdout = 0"),
        ({"holdout": 1.0}, "holdout = 1.0"),
        ({"holdout": math.nan}, "holdout = nan"),
        ({"holdout": "0.2"}, "holdout = '0.2'"),
        ({"imbalance": 0.5}, "imbalance = 0.5"),
        ({"imbalance": 0}, "imbalance = 0"),
        ({"imbalance": math.inf}, "imbalance = inf"),
        ({"imbalance": math.nan}, "imbalance = nan"),
        ({"imbalance": "10"}, "imbalance = '10'"),
        ({"imbalance": 0.5, "profile": "step"}, "imbalance = 0.5"),
        ({"profile": "exponental"}, "did you mean 'exponential'"),
        ({"data_seed": -1}, "data_seed = -1"),
        ({"data_seed": 0.5}, "data_seed = 0.5"),
        ({"data_seed": 2**32}, "data_seed = 4294967296"),
        ({"largest": 0}, "largest = 0"),
        ({"largest": 1.5}, "largest = 1.5"),
        ({"largest": -5}, "largest = -5"),
        ({"largest": True}, "largest = True"),
        ({"fold": (0, 5)}, r"fold = \(0, 5\)"),
        ({"fold": (6, 5)}, r"fold = \(6, 5\)"),
        ({"fold": (1, 1)}, "K of at least 2"),
        ({"fold": (1, 5), "holdout": 0.2}, "only one of them"),
    ],
)
def test_impossible_values_are_named(digits: Dataset, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _cell(digits, **changes)


@pytest.mark.parametrize("aside", [{}, {"holdout": 0.2}, {"fold": (2, 5)}])
def test_a_bootstrap_draws_training_images_again_and_held_out_ones_never(aside: dict[str, object]) -> None:
    """As many of each class as before, from the same images; of a class of 400 about 1 − 1/e = 63.2 % come up."""
    dataset = _dataset([500, 60, 7, 1])
    plain, drawn = (_cell(dataset, imbalance=None, resample=again, **aside) for again in (False, True))
    assert (drawn.class_counts, drawn.split_counts) == (plain.class_counts, plain.split_counts)
    assert _counts(dataset, drawn.train_index) == plain.class_counts
    assert (drawn.train_index.diff() >= 0).all()
    assert set(drawn.train_index.tolist()) < set(plain.train_index.tolist())
    if aside:
        assert drawn.val_index is not None
        assert plain.val_index is not None
        assert drawn.val_index.equal(plain.val_index)
        assert not set(drawn.train_index.tolist()) & set(drawn.val_index.tolist())
    largest = drawn.train_index[dataset.train_labels[drawn.train_index] == 0]
    assert len(largest.unique()) / len(largest) == pytest.approx(0.632, abs=0.06)  # four standard deviations


def test_each_data_seed_has_a_bootstrap_of_its_own_and_each_image_its_chance() -> None:
    """Of 300 draws of 20 images, each image is in 300 on average, with a standard deviation of √300 = 17.3."""
    dataset = _dataset([20, 20])
    draws = [_cell(dataset, imbalance=None, resample=True, data_seed=seed).train_index for seed in range(300)]
    assert draws[0].equal(_cell(dataset, imbalance=None, resample=True).train_index)
    assert not draws[0].equal(draws[1])
    times = torch.bincount(torch.cat(draws), minlength=40)
    assert times.min() > 300 - 4 * 17.3
    assert times.max() < 300 + 4 * 17.3


def test_of_sealed_images_the_first_of_each_class_are_scored() -> None:
    digits = data.build("digits")
    few = data.cell_data(digits, imbalance=20, data_seed=3, sealed=2).test_index
    seen: dict[int, int] = {}
    expected = []
    for position, label in enumerate(digits.test_labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= 2:
            expected.append(position)
    assert few.tolist() == expected
    whole = data.cell_data(digits, imbalance=20, data_seed=3)
    assert torch.equal(whole.test_index, torch.arange(len(digits.test_labels)))
    limited = data.cell_data(digits, imbalance=20, data_seed=3, sealed=2)
    assert torch.equal(whole.train_index, limited.train_index)
