"""Batches against torchvision, image by image, and their independence of everything but seed, epoch and image."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomCrop
from torchvision.transforms.functional import crop, hflip, normalize, pad, vflip

from tune_lt.config import Augment
from tune_lt.data import Batches
from tune_lt.data.batches import crop_and_flip, draw
from tune_lt.errors import InputError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def _images(n: int = 40, height: int = 8, width: int = 8, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    # No zero among the pixels, so that padding shows.
    return torch.randint(1, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


def _batches(images: Tensor, index: Tensor | None = None, **changes: Any) -> Batches:
    settings: dict[str, Any] = {"batch_size": 16, "mean": MEAN, "std": STD, "augment": Augment(crop=2), "seed": 0}
    index = torch.arange(len(images)) if index is None else index
    return Batches(images, torch.arange(len(images)), index, **{**settings, "device": "cpu", **changes})


def _epoch(batches: Batches, epoch: int = 0) -> tuple[Tensor, Tensor]:
    """All of an epoch; the labels are the images' numbers."""
    x, y = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(x), torch.cat(y)


def _by_image(batches: Batches, epoch: int = 0) -> dict[int, Tensor]:
    x, y = _epoch(batches, epoch)
    return dict(zip(y.tolist(), x, strict=True))


@pytest.mark.parametrize(("height", "width", "padding"), [(8, 8, 2), (9, 12, 4), (8, 11, 0), (8, 8, 11)])
@pytest.mark.parametrize("flip", [True, False])
def test_each_image_is_torchvisions(height: int, width: int, padding: int, flip: bool) -> None:
    """Pad, crop, mirror, scale and normalise one image at a time with the same offsets."""
    images = _images(height=height, width=width)
    batches = _batches(images, augment=Augment(crop=padding, flip=flip), seed=7)
    drawn = draw(7, 3, len(images), padding)
    for number, x in _by_image(batches, 3).items():
        down, right = drawn.offsets[number].tolist()
        expected = crop(pad(images[number], [padding] * 4), down, right, height, width)
        if flip and drawn.flips[number]:
            expected = hflip(expected)
        torch.testing.assert_close(x, normalize(expected / 255, list(MEAN), list(STD)), rtol=1e-5, atol=1e-6)


def test_every_offset_and_flip_of_one_image() -> None:
    image = _images(1, 8, 9)
    for down in range(5):
        for right in range(5):
            for flip in (False, True):
                found = crop_and_flip(image, torch.tensor([[down, right]]), torch.tensor([flip]), 2)[0]
                expected = crop(pad(image[0], [2] * 4), down, right, 8, 9)
                assert torch.equal(found, hflip(expected) if flip else expected)


@pytest.mark.parametrize(("vertical", "rotate"), [(True, False), (False, True), (True, True)])
def test_mirrors_and_turns_follow_the_crop_image_by_image(vertical: bool, rotate: bool) -> None:
    images = _images(60)
    plain = _by_image(_batches(images), 3)
    drawn = draw(0, 3, len(images), 2)
    for number, x in _by_image(_batches(images, augment=Augment(crop=2, vertical=vertical, rotate=rotate)), 3).items():
        expected = vflip(plain[number]) if vertical and drawn.vertical[number] else plain[number]
        expected = torch.rot90(expected, int(drawn.turns[number]), (1, 2)) if rotate else expected
        assert torch.equal(x, expected)
    counts = torch.bincount(2 * drawn.turns + drawn.vertical, minlength=8)
    assert counts.min() > 0
    assert len(counts) == 8


def test_what_only_images_on_disk_or_square_ones_have_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"recipe\.augment\.scale: found \[0\.1, 1\.0\], but these images are in memory"
    ):
        _batches(_images(), augment=Augment(scale=(0.1, 1.0)))
    with pytest.raises(
        InputError, match=r"recipe\.augment\.rotate: images are \(8, 12\); valid: false, or square ones"
    ):
        _batches(_images(width=12), augment=Augment(rotate=True))


def test_later_draws_leave_the_first_ones_as_they_were() -> None:
    """Order, crops and flips of an epoch, as they were before images could be turned."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(b"5/2").digest()[:7], "big"))
    drawn = draw(5, 2, 30, 4)
    assert torch.equal(drawn.rank, torch.randperm(30, generator=generator))
    assert torch.equal(drawn.offsets, torch.randint(0, 9, (30, 2), generator=generator))
    assert torch.equal(drawn.flips, torch.rand(30, generator=generator) < 0.5)


def test_padding_is_black_before_normalisation() -> None:
    batches = _batches(torch.full((30, 3, 8, 8), 255, dtype=torch.uint8))
    black = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)])
    white = torch.tensor([(1 - m) / s for m, s in zip(MEAN, STD, strict=True)])
    x, _ = _epoch(batches)
    for c in range(3):
        values = x[:, c].unique()
        torch.testing.assert_close(values, torch.stack([black[c], white[c]]))


def test_offsets_are_distributed_as_torchvisions() -> None:
    """Chi-squared over the 9 × 9 offsets: ours and RandomCrop's both uniform; flips one half, independent of them."""
    n = 40_000
    drawn = draw(0, 0, n, 4)
    ours = torch.bincount(drawn.offsets[:, 0] * 9 + drawn.offsets[:, 1], minlength=81)
    blank = torch.zeros(1, 40, 40)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [RandomCrop.get_params(blank, (32, 32))[:2] for _ in range(n)]
    reference = torch.bincount(torch.tensor([a * 9 + b for a, b in theirs]), minlength=81)
    for counts in (ours, reference):
        assert len(counts) == 81
        assert float(((counts - n / 81) ** 2 / (n / 81)).sum()) < 140  # 80 degrees of freedom: p < 1e-4
    flipped = torch.bincount(drawn.offsets[drawn.flips, 0], minlength=9)
    assert (flipped - n / 18).abs().max() < 5 * (n / 18) ** 0.5


