"""CIFAR-10 and CIFAR-100 from their official Python archives, read and verified by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tune_lt.data.dataset import Dataset
from tune_lt.data.sources.common import how_to_get
from tune_lt.errors import InputError

_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_LOCK = ".tune_lt-download.lock"


def cifar10(*, root: str, download: bool = False) -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test images (3, 32, 32) of 10 classes, equally many of each.

    ``root`` holds the folder ``cifar-10-batches-py``, as the archive unpacks and torchvision expects it. A file whose
    MD5 is not the published one is refused and never unpickled. With ``download`` an archive that is missing or
    damaged is fetched from the official page (170 MB) and unpacked in ``root``, by one process at a time.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    Raises InputError naming the files that are missing or damaged and what to do.
    """
    from torchvision.datasets import CIFAR10  # only here: importing torchvision takes a second

    return _load(CIFAR10, Path(root).expanduser(), download)


def cifar100(*, root: str, download: bool = False) -> Dataset:
    """CIFAR-100: as `cifar10`, with 100 (fine) classes and the folder ``cifar-100-python``."""
    from torchvision.datasets import CIFAR100

    return _load(CIFAR100, Path(root).expanduser(), download)


def _load(source: Any, root: Path, download: bool) -> Dataset:
    """The data set of torchvision's class ``source``, which has the names of the files, their MD5 sums and the URL."""
    problems = _problems(source, root)
    if problems and download:
        _download(source, root)
        problems = _problems(source, root)
    if problems:
        archive = f"{source.filename} (the Python version) from {_PAGE}"
        raise InputError(
            f"{root / source.base_folder}: {', '.join(problems)}; {how_to_get(root, [source.base_folder], archive)}, "
            "or set download: true"
        )
    train, test = source(root, train=True), source(root, train=False)
    return Dataset.of(*_tensors(train), *_tensors(test), train.classes)


def _tensors(part: Any) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 32, 32) and labels of one split; torchvision holds them as (n, 32, 32, 3)."""
    images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return torch.from_numpy(images), torch.tensor(part.targets, dtype=torch.int64)


def _problems(source: Any, root: Path) -> list[str]:
    """One entry for each file that is missing, damaged, or cannot be read."""
    from torchvision.datasets.utils import check_integrity

    sums = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    problems = []
    for name, md5 in sums:
        file = root / source.base_folder / name
        try:
            if not check_integrity(file, md5):
                problems.append(
                    f"{name} is {'damaged (its MD5 is not the published one)' if file.exists() else 'missing'}"
                )
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
    return problems


def _download(source: Any, root: Path) -> None:
    from filelock import FileLock
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / _LOCK):
            if _problems(source, root):  # else another process has just done it
                download_and_extract_archive(source.url, root, filename=source.filename, md5=source.tgz_md5)
    except Exception as error:  # network, archive and disk raise many kinds of errors
        raise InputError(
            f"{root}: fetching {source.filename} from {source.url} failed: {error or type(error).__name__}; "
            f"try again, or get it from {_PAGE} on another machine and unpack it in {root}"
        ) from None
