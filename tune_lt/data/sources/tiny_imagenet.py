"""The two data sets called Tiny-ImageNet: the paper's with 100 classes (Kaggle), the common one with 200 (Stanford)."""

from __future__ import annotations

from collections import Counter
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
from tune_lt.data.sources.published_sizes import Totals
from tune_lt.errors import InputError
from tune_lt.texts import some

Size = Annotated[int, Ge(8), Le(64)]
Classes = Mapping[str, Sequence[Path]]  # class -> its files, both sorted, so that the splits have one order

_KAGGLE = "the Kaggle competition thu-deep-learning (https://www.kaggle.com/c/thu-deep-learning/data)"
_STANFORD = "tiny-imagenet-200.zip from http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def tiny_imagenet(*, root: str, size: Size = 64) -> Dataset:
    """The paper's Tiny-ImageNet: 100 classes of 1,000 training and 100 test images (3, size, size).

    ``root/train/<class>/…`` and ``root/val/<class>/…``; the images of val are the sealed test. Classes and files are in
    the order of torchvision's ImageFolder, so that a long tail has the images it has in the author's code. The images
    are 64 pixels wide; a smaller ``size`` shrinks them. Any other number of images is refused.

    Source: the Kaggle competition thu-deep-learning, which the paper names. Raises InputError naming what was found.
    """
    return _of_folders(Path(root).expanduser(), size, Totals(classes=100, train=1000, test=100))


def tiny_imagenet_200(*, root: str, size: Size = 64) -> Dataset:
    """The common Tiny-ImageNet: 200 classes of 500 training and 50 test images (3, size, size).

    ``root`` holds ``wnids.txt``, ``words.txt``, ``train/<wnid>/images/*.JPEG``, ``val/images/*.JPEG`` and
    ``val/val_annotations.txt``; the images of val are the sealed test, those of test have no labels. Classes are in
    the order of their wnid, as with ImageFolder, and are called by the first of their words. The images are 64 pixels
    wide; a smaller ``size`` shrinks them. Any other number of images is refused.

    Source: Stanford's course CS231n. Raises InputError naming what was found.
    """
    return _of_lists(Path(root).expanduser(), size, Totals(classes=200, train=500, test=50))


def _of_folders(root: Path, size: int, totals: Totals) -> Dataset:
    _check_folder(root, _KAGGLE)
    folders = _folders(root / "train")
    if (root / "val" / "val_annotations.txt").exists() or len(folders) == 200:
        raise InputError(
            f"{root}: this is Tiny-ImageNet-200 ({len(folders)} classes), not the paper's data of {totals.classes}; "
            "as it was unpacked, it is read with name: tiny_imagenet_200"
        )
    train = {folder.name: _images(folder) for folder in folders}
    test = {folder.name: _images(folder) for folder in _folders(root / "val")}
    if set(train) != set(test):
        different = sorted(set(train) ^ set(test))
        raise InputError(f"{root}: train/ and val/ have not the same classes (only in one: {', '.join(different[:5])})")
    return _dataset(root, size, totals, train, test, list(train))


def _of_lists(root: Path, size: int, totals: Totals) -> Dataset:
    _check_folder(root, _STANFORD)
    if not (root / "wnids.txt").exists() and not (root / "val" / "val_annotations.txt").exists():
        raise InputError(
            f"{root}: neither wnids.txt nor val/val_annotations.txt, so this is not Tiny-ImageNet-200 as it was "
            "unpacked; the paper's data of 100 classes is read with name: tiny_imagenet, any class folders with "
            "name: image_folder"
        )
    wnids = sorted({line for _, (line, *_) in _lines(root / "wnids.txt")})
    check_below(root / "wnids.txt", wnids)
    train = {wnid: _images(root / "train" / wnid / "images") for wnid in wnids}
    words = {wnid: rest[0].split(",")[0] for _, (wnid, *rest) in _lines(root / "words.txt") if rest}
    called = [words.get(wnid, wnid) for wnid in wnids]
    times = Counter(called)
    names = [f"{word} ({wnid})" if times[word] > 1 else word for word, wnid in zip(called, wnids, strict=True)]
    return _dataset(root, size, totals, train, _annotated(root / "val", wnids), names)


def _annotated(val: Path, wnids: Sequence[str]) -> Classes:
    """The test images by class: a line is file, wnid and a box, between tabs."""
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


def _dataset(root: Path, size: int, totals: Totals, train: Classes, test: Classes, names: Sequence[str]) -> Dataset:
    """Counts are checked before anything is decoded, which takes a while."""
    totals.check(str(root), names, *([len(files) for files in part.values()] for part in (train, test)))
    return Dataset.of(*_decoded(root, size, train), *_decoded(root, size, test), names)


def _decoded(root: Path, size: int, part: Classes) -> tuple[Tensor, Tensor]:
    """Images (n, 3, size, size) and labels (n,) of a split, class after class."""
    files = [file for members in part.values() for file in members]
    images, reasons = decode(files, size)
    if reasons:
        listed = some([f"{files[i].relative_to(root)}: {reason}" for i, reason in reasons.items()], separator="; ")
        raise InputError(
            f"{root}: {len(reasons)} of {len(files)} files cannot be read as images: {listed}: unpack the archive again"
        )
    labels = np.repeat(np.arange(len(part)), [len(members) for members in part.values()])
    return torch.from_numpy(images), torch.from_numpy(labels)


def _check_folder(root: Path, archive: str) -> None:
    """Whether there is anything to look at below ``root``: train/ and val/."""
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; get {archive}, unpack it, and give the folder it makes")
    if (root / "train").is_dir() and (root / "val").is_dir():
        return
    inner = [folder for folder in _folders(root) if (folder / "train").is_dir() and (folder / "val").is_dir()]
    packed = [file.name for file in _entries(root) if file.suffix in (".zip", ".gz", ".tar", ".7z")]
    advice = f"get {archive} and unpack it there"
    if inner:
        advice = f"but {inner[0].name}/ has both: point root at {inner[0]}"
    elif packed:
        advice = f"but {packed[0]}, which is to be unpacked first"
    raise InputError(f"{root}: no train/ and val/ in it; {advice}")


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir() and not path.name.startswith(".")]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}") from None


def _images(folder: Path) -> list[Path]:
    """The images below a folder by name; other files (boxes, what systems leave behind) are not counted."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: unpack the archive again")
    files = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    return sorted(path for path in files if not path.name.startswith("."))


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """(number, columns) of the lines of a file of columns between tabs, empty lines apart."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise InputError(f"{file}: {reason}; unpack the archive again") from None
    lines = enumerate(text.splitlines(), start=1)
    return [(number, [part.strip() for part in line.split("\t")]) for number, line in lines if line.strip()]
