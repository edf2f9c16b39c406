"""ImageNet (ILSVRC 2012), and ImageNet-LT from the lists of its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tune_lt.data.dataset import Dataset
from tune_lt.data.files import ImageFiles, Listing, Side, check_below, list_folders
from tune_lt.data.sources.published_sizes import Sums
from tune_lt.errors import InputError
from tune_lt.texts import some

_PAGE = "https://image-net.org/challenges/LSVRC/2012/"
_LT_PAGE = "https://github.com/zhmiao/OpenLongTailRecognition-OLTR"
_DEVKIT = "ILSVRC2012_devkit_t12/data"
Split = tuple[list[str], list[int]]  # paths below the root, and the classes of the images there


def imagenet(*, root: str, size: Side = 224, lists: str | None = None) -> Dataset:
    """ImageNet, ILSVRC 2012: 1,000 classes, 1,281,167 training images, the 50,000 validation images as the test.

    ``root`` holds ``train/<class>/*.JPEG`` and ``val/``, either with the same class folders or with the 50,000 files
    as the archive has them, of which the development kit beside it (``ILSVRC2012_devkit_t12/``) then tells the class.
    Classes are in the order of their WordNet ids, the first is the head of a long-tailed profile. Images stay on disk
    and are read in every epoch, (3, size, size).

    ``lists``: a folder (relative to ``root``, or absolute) with ``ImageNet_LT_train.txt`` and ``ImageNet_LT_test.txt``
    of Liu et al. 2019 (OLTR): training images are then exactly the 115,846 of the first, 1,280 down to 5 a class.

    Source: O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
    Raises InputError naming what is missing or damaged, and where to get it.
    """
    if lists is None:
        return _whole(Path(root).expanduser(), size, Sums(1000, 1_281_167, 50_000))
    return _listed(Path(root).expanduser(), size, lists, Sums(1000, 115_846, 50_000))


def _whole(root: Path, size: int, totals: Sums) -> Dataset:
    _check_layout(root)
    names = _subfolders(root / "train")
    listing = dict(list_folders(root, [f"train/{name}" for name in names]))
    train = _from_folders(listing, "train", names)
    if folders := _subfolders(root / "val"):
        if folders != names:
            odd = sorted(set(folders) ^ set(names))
            raise InputError(f"{root}: train/ and val/ have other class folders: {some(odd)}")
        listing |= list_folders(root, [f"val/{name}" for name in names])
        test = _from_folders(listing, "val", names)
    else:
        listing |= list_folders(root, ["val"])
        paths = [f"val/{name}" for name in sorted(listing["val"]) if _is_image(name)]
        test = paths, _ground_truth(root, names, len(paths))
    totals.check(str(root), len(names), len(train[0]), len(test[0]))
    return _dataset(root, size, listing, train, test, names, long_tailed=False)


def _listed(root: Path, size: int, lists: str, totals: Sums) -> Dataset:
    _check_layout(root)
    folder = root / Path(lists).expanduser()
    train, test = (_read_list(folder / f"ImageNet_LT_{part}.txt") for part in ("train", "test"))
    named: dict[int, str] = {}
    for path, label in zip(*train, strict=True):
        named.setdefault(label, path.split("/")[1])
    for path, label in (pair for part in (train, test) for pair in zip(*part, strict=True)):
        if path.split("/")[1] != named.get(label):
            raise InputError(f"{folder}: {path} is listed as of class {label}, which is {named.get(label, 'none')}")
    if sorted(named) != list(range(totals.classes)):
        raise InputError(f"{folder}: ImageNet_LT_train.txt has {len(named)} classes, {totals.classes} expected")
    names = [named[label] for label in range(totals.classes)]
    if not _subfolders(root / "val"):  # the lists expect class folders, the archive has none
        test = [f"val/{path.rpartition('/')[2]}" for path in test[0]], test[1]
    totals.check(str(folder), len(names), len(train[0]), len(test[0]))
    listing = list_folders(root, {path.rpartition("/")[0] for paths, _ in (train, test) for path in paths})
    return _dataset(root, size, listing, train, test, names, long_tailed=True)


def _dataset(
    root: Path, size: int, listing: Listing, train: Split, test: Split, names: Sequence[str], *, long_tailed: bool
) -> Dataset:
    (train_paths, train_labels), (test_paths, test_labels) = train, test
    return Dataset.of(
        ImageFiles.of(train_paths, root=root, size=size, listing=listing),
        _labels(train_labels),
        ImageFiles.of(test_paths, root=root, size=size, listing=listing),
        _labels(test_labels),
        names,
        long_tailed=long_tailed,
    )


def _labels(labels: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.array(labels, dtype=np.int64))


def _check_layout(root: Path) -> None:
    missing = [name for name in ("train", "val") if not (root / name).is_dir()]
    if missing:
        raise InputError(
            f"imagenet: {' and '.join(f'{name}/' for name in missing)} missing in {root.absolute()}; get "
            f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from {_PAGE} (registration needed), and unpack them "
            "there: train/<class>/*.JPEG (a tar file a class), val/*.JPEG"
        )


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_image(name: str) -> bool:
    return name.lower().endswith((".jpeg", ".jpg"))


def _from_folders(listing: Listing, part: str, names: Sequence[str]) -> Split:
    found = [
        (f"{part}/{name}/{file}", label)
        for label, name in enumerate(names)
        for file in sorted(listing[f"{part}/{name}"])
        if _is_image(file)
    ]
    return [path for path, _ in found], [label for _, label in found]


def _ground_truth(root: Path, names: Sequence[str], images: int) -> list[int]:
    """The class of each validation image, in the order of their numbers, from the development kit."""
    from scipy.io import loadmat

    kit = root / _DEVKIT
    truth, meta = kit / "ILSVRC2012_validation_ground_truth.txt", kit / "meta.mat"
    if not (truth.is_file() and meta.is_file()):
        raise InputError(
            f"{root}: val/ has no class folders, and {_DEVKIT}/ is missing, which tells the images' classes; get "
            f"ILSVRC2012_devkit_t12.tar.gz from {_PAGE} and unpack it in {root}"
        )
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        of_class = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in synsets if entry["num_children"] == 0}
        label = {number: names.index(wnid) for number, wnid in of_class.items()}
        labels = [label[int(line)] for line in truth.read_text().split()]
    except Exception as error:  # what damaged files of MATLAB's raise is a long list
        raise InputError(f"{kit}: damaged, or not of the images in train/: {type(error).__name__}: {error}") from None
    if len(labels) != images:
        raise InputError(f"{root}: val/ has {images} images, but {truth.name} has {len(labels)} lines")
    return labels


def _read_list(file: Path) -> Split:
    """Lines such as ``train/n01440764/n01440764_190.JPEG 0``."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); get ImageNet_LT_train.txt and ImageNet_LT_test.txt from {_LT_PAGE}"
        ) from None
    paths, labels = [], []
    for number, line in enumerate(lines, start=1):
        path, _, label = line.strip().rpartition(" ")
        if path.count("/") != 2 or not label.isdecimal() or len(label) > 9:
            raise InputError(f"{file}: line {number}: found {line[:200]!r}; valid: train/<class>/<file>.JPEG <number>")
        paths.append(path)
        labels.append(int(label))
    check_below(file, paths)
    return paths, labels
