"""Any folder of class folders as a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from tune_lt.data.dataset import Dataset, check_names
from tune_lt.data.decode import EXTENSIONS, check_headers, decode
from tune_lt.data.files import ImageFiles
from tune_lt.data.sampling import seal
from tune_lt.errors import InputError, printable
from tune_lt.texts import some

_SEALED = 0.2  # of each class, where there is no test split
_JUNK = ("thumbs.db", "desktop.ini", "__macosx")  # what systems leave behind, beside hidden files
_DEEPEST = 50  # folders within a class


def image_folder(
    *,
    root: str,
    size: Annotated[int, Ge(8), Le(1024)] = 32,
    corrupt: Literal["refuse", "skip"] = "refuse",
    stream: bool = False,
) -> Dataset:
    """The images below ``root``, RGB, (n, 3, size, size), in memory or (``stream``) read from disk in every epoch.

    Either ``root/train/<class>/…`` and ``root/test/<class>/…`` (other folders beside them are not looked at), or
    ``root/<class>/…``, of which a fifth of each class, the same on every call, is sealed as the test; a single image
    stays in training. Folders within a class are searched too. Classes are in alphabetical order, the first one is
    the head of a long-tailed profile. The shorter side of an image is scaled to ``size`` pixels, the centre cut out;
    with ``stream`` this is what evaluation sees, of a shorter side of 8/7 of the size, and training sees what the
    recipe's ``augment`` cuts out of the whole image.

    A file that is no readable image is refused, or with ``corrupt="skip"`` left out and listed in ``skipped``; with
    ``stream`` only the first bytes are looked at, and a file whose pixels are damaged ends the training that meets it.
    Hidden files and what systems leave behind (Thumbs.db) are passed over. Raises InputError naming the file or folder.
    """
    top = Path(root).expanduser()
    parts = _parts(top)
    found = [_classes(part) for part in parts]
    names = _same_classes(parts, found)
    files = [(p, c, path) for p, classes in enumerate(found) for c, name in enumerate(names) for path in classes[name]]
    paths = [path for _, _, path in files]
    decoded, reasons = (None, check_headers(paths)) if stream else decode(paths, size)
    if reasons and corrupt == "refuse":
        raise InputError(_refusal(top, [(files[i][2], reason) for i, reason in reasons.items()], len(files)))
    keep = np.array([i not in reasons for i in range(len(files))])
    part, label = (np.array([file[column] for file in files], dtype=np.int64) for column in (0, 1))
    for p, folder in enumerate(parts):
        for c, name in enumerate(names):
            if not (keep & (part == p) & (label == c)).any():
                raise InputError(f"{folder / name}: none of its files can be read as an image; add some or remove it")
    kept, label, part = np.flatnonzero(keep), label[keep], part[keep]
    test, train = seal(label, len(names), _SEALED) if len(parts) == 1 else (part == 1, part == 0)
    if not label[test].size:
        raise InputError(f"{top}: no class has a second image, so that none can be set aside as the test; add images")

    def images(chosen: np.ndarray) -> Tensor | ImageFiles:
        if decoded is not None:
            return torch.from_numpy(decoded[kept[chosen]])
        return ImageFiles.of([paths[i].relative_to(top).as_posix() for i in kept[chosen]], root=top, size=size)

    return Dataset.of(
        images(train),
        torch.from_numpy(label[train]),
        images(test),
        torch.from_numpy(label[test]),
        names,
        skipped=[printable(files[i][2].relative_to(top).as_posix()) for i in reasons],
    )


def training_files(root: Path) -> dict[str, list[Path]]:
    """The files that `image_folder` would train on, by class, before a fifth is sealed where no test lies beside them.

    Raises InputError as `image_folder` does for folders it could not use; no file is opened.
    """
    parts = _parts(root)
    found = [_classes(part) for part in parts]
    return {name: found[0][name] for name in _same_classes(parts, found)}


def _parts(top: Path) -> list[Path]:
    """[root/train, root/test], or [root] where the class folders lie in the root itself."""
    if not top.is_dir():
        what = "is a file" if top.is_file() else f"there is no such folder (looked at {top.absolute()})"
        raise InputError(f"image_folder: root = {str(top)!r}: {what}; give the folder that holds the class folders")
    train, test = top / "train", top / "test"
    if train.is_dir() and test.is_dir():
        return [train, test]
    alone = next((part for part in (train, test) if part.is_dir()), None)
    if alone is not None and _subfolders(alone):  # without folders inside, it is a class of that name
        raise InputError(
            f"{top}: there is {alone.name}/ but not {(test if alone is train else train).name}/ "
            f"(found: {', '.join(_subfolders(top))}); provide both, or point root at {alone}, "
            "of which a fifth is then set aside as the test"
        )
    return [top]


def _classes(part: Path) -> dict[str, list[Path]]:
    """Class name -> its files, sorted; every class has at least one image by name."""
    names = _subfolders(part)
    if not names:
        loose = sum(path.suffix.lower() in EXTENSIONS for path in part.iterdir())
        raise InputError(f"{part}: no class folders ({loose} images lie in it directly); make one folder per class")
    check_names(names)
    found = {name: list(_files(part / name, (_identity(part),), set())) for name in names}
    for name, files in found.items():
        if not any(path.suffix.lower() in EXTENSIONS for path in files):
            raise InputError(
                f"{part / name}: no images in this class folder ({len(files)} other files); add some or remove it "
                f"(valid: {' '.join(EXTENSIONS)})"
            )
    return found


def _same_classes(parts: list[Path], found: list[dict[str, list[Path]]]) -> list[str]:
    names = sorted(found[0])
    if len(names) < 2:
        raise InputError(f"{parts[0]}: only one class folder ({names[0]}); a classifier needs two or more")
    for part, classes in zip(parts[1:], found[1:], strict=True):
        missing, extra = sorted(set(names) - set(classes)), sorted(set(classes) - set(names))
        if missing or extra:
            differences = [f"only in {parts[0].name}/: {', '.join(missing)}"] if missing else []
            differences += [f"only in {part.name}/: {', '.join(extra)}"] if extra else []
            raise InputError(f"{part}: its classes are not those of {parts[0]} ({'; '.join(differences)})")
    return names


def _subfolders(folder: Path) -> list[str]:
    return [name for name in _entries(folder) if os.path.isdir(folder / name)]


def _files(folder: Path, above: tuple[tuple[int, int], ...], seen: set[tuple[int, int]]) -> Iterator[Path]:
    """All files below a folder, in a fixed order; links are followed, one to a folder that was ``seen`` is an error.

    Without that a few links which fork make a file appear a billion times.
    """
    identity = _identity(folder)
    if identity in above:
        raise InputError(f"{folder}: a link that leads back to a folder above it; remove the link")
    if identity in seen:
        raise InputError(f"{folder}: a second way to a folder of this class, whose images would count twice; remove it")
    if len(above) > _DEEPEST:
        raise InputError(f"{folder}: more than {_DEEPEST} folders deep; move its images up")
    seen.add(identity)
    for name in _entries(folder):
        path = folder / name
        if os.path.isdir(path):
            yield from _files(path, (*above, identity), seen)
        else:
            yield path


def _entries(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}") from error
    return sorted(name for name in names if not name.startswith(".") and name.lower() not in _JUNK)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _refusal(top: Path, bad: list[tuple[Path, str]], total: int) -> str:
    lines = [f"{top}: {len(bad)} of {total} files cannot be read as images:"]
    lines += ["  " + some([f"{path}: {reason}" for path, reason in bad], separator="\n  ")]
    return "\n".join([*lines, "repair or remove them, or leave them out with corrupt: skip"])
