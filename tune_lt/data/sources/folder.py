"""Any folder of class folders as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from tune_lt.data.contents import contents
from tune_lt.data.dataset import Dataset, check_names
from tune_lt.data.decode import EXTENSIONS, decode
from tune_lt.data.files import ImageFiles
from tune_lt.data.sampling import seal
from tune_lt.data.sources.common import check_classes, check_decoded, check_memory, files_below, subfolders
from tune_lt.errors import InputError, printable

_SEALED = 0.2  # of each class, where there is no test split


def image_folder(
    *,
    root: str,
    size: Annotated[int, Ge(8), Le(1024)] = 32,
    corrupt: Literal["refuse", "skip"] = "refuse",
    stream: bool = False,
) -> Dataset:
    """The images below ``root``, RGB, (n, 3, size, size), in memory or (``stream``) read from disk in every epoch.

    Either ``root/train/<class>/…`` and ``root/test/<class>/…`` (other folders beside them are ignored), or
    ``root/<class>/…``; then a fifth of each class, the same on every call, is sealed as the test, and the image of a
    class with a single one stays in training. Folders within a class are searched too. Classes are in alphabetical
    order; the first one is the largest class of a long-tailed profile. The shorter side of an image is scaled to
    ``size`` pixels, and the centre is cut out. With ``stream`` evaluation scales it to 8/7 of the size first, and
    training sees what the recipe's ``augment`` cuts out of the whole image.

    A file that is no readable image is refused, or with ``corrupt="skip"`` left out and listed in ``skipped``. With
    ``stream`` each file is read once here, which `contents` remembers. Damaged pixels are found if they are to be
    skipped; otherwise only the headers are checked, and a training that meets damaged pixels ends with an error.
    Hidden files and those that Windows and macOS leave behind (Thumbs.db) are ignored.
    Raises InputError naming the file or folder.
    """
    top = Path(root).expanduser()
    parts = _parts(top)
    found = class_files(parts)
    names = list(found[0])
    files = [(p, c, path) for p, classes in enumerate(found) for c, name in enumerate(names) for path in classes[name]]
    paths = [path for _, _, path in files]
    names_below = [path.relative_to(top).as_posix() for path in paths]
    if stream:
        hashes, reasons = contents(top, names_below, "pixels" if corrupt == "skip" else "header")
    else:  # as they are decoded, and divided into training and test images
        advice = "valid: data.stream: true, which leaves them on disk, or a smaller data.size"
        check_memory(top, len(paths), size, advice, copies=2)
        decoded, reasons = decode(paths, size)
    if corrupt == "refuse":
        check_decoded(top, paths, reasons, "repair or remove them, or leave them out with corrupt: skip")
    kept = np.array([i for i in range(len(files)) if i not in reasons], dtype=np.int64)
    unread = {file[:2] for file in files} - {files[i][:2] for i in kept}
    if unread:
        p, c = min(unread)
        raise InputError(f"{parts[p] / names[c]}: none of its files can be read as an image; add some or remove it")
    part, label = np.array([files[i][:2] for i in kept], dtype=np.int64).T
    test, train = seal(label, len(names), _SEALED) if len(parts) == 1 else (part == 1, part == 0)
    if not label[test].size:
        raise InputError(f"{top}: no class has a second image, so that none can be set aside as the test; add images")

    def images(chosen: np.ndarray) -> Tensor | ImageFiles:
        own = kept[chosen]
        if stream:
            return ImageFiles.of([names_below[i] for i in own], root=top, size=size, hashes=hashes[own])
        return torch.from_numpy(decoded[own])

    return Dataset.of(
        images(train),
        torch.from_numpy(label[train]),
        images(test),
        torch.from_numpy(label[test]),
        names,
        skipped=[printable(names_below[i]) for i in reasons],
    )


def training_files(root: Path) -> dict[str, list[Path]]:
    """The files that `image_folder` trains on, by class; those that it would seal as the test are still among them.

    Raises InputError as `image_folder` does for folders that cannot be used; no file is opened.
    """
    return class_files(_parts(root))[0]


def _parts(top: Path) -> list[Path]:
    """[root/train, root/test], or [root] where the class folders lie in the root itself."""
    if not top.is_dir():
        what = "is a file" if top.is_file() else f"there is no such folder (looked at {top.absolute()})"
        raise InputError(f"image_folder: root = {str(top)!r}: {what}; give the folder that holds the class folders")
    parts = [top / name for name in ("train", "test")]
    there = [part for part in parts if part.is_dir()]
    if len(there) == 1 and subfolders(there[0]):  # a folder without folders is a class that is called train or test
        missing = next(part.name for part in parts if part not in there)
        raise InputError(
            f"{top}: {missing}/ is missing (found: {', '.join(subfolders(top))}); provide both, or point root at "
            f"{there[0]}, of which a fifth is then set aside as the test"
        )
    return parts if len(there) == 2 else [top]


def class_files(parts: Sequence[Path]) -> list[dict[str, list[Path]]]:
    """For each folder: class -> its files, both sorted. Each class has a file that is called like an image.

    Raises InputError if a folder has no classes, or classes that another folder has not; or only one in all.
    """
    found = []
    for part in parts:
        names = subfolders(part)
        if not names:
            loose = sum(path.suffix.lower() in EXTENSIONS for path in part.iterdir())
            advice = "make one folder per class"
            if part != parts[0]:
                advice += f", or, without labels, point root at {parts[0]}, of which a fifth is then sealed"
            raise InputError(f"{part}: no class folders ({loose} images lie in it directly); {advice}")
        check_names(names)
        found.append({name: files_below(part / name) for name in names})
        for name, files in found[-1].items():
            if not any(path.suffix.lower() in EXTENSIONS for path in files):
                raise InputError(
                    f"{part / name}: no images in this class folder ({len(files)} other files); add some or remove it "
                    f"(valid: {' '.join(EXTENSIONS)})"
                )
    if len(found[0]) < 2:
        raise InputError(f"{parts[0]}: only one class folder ({', '.join(found[0])}); a classifier needs two or more")
    if len(parts) == 2:
        check_classes(parts[0].parent, {part.name: classes for part, classes in zip(parts, found, strict=True)})
    return found
