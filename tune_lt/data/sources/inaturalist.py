"""iNaturalist 2017 and 2018 from their official archives: long-tailed as they come."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tune_lt.data.dataset import Dataset
from tune_lt.data.files import ImageFiles, Side, check_below, list_folders
from tune_lt.errors import InputError

_PAGE = "https://github.com/visipedia/inat_comp/tree/master"


@dataclass(frozen=True)
class _Edition:
    """One year's competition: its folder of images, and how many classes, training and test images it has."""

    year: int
    folder: str
    classes: int
    train: int
    test: int


def inaturalist2017(*, root: str, size: Side = 224) -> Dataset:
    """iNaturalist 2017: 5,089 classes, 579,184 training images, the 95,986 validation images as the test.

    ``root`` holds ``train2017.json``, ``val2017.json`` and the folder ``train_val_images``, as the archives unpack.
    Images stay on disk and are read in every epoch, (3, size, size). Classes are in the order of the file's ids.

    Source: G. Van Horn et al., "The iNaturalist Species Classification and Detection Dataset", CVPR 2018.
    Raises InputError naming what is missing or damaged, and where to get it.
    """
    return _load(Path(root), size, _Edition(2017, "train_val_images", 5089, 579_184, 95_986))


def inaturalist2018(*, root: str, size: Side = 224) -> Dataset:
    """iNaturalist 2018: as `inaturalist2017`, with 8,142 classes, 437,513 and 24,426 images in ``train_val2018``."""
    return _load(Path(root), size, _Edition(2018, "train_val2018", 8142, 437_513, 24_426))


def _load(root: Path, size: int, edition: _Edition) -> Dataset:
    root = root.expanduser()
    parts = [(f"train{edition.year}.json", edition.train), (f"val{edition.year}.json", edition.test)]
    missing = [name for name, _ in parts if not (root / name).is_file()]
    missing += [f"{edition.folder}/"] if not (root / edition.folder).is_dir() else []
    if missing:
        archives = ", ".join(f"{name}.tar.gz" for name in (f"train{edition.year}", f"val{edition.year}"))
        raise InputError(
            f"inaturalist{edition.year}: {', '.join(missing)} missing in {root.absolute()}; get "
            f"{edition.folder}.tar.gz, {archives} from {_PAGE}/{edition.year} and unpack them there"
        )
    names, splits = _read_parts(root, parts, edition.classes)
    paths = [path for found, _ in splits for path in found]
    listing = list_folders(root, {path.rpartition("/")[0] for path in paths})
    (train, train_labels), (test, test_labels) = splits
    return Dataset.of(
        ImageFiles.of(train, root=root, size=size, listing=listing),
        train_labels,
        ImageFiles.of(test, root=root, size=size, listing=listing),
        test_labels,
        names,
        long_tailed=True,
    )


def _read_parts(
    root: Path, parts: list[tuple[str, int]], classes: int
) -> tuple[list[str], list[tuple[list[str], Tensor]]]:
    """The names of the classes, and the paths and labels of each part; every part has the same classes."""
    names: list[str] = []
    splits = []
    for name, images in parts:
        content = _json(root / name)
        try:
            categories = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
            found = _labelled(content, {key: label for label, key in enumerate(sorted(categories))})
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__} {error}"[:200]
            raise InputError(f"{root / name}: not the competition's file: {reason}") from None
        del content  # hundreds of megabytes
        check_below(root / name, found[0])
        if (len(categories), len(found[0])) != (classes, images):
            raise InputError(
                f"{root / name}: {len(categories)} classes and {len(found[0])} images found, {classes} and {images} "
                "expected; unpack the archive again"
            )
        own = _distinct([categories[key] for key in sorted(categories)], sorted(categories))
        if names and own != names:
            raise InputError(f"{root / name}: its classes are not those of {parts[0][0]}; unpack both archives again")
        names = own
        splits.append(found)
    return names, splits


def _json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except (RecursionError, ValueError) as error:
        raise InputError(f"{file}: damaged: {error}; unpack the archive again") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    return content


def _labelled(content: dict[str, Any], label: dict[int, int]) -> tuple[list[str], Tensor]:
    """The path and class of every image, in the order of the images' ids; each has exactly one annotation."""
    category = {int(entry["image_id"]): label[int(entry["category_id"])] for entry in content["annotations"]}
    path = {int(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
    if category.keys() != path.keys() or len(category) != len(content["annotations"]):
        raise ValueError("its images and its annotations do not belong together")
    return [path[key] for key in sorted(path)], torch.tensor([category[key] for key in sorted(path)])


def _distinct(names: list[str], keys: list[int]) -> list[str]:
    """The classes' names, with the id where two have the same."""
    often = Counter(names)
    return [name if often[name] == 1 else f"{name} ({key})" for name, key in zip(names, keys, strict=True)]
