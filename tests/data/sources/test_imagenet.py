"""ImageNet in each layout people have it in, and ImageNet-LT's lists: a small one of the true form."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from tune_lt import data
from tune_lt.data import Dataset
from tune_lt.data.sources.imagenet import _load
from tune_lt.errors import InputError

WNIDS = ["n01440764", "n01443537", "n02084071"]
COUNTS = [6, 3, 1]
LABELS = [2, 0, 1, 0]  # of the validation images, by their numbers
PUBLISHED = (3, 10, 4)


def _save(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40), (level,) * 3).save(path)


@pytest.fixture
def foldered(tmp_path: Path) -> Path:
    """``val`` in class folders; the grey of an image tells its class."""
    for label, (wnid, count) in enumerate(zip(WNIDS, COUNTS, strict=True)):
        for number in range(count):
            _save(tmp_path / f"train/{wnid}/{wnid}_{10 * number}.JPEG", 60 * label)
    for number, label in enumerate(LABELS, start=1):
        _save(tmp_path / f"val/{WNIDS[label]}/ILSVRC2012_val_{number:08d}.JPEG", 60 * label)
    return tmp_path


def _flatten(root: Path) -> Path:
    for path in list((root / "val").rglob("*.JPEG")):
        path.rename(root / "val" / path.name)
    for wnid in WNIDS:
        (root / "val" / wnid).rmdir()
    return root


def _devkit(root: Path) -> Path:
    """meta.mat as it is: ids in an order of their own, inner nodes of WordNet after the classes."""
    folder = root / "ILSVRC2012_devkit_t12/data"
    folder.mkdir(parents=True)
    ids = {WNIDS[1]: 1, WNIDS[2]: 2, WNIDS[0]: 3, "n00001740": 4}
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O"), ("children", "O")]
    rows = [(number, wnid, "a, b", int(number > 3), np.arange(3)) for wnid, number in ids.items()]
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=fields)[:, None]})
    lines = "".join(f"{ids[WNIDS[label]]}\n" for label in LABELS)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    return folder


def _levels(images: Any) -> list[int]:
    return (images[:][:, 0, 16, 16].float() / 60).round().long().tolist()


def _check(found: Dataset) -> None:
    assert found.class_names == tuple(WNIDS)
    assert found.available == COUNTS
    assert _levels(found.train_images) == found.train_labels.tolist()
    assert _levels(found.test_images) == found.test_labels.tolist()
    assert sorted(found.test_labels.tolist()) == sorted(LABELS)
    assert found.train_images.shape[1:] == (3, 32, 32)


def test_validation_images_in_class_folders(foldered: Path) -> None:
    (foldered / "train" / WNIDS[0] / "notes.txt").write_text("no image")
    (foldered / "val" / ".DS_Store").write_text("x")
    _check(_load(foldered, 32, None, PUBLISHED))


def test_validation_images_as_the_archive_has_them_get_their_class_from_the_devkit(foldered: Path) -> None:
    _devkit(_flatten(foldered))
    found = _load(foldered, 32, None, PUBLISHED)
    _check(found)
    assert found.test_labels.tolist() == LABELS


def test_without_the_devkit_or_with_another_one(foldered: Path) -> None:
    folder = _devkit(_flatten(foldered))
    truth = folder / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n")
    with pytest.raises(InputError, match=r"val/ has 4 images, but .* has 2 lines"):
        _load(foldered, 32, None, PUBLISHED)
    truth.write_text("1\n2\n9\n1\n")
    with pytest.raises(InputError, match="damaged, or not of the images in train/: KeyError: 9"):
        _load(foldered, 32, None, PUBLISHED)
    (folder / "meta.mat").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged, or not"):
        _load(foldered, 32, None, PUBLISHED)
    (folder / "meta.mat").unlink()
    with pytest.raises(InputError, match=r"get ILSVRC2012_devkit_t12\.tar\.gz from https://image-net\.org"):
        _load(foldered, 32, None, PUBLISHED)


def test_a_long_tail_is_laid_over_the_whole_but_not_over_the_lists(foldered: Path) -> None:
    whole = _load(foldered, 32, None, PUBLISHED)
    options: dict[str, Any] = {"imbalance": 6.0, "profile": "exponential", "data_seed": 0}
    assert data.cell_data(whole, **options).class_counts == [6, 2, 1]
    listed = _load(foldered, 32, _lists(foldered), (3, 4, 4))
    with pytest.raises(InputError, match=r"data\.imbalance: found 6\.0, but this data set is a long tail as it comes"):
        data.cell_data(listed, **options)
    assert data.cell_data(listed, **options | {"imbalance": None}).class_counts == [2, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train", r"train missing; .*ILSVRC2012_img_train\.tar.*https://image-net\.org"),
        ("val", "val missing; "),
        (f"val/{WNIDS[1]}", "same class folders; only in train/: n01443537"),
        (f"train/{WNIDS[0]}/{WNIDS[0]}_0.JPEG", "found 9 training images, published: 10"),
    ],
)
def test_what_is_missing_is_said_with_where_to_get_it(foldered: Path, change: str, message: str) -> None:
    path = foldered / change
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message):
        _load(foldered, 32, None, PUBLISHED)


def test_the_published_totals_are_expected(foldered: Path) -> None:
    with pytest.raises(InputError, match="found 3 classes, published: 1,000; 10 training images, published: 1,281,167"):
        data.build("imagenet", root=str(foldered))
    _lists(foldered)
    with pytest.raises(InputError, match="lists: found 3 classes, published: 1,000"):
        data.build("imagenet", root=str(foldered), lists="lists")


def _lists(root: Path) -> str:
    """OLTR's: a part of the training images in an order of their own, every validation image."""
    (root / "lists").mkdir()
    train = [(2, 0), (0, 50), (1, 20), (0, 10)]
    lines = [f"train/{WNIDS[label]}/{WNIDS[label]}_{number}.JPEG {label}" for label, number in train]
    (root / "lists/ImageNet_LT_train.txt").write_text("\n".join(lines) + "\n")
    lines = [f"val/{WNIDS[c]}/ILSVRC2012_val_{number:08d}.JPEG {c}" for number, c in enumerate(LABELS, start=1)]
    (root / "lists/ImageNet_LT_test.txt").write_text("\n".join(lines) + "\n")
    return "lists"


