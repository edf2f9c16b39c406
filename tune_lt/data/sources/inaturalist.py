"""iNaturalist 2017 and 2018 from their official archives: long-tailed as they come."""

from __future__ import annotations

import json
from pathlib import Path

from tune_lt.data.dataset import Dataset
from tune_lt.data.files import Side, check_below
from tune_lt.data.sources import common
from tune_lt.data.sources.common import COUNTED, Size, Split
from tune_lt.errors import InputError

_PAGE = "https://github.com/visipedia/inat_comp/tree/master"
_AGAIN = "unpack the archive again"


def inaturalist2017(*, root: str, size: Side = 224) -> Dataset:
    """iNaturalist 2017: 5,089 classes, 579,184 training images, the 95,986 validation images as the test.

    ``root`` holds ``train2017.json``, ``val2017.json`` and the folder ``train_val_images``, as the archives unpack.
    Images stay on disk and are read in every epoch, (3, size, size). Classes are in the order of the file's ids.

    Source: G. Van Horn et al., "The iNaturalist Species Classification and Detection Dataset", CVPR 2018.
    Raises InputError naming what is missing or damaged, and where to get it.
    """
    return _load(Path(root).expanduser(), size, 2017, "train_val_images", (5089, 579_184, 95_986))


def inaturalist2018(*, root: str, size: Side = 224) -> Dataset:
    """iNaturalist 2018: as `inaturalist2017`, with 8,142 classes, 437,513 and 24,426 images in ``train_val2018``."""
    return _load(Path(root).expanduser(), size, 2018, "train_val2018", (8142, 437_513, 24_426))


def _load(root: Path, size: int, year: int, folder: str, published: Size) -> Dataset:
    files = [root / f"train{year}.json", root / f"val{year}.json"]
    archives = f"{folder}.tar.gz, train{year}.json.tar.gz and val{year}.json.tar.gz from {_PAGE}/{year}"
    common.check_layout(root, [files[0].name, files[1].name, folder], archives)
    (names, train), (others, test) = (_read(file) for file in files)
    if names != others:
        raise InputError(f"{files[1]}: its classes are not those of {files[0].name}; unpack both archives again")
    common.check_counts(root, zip(COUNTED, (len(names), len(train[0]), len(test[0])), published, strict=True))
    return common.on_disk(root, size, train, test, names, long_tailed=True)


def _read(file: Path) -> tuple[list[str], Split]:
    """The classes' names in the order of their ids, and the images in the order of theirs: each has one annotation."""
    text = common.read_text(file, _AGAIN)
    try:
        content = json.loads(text)
        named = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        keys = sorted(named)
        label = {key: position for position, key in enumerate(keys)}
        labels = {int(entry["image_id"]): label[int(entry["category_id"])] for entry in content["annotations"]}
        paths = {int(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
        if labels.keys() != paths.keys() or len(labels) != len(content["annotations"]):
            raise ValueError("each image must have exactly one annotation")
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise InputError(f"{file}: damaged, or not the competition's file: {reason}; {_AGAIN}") from None
    images = sorted(paths)
    check_below(file, paths.values())
    return common.distinct([named[key] for key in keys], keys), (
        [paths[image] for image in images],
        [labels[image] for image in images],
    )
