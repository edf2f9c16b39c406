"""Images that stay on disk: their paths, kept in little memory, and the part of each that evaluation sees."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from tune_lt.data.contents import contents
from tune_lt.data.decode import Box, Unreadable, cut, middle
from tune_lt.errors import DamagedImage, InputError
from tune_lt.texts import some

# of ImageNet, per channel: recipes for large images normalise with them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Side = Annotated[int, Ge(32), Le(1024)]
Listing = Mapping[str, Sequence[str]]  # folder below the root -> the names of the files in it
_NOT_BELOW = re.compile(r"^/|^$|(?:^|/)\.\.(?:/|$)|[\0\ud800-\udfff]")  # absolute, empty, with .., or no path at all
_THREADS = 16  # a thread that lists a folder on a network's disk mostly waits


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images on disk that can replace a uint8 tensor (n, 3, size, size): they have a length, a shape, and indexing.

    ``names``: the encoded paths below ``root``, concatenated (uint8); ``ends`` int64 (n,): where each path ends in
    ``names``. ``content``: sha256 over the hashes of the files' bytes, in order. ``size``: side of the images in
    pixels. ``resize``: pixels that evaluation scales the shorter side of an image to, before it cuts out the centre;
    8/7 of the size, 256 for 224. Make one with `ImageFiles.of`.

    The paths are in arrays because every worker gets a copy of more than a million: about 50 bytes an image, not 600.
    """

    root: str
    names: np.ndarray
    ends: np.ndarray
    content: bytes
    size: int
    resize: int

    @classmethod
    def of(
        cls,
        paths: Sequence[str],
        *,
        root: Path,
        size: int,
        hashes: np.ndarray | None = None,
    ) -> ImageFiles:
        """The files at ``paths``, relative to ``root`` and with slashes.

        ``hashes``: what `contents` returned for them, if a caller has it already; otherwise the files are read here,
        once. Raises InputError naming files that are missing, empty or cannot be read.
        """
        if hashes is None:
            hashes = hashes_of(paths, root)
        encoded = [os.fsencode(path) for path in paths]
        ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        content = hashlib.sha256(np.ascontiguousarray(hashes).data).digest()
        return cls(str(root), names, ends, content, size, round(size * 8 / 7))

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def shape(self) -> torch.Size:
        """(n, 3, size, size)."""
        return torch.Size((len(self), 3, self.size, self.size))

    @property
    def nbytes(self) -> int:
        """Bytes that the paths take in memory; the images take none."""
        return int(self.names.nbytes + self.ends.nbytes)

    def path(self, position: int) -> Path:
        """The file of the image at ``position``."""
        start = self.ends[position - 1] if position else 0
        return Path(self.root, os.fsdecode(self.names[start : self.ends[position]].tobytes()))

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The images at ``index`` as evaluation sees them, uint8 (m, 3, size, size); InputError for a damaged file."""
        positions = torch.arange(len(self))[index]
        images = np.empty((len(positions), self.size, self.size, 3), dtype=np.uint8)
        for row, position in enumerate(positions.tolist()):
            images[row] = self.read(position, self.middle)
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def read(self, position: int, choose: Callable[[int, int], Box]) -> np.ndarray:
        """The part of an image that ``choose`` returns (see `decode.cut`), uint8 (size, size, 3).

        Raises InputError naming the file if it cannot be read, DamagedImage if that is due to its bytes.
        """
        try:
            return cut(self.path(position), self.size, choose)
        except Unreadable as error:
            kind = InputError if getattr(error.__cause__, "errno", None) else DamagedImage  # the disk's or the bytes'
            raise kind(f"{self.path(position)}: {error}; repair the file or remove it") from None

    def middle(self, width: int, height: int) -> Box:
        """The square that evaluation cuts out of an image of this size."""
        return middle(width, height, size=self.size, resize=self.resize)

    def digest(self) -> bytes:
        """sha256 over the files' bytes and the two sizes; what the files are called does not count."""
        return hashlib.sha256(f"{self.size} {self.resize}".encode() + self.content).digest()


def hashes_of(paths: Sequence[str], root: Path) -> np.ndarray:
    """`contents` of files that must all be there, uint8 (n, 32). Raises InputError naming those that cannot be used."""
    hashes, reasons = contents(root, paths)
    if reasons:
        reason = next(iter(reasons.values()))
        found = [paths[position] for position, other in reasons.items() if other == reason]
        raise InputError(
            f"{root}: {len(found)} of {len(paths)} files cannot be used ({reason}): {some(found)}; unpack the archive "
            "again, or copy them there"
        )
    return hashes


def check_below(file: Path, paths: Iterable[str]) -> None:
    """Raise InputError if one of the paths that ``file`` lists leads out of the folder of images."""
    wrong = next((path for path in paths if _NOT_BELOW.search(path)), None)
    if wrong is not None:
        raise InputError(f"{file}: found the path {wrong[:200]!r}; valid: one below the folder of images, without ..")


def list_folders(root: Path, folders: Iterable[str]) -> dict[str, list[str]]:
    """For each of ``folders`` (relative to ``root``): the names of the files in it that are not hidden.

    Raises InputError for a folder that is missing or cannot be listed.
    """
    names = sorted(folders)
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return dict(zip(names, pool.map(lambda folder: _files(root / folder), names), strict=True))


def _files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}") from None
