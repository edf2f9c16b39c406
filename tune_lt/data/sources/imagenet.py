"""ImageNet (ILSVRC 2012), and ImageNet-LT from the lists of its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tune_lt.data.dataset import Dataset
from tune_lt.data.files import Listing, Side, check_below, list_folders
from tune_lt.data.sources import common
from tune_lt.data.sources.common import COUNTED, Size, Split, subfolders
from tune_lt.errors import InputError

_PAGE = "https://image-net.org/challenges/LSVRC/2012/"
_LT_PAGE = "https://github.com/zhmiao/OpenLongTailRecognition-OLTR"
_DEVKIT = "ILSVRC2012_devkit_t12/data"
_ARCHIVES = (
    f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from {_PAGE} (registration needed), as train/<class>/*.JPEG "
    "(a tar file for each class) and val/*.JPEG,"
)


def imagenet(*, root: str, size: Side = 224, lists: str | None = None) -> Dataset:
    """ImageNet, ILSVRC 2012: 1,000 classes, 1,281,167 training images, the 50,000 validation images as the test.

    ``root`` holds ``train/<class>/*.JPEG`` and ``val/``, either with the same class folders or with the 50,000 files
    as the archive has them; their classes are then read from the development kit, ``root/ILSVRC2012_devkit_t12/``.
    Classes are in the order of their WordNet ids; the first one is the largest class of a long-tailed profile. Images
    stay on disk and are read in every epoch, (3, size, size).

    ``lists``: a folder (relative to ``root``, or absolute) with ``ImageNet_LT_train.txt`` and ``ImageNet_LT_test.txt``
    of Liu et al. 2019 (OLTR): training images are then exactly the 115,846 of the first, 1,280 down to 5 a class.

    Source: O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
    Raises InputError naming what is missing or damaged, and where to get it.
    """
    published = (1000, 1_281_167, 50_000) if lists is None else (1000, 115_846, 50_000)
    return _load(Path(root).expanduser(), size, lists, published)


def _load(root: Path, size: int, lists: str | None, published: Size) -> Dataset:
    common.check_layout(root, ("train", "val"), _ARCHIVES)
    where = root if lists is None else root / Path(lists).expanduser()
    names, train, test = _whole(root) if lists is None else _listed(where)
    if lists is not None and not subfolders(root / "val"):  # the lists name class folders, but the archive has none
        test = [f"val/{path.rpartition('/')[2]}" for path in test[0]], test[1]
    common.check_counts(where, zip(COUNTED, (len(names), len(train[0]), len(test[0])), published, strict=True))
    return common.on_disk(root, size, train, test, names, long_tailed=lists is not None)


def _whole(root: Path) -> tuple[list[str], Split, Split]:
    """The classes, the training and the validation images."""
    names, folders = subfolders(root / "train"), subfolders(root / "val")
    if folders:
        common.check_classes(root, {"train": names, "val": folders})
    listing = list_folders(root, ["val", *(f"train/{name}" for name in names), *(f"val/{name}" for name in folders)])
    train = _from_folders(listing, "train", names)
    if folders:
        return names, train, _from_folders(listing, "val", names)
    paths = [f"val/{name}" for name in sorted(listing["val"]) if _is_image(name)]
    return names, train, (paths, _ground_truth(root, names, len(paths)))


def _listed(folder: Path) -> tuple[list[str], Split, Split]:
    """The classes and images of ImageNet-LT's lists."""
    train, test = (_read_list(folder / f"ImageNet_LT_{part}.txt") for part in ("train", "test"))
    named: dict[int, str] = {}
    for path, label in zip(*train, strict=True):
        named.setdefault(label, path.split("/")[1])
    for path, label in (pair for part in (train, test) for pair in zip(*part, strict=True)):
        if path.split("/")[1] != named.get(label):
            raise InputError(f"{folder}: {path} is listed as of class {label}, which is {named.get(label, 'none')}")
    return [named[label] for label in sorted(named)], train, test


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
            f"{root}: val/ has no class folders, so the images' classes are read from {_DEVKIT}/, but that is missing; "
            f"get ILSVRC2012_devkit_t12.tar.gz from {_PAGE} and unpack it in {root}"
        )
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        of_class = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in synsets if entry["num_children"] == 0}
        label = {number: names.index(wnid) for number, wnid in of_class.items()}
        labels = [label[int(line)] for line in truth.read_text().split()]
    except Exception as error:  # loadmat raises many kinds of errors for damaged files
        raise InputError(f"{kit}: damaged, or not of the images in train/: {type(error).__name__}: {error}") from None
    if len(labels) != images:
        raise InputError(f"{root}: val/ has {images} images, but {truth.name} has {len(labels)} lines")
    return labels


def _read_list(file: Path) -> Split:
    """Lines such as ``train/n01440764/n01440764_190.JPEG 0``."""
    text = common.read_text(file, f"get ImageNet_LT_train.txt and ImageNet_LT_test.txt from {_LT_PAGE}")
    paths, labels = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        path, _, label = line.strip().rpartition(" ")
        if path.count("/") != 2 or not label.isdecimal() or len(label) > 9:
            raise InputError(f"{file}: line {number}: found {line[:200]!r}; valid: train/<class>/<file>.JPEG <number>")
        paths.append(path)
        labels.append(int(label))
    check_below(file, paths)
    return paths, labels
