"""The two data sets called Tiny-ImageNet: the paper's with 100 classes (Kaggle), the common one with 200 (Stanford)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from tune_lt.data.dataset import Dataset
from tune_lt.data.decode import EXTENSIONS, decode
from tune_lt.data.files import check_below
from tune_lt.data.sources import common
from tune_lt.data.sources.common import Size
from tune_lt.data.sources.folder import class_files
from tune_lt.errors import InputError

Side = Annotated[int, Ge(8), Le(64)]
Classes = Mapping[str, Sequence[Path]]  # class -> its files, both sorted, so that the splits have one order

_KAGGLE = "the data of the Kaggle competition thu-deep-learning (https://www.kaggle.com/c/thu-deep-learning/data)"
_STANFORD = "tiny-imagenet-200.zip from http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_AGAIN = "unpack the archive again"


def tiny_imagenet(*, root: str, size: Side = 64) -> Dataset:
    """The paper's Tiny-ImageNet: 100 classes of 1,000 training and 100 test images (3, size, size).

    ``root/train/<class>/…`` and ``root/val/<class>/…``; the images of val are the sealed test. Classes and files are in
    the order of torchvision's ImageFolder, so that a long tail has the images it has in the author's code. The images
    are 64 pixels wide; a smaller ``size`` shrinks them. Any other number of images is refused.

    Source: the Kaggle competition thu-deep-learning, which the paper names. Raises InputError naming what was found.
    """
    return _of_folders(Path(root).expanduser(), size, (100, 1000, 100))


def tiny_imagenet_200(*, root: str, size: Side = 64) -> Dataset:
    """The common Tiny-ImageNet: 200 classes of 500 training and 50 test images (3, size, size).

    ``root`` holds ``wnids.txt``, ``words.txt``, ``train/<wnid>/images/*.JPEG``, ``val/images/*.JPEG`` and
    ``val/val_annotations.txt``; the images of val are the sealed test, those of test have no labels. Classes are in
    the order of their WordNet ids (wnid), as with ImageFolder, and are called by the first of their words. The images
    are 64 pixels wide; a smaller ``size`` shrinks them. Any other number of images is refused.

    Source: Stanford's course CS231n. Raises InputError naming what was found.
    """
    return _of_lists(Path(root).expanduser(), size, (200, 500, 50))


def _of_folders(root: Path, size: int, each: Size) -> Dataset:
    """``each``: how many classes there must be, and how many training and test images of each of them."""
    common.check_layout(root, ("train", "val"), _KAGGLE)
    classes = len(common.subfolders(root / "train"))
    if (root / "val" / "val_annotations.txt").exists() or classes == 200:
        raise InputError(
            f"{root}: this is Tiny-ImageNet-200 ({classes} classes), not the paper's data of {each[0]}; as it was "
            "unpacked, it is read with name: tiny_imagenet_200"
        )
    found = class_files([root / "train", root / "val"])
    train, test = ({name: _images(files) for name, files in part.items()} for part in found)
    return _dataset(root, size, each, train, test, list(train))


def _of_lists(root: Path, size: int, each: Size) -> Dataset:
    common.check_layout(root, ("train", "val"), _STANFORD)
    if not (root / "wnids.txt").exists() and not (root / "val" / "val_annotations.txt").exists():
        raise InputError(
            f"{root}: found neither wnids.txt nor val/val_annotations.txt, so this is not Tiny-ImageNet-200 as it was "
            "unpacked; the paper's data of 100 classes is read with name: tiny_imagenet, any class folders with "
            "name: image_folder"
        )
    wnids = sorted({wnid for _, (wnid, *_) in _lines(root / "wnids.txt")})
    check_below(root / "wnids.txt", wnids)
    train = {wnid: _images(common.files_below(root / "train" / wnid / "images")) for wnid in wnids}
    words = {wnid: rest[0].split(",")[0] for _, (wnid, *rest) in _lines(root / "words.txt") if rest}
    names = common.distinct([words.get(wnid, wnid) for wnid in wnids], wnids)
    return _dataset(root, size, each, train, _annotated(root / "val", wnids), names)


def _annotated(val: Path, wnids: Sequence[str]) -> Classes:
    """The test images by class; each line of the list has a file, its wnid and a box, separated by tabs."""
    file = val / "val_annotations.txt"
    found: dict[str, list[Path]] = {wnid: [] for wnid in wnids}
    for number, (name, *rest) in _lines(file):
        if not rest or rest[0] not in found:
            wnid = rest[0] if rest else None
            raise InputError(f"{file}: line {number}: found {wnid!r} where a wnid of wnids.txt was expected")
        if "/" in name or name in ("", ".", ".."):
            raise InputError(f"{file}: line {number}: found {name[:200]!r} where the name of a file was expected")
        found[rest[0]].append(val / "images" / name)
    return {wnid: sorted(set(files)) for wnid, files in found.items()}


def _dataset(root: Path, size: int, each: Size, train: Classes, test: Classes, names: Sequence[str]) -> Dataset:
    """Check all counts, then decode the images, which takes a while."""
    counts = [("classes", len(names), each[0])]
    for what, part, expected in (("training", train, each[1]), ("test", test, each[2])):
        of_class = zip(names, part.values(), strict=True)
        counts += [(f"{what} images of class {name!r}", len(files), expected) for name, files in of_class]
    common.check_counts(root, counts)
    common.check_memory(root, sum(expected for _, _, expected in counts[1:]), size, "valid: a smaller data.size")
    return Dataset.of(*_decoded(root, size, train), *_decoded(root, size, test), names)


def _decoded(root: Path, size: int, part: Classes) -> tuple[Tensor, Tensor]:
    """Images (n, 3, size, size) and labels (n,) of a split, class after class."""
    files = [file for members in part.values() for file in members]
    images, reasons = decode(files, size)
    common.check_decoded(root, files, reasons, _AGAIN)
    labels = np.repeat(np.arange(len(part)), [len(members) for members in part.values()])
    return torch.from_numpy(images), torch.from_numpy(labels)


def _images(files: Sequence[Path]) -> list[Path]:
    """Those that are called like images; Stanford's folders have lists of boxes too."""
    return [file for file in files if file.suffix.lower() in EXTENSIONS]


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """(number, columns) of each line that is not empty; tabs separate columns."""
    lines = enumerate(common.read_text(file, _AGAIN).splitlines(), start=1)
    return [(number, [part.strip() for part in line.split("\t")]) for number, line in lines if line.strip()]