@pytest.mark.parametrize("flat", [False, True])
def test_the_lists_say_which_images_in_which_order(foldered: Path, flat: bool) -> None:
    lists = _lists(_flatten(foldered) if flat else foldered)
    found = _load(foldered, 32, lists, (3, 4, 4))
    assert found.train_labels.tolist() == _levels(found.train_images) == [2, 0, 1, 0]
    assert found.test_labels.tolist() == _levels(found.test_images) == LABELS
    assert found.class_names == tuple(WNIDS)
    assert found.long_tailed
    assert found.train_images.path(1).name == f"{WNIDS[0]}_50.JPEG"  # type: ignore[union-attr]
    elsewhere = _load(foldered, 32, str(foldered / "lists"), (3, 4, 4))
    assert torch.equal(elsewhere.train_labels, found.train_labels)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/n02084071/n02084071_0.JPEG", r"ImageNet_LT_train\.txt: line 5: found 'train/n02084071"),
        ("train/n02084071/n02084071_0.JPEG 1", r"n02084071_0\.JPEG is listed as of class 1, which is n01443537"),
        ("train/n02084071/n02084071_7.JPEG 2", r"1 of \d files cannot be used .*: train/n02084071/n02084071_7\.JPEG"),
    ],
)
def test_a_list_that_does_not_fit_is_named(foldered: Path, line: str, message: str) -> None:
    lists = _lists(foldered)
    with (foldered / "lists/ImageNet_LT_train.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=message):
        _load(foldered, 32, lists, (3, 5, 4))


def test_a_missing_list_is_said_with_where_to_get_it(foldered: Path) -> None:
    lists = _lists(foldered)
    (foldered / "lists/ImageNet_LT_test.txt").unlink()
    with pytest.raises(InputError, match=r"get ImageNet_LT_train\.txt and ImageNet_LT_test\.txt from https://github"):
        _load(foldered, 32, lists, (3, 4, 4))
