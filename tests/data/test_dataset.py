"""The data set as a whole: the digits, the hash, the moments, the registry, what importing costs."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tune_lt import data
from tune_lt.data.dataset import Dataset, content_hashes, moments
from tune_lt.errors import InputError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.build("digits")


def test_digits_seal_fifty_of_each_class_first(digits: Dataset) -> None:
    assert digits.train_images.shape == (1297, 1, 8, 8)
    assert digits.test_images.shape == (500, 1, 8, 8)
    assert digits.train_images.dtype == torch.uint8
    assert torch.bincount(digits.test_labels).tolist() == [50] * 10
    assert digits.class_names == tuple("0123456789")
    assert digits.largest == 120
    assert min(digits.available) >= 120


def test_digits_are_sklearns_each_once(digits: Dataset) -> None:
    bunch = load_digits()
    mine = torch.cat([digits.train_images, digits.test_images]).reshape(-1, 64)
    labels = torch.cat([digits.train_labels, digits.test_labels])
    mine = torch.cat([(mine / (255 / 16)).round().long(), labels[:, None]], 1)
    theirs = np.column_stack([bunch.data, bunch.target]).astype(int)
    assert sorted(mine.tolist()) == sorted(theirs.tolist())
    assert digits.train_images.unique().tolist() == [round(v * 255 / 16) for v in range(17)]


def test_digits_are_the_same_whatever_the_global_state(digits: Dataset) -> None:
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    torch.manual_seed(5)
    assert data.build("digits").content_hash == digits.content_hash


@pytest.mark.parametrize("shape", [(50, 3, 5, 7), (3, 2, 1300, 1301)])  # the large ones are counted two at a time
def test_moments_are_numpys(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] //= 3
    mean, std = moments(images)
    scaled = images.numpy() / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_can_be_divided_by() -> None:
    assert moments(torch.full((4, 1, 8, 8), 200, dtype=torch.uint8))[1] == (1.0,)


def test_moments_are_those_of_the_training_images(digits: Dataset) -> None:
    assert (digits.mean, digits.std) == moments(digits.train_images)


def _pieces() -> dict[str, torch.Tensor]:
    images = torch.arange(4 * 64, dtype=torch.int64).to(torch.uint8).view(4, 1, 8, 8)
    return {
        "train_images": images,
        "train_labels": torch.tensor([0, 0, 1, 1]),
        "test_images": images[:2].clone(),
        "test_labels": torch.tensor([0, 1]),
    }


def test_hash_sees_every_part() -> None:
    base = Dataset.of(**_pieces(), class_names=["a", "b"])
    assert Dataset.of(**_pieces(), class_names=["a", "b"]).content_hash == base.content_hash
    assert len(base.content_hash) == 64
    seen = {base.content_hash, Dataset.of(**_pieces(), class_names=["a", "c"]).content_hash}
    for name in _pieces():
        changed = _pieces()
        changed[name] = changed[name].clone()
        changed[name].view(-1)[0] = 1
        other = Dataset.of(**changed, class_names=["a", "b"])
        seen.add(other.content_hash)
        assert (other.hashes.training == base.hashes.training) == name.startswith("test"), name
    assert len(seen) == 6


def test_hash_sees_all_that_changes_a_result() -> None:
    base = Dataset.of(**_pieces(), class_names=["a", "b"])
    others = [Dataset.of(**_pieces(), class_names=["a", "b"], largest=largest) for largest in (1, 2)]
    others += [
        dataclasses.replace(base, mean=(0.1,) * len(base.mean)),
        dataclasses.replace(base, std=(2.0,) * len(base.std)),
    ]
    assert len({dataset.content_hash for dataset in (base, *others)}) == 5


def test_hash_sees_shapes_and_layout_does_not_matter() -> None:
    wide, tall = (torch.zeros(shape, dtype=torch.uint8) for shape in ((1, 1, 8, 16), (1, 1, 16, 8)))
    assert content_hashes(wide, description=["a"]) != content_hashes(tall, description=["a"])
    images = torch.arange(192, dtype=torch.uint8).view(1, 3, 8, 8)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert content_hashes(strided, description=["a"]) == content_hashes(images, description=["a"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train_images", torch.zeros(4, 1, 8, 8), "training images must be uint8"),
        ("test_images", torch.zeros(2, 8, 8, dtype=torch.uint8), "test images must be uint8"),
        ("test_images", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "but test images are"),
        ("test_images", torch.zeros(0, 1, 8, 8, dtype=torch.uint8), "not empty"),
        ("train_labels", torch.tensor([0, 0, 1]), r"labels must be int64 \(4,\)"),
        ("train_labels", torch.tensor([0, 0, 1, 2]), "from 0 to 2"),
        ("test_labels", torch.tensor([-1, 1]), "from -1 to 1"),
        ("train_labels", torch.tensor([1, 1, 1, 1]), "no training image of class 'a'"),
    ],
)
def test_a_loader_that_gets_it_wrong_is_told(name: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dataset.of(**{**_pieces(), name: value}, class_names=["a", "b"])


def test_dataset_is_frozen_and_checked_when_replaced(digits: Dataset) -> None:
    with pytest.raises(FrozenInstanceError):
        digits.largest = 3  # type: ignore[misc]
    with pytest.raises(InputError, match="largest = 0"):
        replace(digits, largest=0)


def test_registry() -> None:
    small = {"cifar10", "cifar100", "digits", "image_folder", "tiny_imagenet", "tiny_imagenet_200"}
    assert set(data.DATASETS) >= small | {"imagenet", "inaturalist2017", "inaturalist2018"}
    with pytest.raises(InputError, match="did you mean 'digits'"):
        data.build("digit")
    with pytest.raises(InputError, match="did you mean 'size'"):
        data.build("image_folder", root=".", sice=32)
    with pytest.raises(InputError, match="size = 7"):
        data.build("image_folder", root=".", size=7)
    with pytest.raises(InputError, match="corrupt = 'ignore'"):
        data.build("image_folder", root=".", corrupt="ignore")
    with pytest.raises(InputError, match="exists already"):
        data.register("digits")(lambda: None)

    @data.register("mine")
    def mine(*, side: int = 8) -> Dataset:
        return Dataset.of(**_pieces(), class_names=["a", "b"], largest=side)

    assert data.build("mine", side=9).largest == 9