def test_augmentation_depends_on_seed_epoch_and_image_alone() -> None:
    """Not on the batch size, the order of the index, or which other images are in it."""
    images = _images()
    base = _by_image(_batches(images))
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    for other in (
        _batches(images, batch_size=7),
        _batches(images, batch_size=1000),
        _batches(images, shuffled),
        _batches(images, torch.arange(0, 40, 3)),
    ):
        assert all(torch.equal(x, base[number]) for number, x in _by_image(other).items())
    for changed in (_by_image(_batches(images), 1), _by_image(_batches(images, seed=1))):
        assert sum(torch.equal(x, base[number]) for number, x in changed.items()) < 10


def test_order_is_shuffled_by_seed_and_epoch_not_by_batch_size() -> None:
    images = _images()
    order = _epoch(_batches(images))[1].tolist()
    assert order == _epoch(_batches(images, batch_size=3))[1].tolist()
    assert order == _epoch(_batches(images, torch.arange(39, -1, -1)))[1].tolist()
    others = [_epoch(_batches(images), 1)[1].tolist(), _epoch(_batches(images, seed=1))[1].tolist()]
    for first, second in pairwise([list(range(40)), order, *others]):
        assert sorted(second) == list(range(40))
        assert first != second


def test_first_place_is_uniform() -> None:
    images = _images(8)
    batches = _batches(images, torch.tensor([1, 3, 4, 6]), batch_size=1)
    first = [int(next(batches.epoch(e))[1]) for e in range(800)]
    counts = np.bincount(first, minlength=8)
    assert counts[[0, 2, 5, 7]].sum() == 0
    assert np.abs(counts[[1, 3, 4, 6]] - 200).max() < 5 * (800 * 0.25 * 0.75) ** 0.5


def test_epoch_can_be_asked_again_and_out_of_order() -> None:
    batches = _batches(_images())
    later = _epoch(batches, 5)
    _epoch(batches, 0)
    for found, expected in zip(_epoch(batches, 5), later, strict=True):
        assert torch.equal(found, expected)


def test_evaluation_keeps_order_and_pixels() -> None:
    images = _images()
    index = torch.tensor([5, 3, 30, 31, 0])
    x, y = _epoch(_batches(images, index, augment=None, batch_size=2))
    assert y.tolist() == index.tolist()
    expected = normalize(images[index] / 255, list(MEAN), list(STD))
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-6)
    again, _ = _epoch(_batches(images, index, augment=None, batch_size=2, seed=9), 4)
    assert torch.equal(x, again)


@pytest.mark.parametrize(
    ("n", "size", "evaluation", "training"),
    [
        (10, 4, [4, 4, 2], [4, 4, 2]),
        (8, 4, [4, 4], [4, 4]),
        (3, 8, [3], [3]),
        (9, 4, [4, 4, 1], [4, 5]),
        (3, 2, [2, 1], [3]),
        (3, 1, [1, 1, 1], [1, 1, 1]),
        (1, 4, [1], [1]),
    ],
)
def test_no_image_is_dropped_and_none_trains_alone(
    n: int, size: int, evaluation: list[int], training: list[int]
) -> None:
    for sizes, augment in ((evaluation, None), (training, Augment())):
        batches = _batches(_images(n), batch_size=size, augment=augment)
        assert [(len(x), len(y)) for x, y in batches.epoch(0)] == [(s, s) for s in sizes]
        assert len(batches) == len(sizes)
        assert sorted(_epoch(batches)[1].tolist()) == list(range(n))


def test_types_shapes_and_grey_images() -> None:
    batches = _batches(_images(channels=1, height=9, width=13), mean=(0.5,), std=(0.5,))
    x, y = next(batches.epoch(0))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert x.shape == (16, 1, 9, 13)


def test_source_images_and_global_generators_are_left_alone() -> None:
    images = _images()
    copy, batches = images.clone(), _batches(images)
    states = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for x, _ in batches.epoch(0):
        x.zero_()
    after = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert after == states
    assert torch.equal(images, copy)
    torch.manual_seed(123)
    assert torch.equal(_epoch(batches)[0], _epoch(_batches(images))[0])


def test_impossible_values_are_refused() -> None:
    with pytest.raises(InputError, match="batch_size = 0"):
        _batches(_images(), batch_size=0)
    with pytest.raises(InputError, match="index is empty"):
        _batches(_images(), torch.arange(0))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("augment", [None, Augment()])
@pytest.mark.parametrize("resident", [False, True])
def test_cuda_gives_the_same_and_never_waits(augment: Augment | None, resident: bool) -> None:
    images, index = _images(), torch.arange(1, 40, 2)
    expected = _by_image(_batches(images, index, augment=augment))
    batches = _batches(images.cuda() if resident else images, index, augment=augment, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        parts = list(batches.epoch(0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for x, y in parts:
        assert x.is_cuda
        for image, number in zip(x.cpu(), y.tolist(), strict=True):
            torch.testing.assert_close(image, expected[number])
