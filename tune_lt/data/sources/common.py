"""Functions that several data sets share: listing folders, and checking what is there against what was published."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from tune_lt.data.dataset import Dataset
from tune_lt.data.files import ImageFiles, hashes_of
from tune_lt.data.memory import check_fits
from tune_lt.errors import InputError
from tune_lt.texts import some

Size = tuple[int, int, int]  # of a data set: COUNTED
Split = tuple[list[str], list[int]]  # paths below the root, and the class of each image
COUNTED = ("classes", "training images", "test images")
_JUNK = ("thumbs.db", "desktop.ini", "__macosx")  # Windows and macOS make them
_ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".7z")
_DEEPEST = 50  # folders within a folder: os.walk is recursive


def visible(names: Iterable[str]) -> list[str]:
    """The names in alphabetical order, without hidden files and those that Windows and macOS leave behind."""
    return sorted(name for name in names if not name.startswith(".") and name.lower() not in _JUNK)


def subfolders(folder: Path) -> list[str]:
    """The names of the visible folders in ``folder``, in alphabetical order; InputError if it cannot be listed."""
    try:
        return [name for name in visible(os.listdir(folder)) if os.path.isdir(folder / name)]
    except OSError as error:
        raise _unlisted(error) from None


def files_below(folder: Path) -> list[Path]:
    """All visible files below ``folder``, sorted by path; links are followed.

    Raises InputError for a folder that cannot be listed, lies too deep, or is reached twice through links: with a few
    links that fork, one file would appear a billion times.
    """

    def refuse(error: OSError) -> None:
        raise _unlisted(error)

    files: list[str] = []
    seen = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            raise InputError(f"{place}: links lead to this folder twice, so its images would count twice; remove one")
        if place.count(os.sep) > str(folder).count(os.sep) + _DEEPEST:
            raise InputError(f"{place}: more than {_DEEPEST} folders deep in {folder}; move its images up")
        seen.add((status.st_dev, status.st_ino))
        folders[:] = visible(folders)
        files += [os.path.join(place, name) for name in visible(names)]
    return [Path(file) for file in sorted(files, key=lambda file: file.split(os.sep))]


def _unlisted(error: OSError) -> InputError:
    return InputError(f"{error.filename}: cannot be listed: {error.strerror}")


def read_text(file: Path, advice: str) -> str:
    """The content of a text file; InputError that ends with ``advice`` if it is missing, or not UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}; {advice}") from None


def check_layout(root: Path, needed: Sequence[str], source: str) -> None:
    """Raise InputError if a file or folder of ``needed`` is not in ``root``; the message ends as `how_to_get` does."""
    missing = [name for name in needed if not (root / name).exists()]
    if missing:
        found = f"{', '.join(missing)} missing" if root.is_dir() else "there is no such folder"
        raise InputError(f"{root.absolute()}: {found}; {how_to_get(root, needed, source)}")


def how_to_get(root: Path, needed: Sequence[str], source: str) -> str:
    """The advice in a message about ``root`` without all files and folders of ``needed``.

    It is to use a folder in ``root`` that has them all, else to unpack an archive of ``source`` that lies in ``root``,
    else to download ``source``: names of archives and their web page.
    """
    folders = subfolders(root) if root.is_dir() else []
    for name in folders:
        if all(os.path.exists(root / name / part) for part in needed):  # False for a folder that may not be read
            return f"{name}/ has all that is needed: point root at {root / name}"
    archives = [path.name for path in sorted(root.glob("*")) if path.suffix in _ARCHIVES]
    if any(suffix in source for suffix in _ARCHIVES):  # the source names its archives; others may lie there, too
        archives = [name for name in archives if name in source]
    there = f"unpack {archives[0]}, which lies there, or " if archives else ""
    return f"{there}get {source} and unpack it in {root.absolute()}"


def check_classes(root: Path, classes: Mapping[str, Collection[str]]) -> None:
    """Raise InputError unless two folders of ``root`` (name -> the classes in it) have the same classes."""
    (train, first), (test, second) = classes.items()
    if set(first) != set(second):
        only = [some(sorted(set(a) - set(b))) or "none" for a, b in ((first, second), (second, first))]
        raise InputError(
            f"{root}: {train}/ and {test}/ must have the same class folders; only in {train}/: {only[0]}; only in "
            f"{test}/: {only[1]}"
        )


def check_counts(where: Path, counts: Iterable[tuple[str, int, int]]) -> None:
    """Raise InputError for the counts that are not the published ones: (what is counted, found, published)."""
    wrong = [f"{found:,} {what}, published: {published:,}" for what, found, published in counts if found != published]
    if wrong:
        raise InputError(f"{where}: found {some(wrong, separator='; ')}; unpack the archive again")


def check_memory(root: Path, images: int, size: int, advice: str, *, copies: int = 1) -> None:
    """Raise InputError, which ends with ``advice``, unless so many images (3, size, size) can be loaded into memory.

    ``copies``: of every image, while they are loaded.
    """
    what = f"{root}: to load {images:,} images of {size} x {size} pixels takes"
    check_fits(what, copies * images * 3 * size**2, advice)


def check_decoded(root: Path, files: Sequence[Path], reasons: Mapping[int, str], advice: str) -> None:
    """Raise InputError, which ends with ``advice``, if some files could not be read: position in ``files`` -> why."""
    if reasons:
        listed = some([f"{files[position]}: {reason}" for position, reason in reasons.items()], separator="\n  ")
        raise InputError(
            f"{root}: {len(reasons)} of {len(files)} files cannot be read as images:\n  {listed}\n{advice}"
        )


def distinct(names: Sequence[str], keys: Sequence[object]) -> list[str]:
    """The classes' names; where several have the same, each is followed by its key in parentheses."""
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({key})" for name, key in zip(names, keys, strict=True)]


def on_disk(
    root: Path,
    size: int,
    train: Split,
    test: Split,
    names: Sequence[str],
    *,
    long_tailed: bool,
) -> Dataset:
    """A data set whose images stay on disk, (3, size, size)."""
    hashes = np.split(hashes_of([*train[0], *test[0]], root), [len(train[0])])
    parts = zip((train, test), hashes, strict=True)
    images = [ImageFiles.of(paths, root=root, size=size, hashes=own) for (paths, _), own in parts]
    labels = [torch.tensor(of_images, dtype=torch.int64) for _, of_images in (train, test)]
    return Dataset.of(images[0], labels[0], images[1], labels[1], names, long_tailed=long_tailed)
