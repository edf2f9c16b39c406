"""Images that stay on disk: where they lie, in little memory, and what of each evaluation sees."""

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

from tune_lt.data.decode import Box, Unreadable, cut, middle
from tune_lt.errors import InputError
from tune_lt.texts import some

# ImageNet's, per channel: what every recipe for large images normalises with
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Side = Annotated[int, Ge(32), Le(1024)]
Listing = Mapping[str, Mapping[str, int]]  # folder below the root -> name of a file in it -> its bytes
_LEADS_OUT = re.compile(r"^/|^$|(?:^|/)\.\.(?:/|$)|[\0\ud800-\udfff]")  # or is no path at all
_THREADS = 16  # on a network's disk, listing is waiting


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images on disk that stand where a uint8 tensor (n, 3, size, size) may: with a length, a shape, and indexing.

    ``names``: the paths below ``root``, encoded, one behind the other (uint8); ``ends`` int64 (n,): where in it each
    ends; ``lengths`` int64 (n,): the files' bytes. ``size``: the side of the images. ``resize``: what the shorter side
    of an image is scaled to at evaluation, before the centre is cut out. Make one with `ImageFiles.of`.

    Arrays, because more than a million paths go to every worker: about 60 bytes an image rather than 600.
    """

    root: str
    names: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray
    size: int
    resize: int

    @classmethod
    def of(
        cls,
        paths: Sequence[str],
        *,
        root: Path,
        size: int,
        resize: int | None = None,
        listing: Listing | None = None,
    ) -> ImageFiles:
        """The files at ``paths``, relative to ``root`` and with slashes.

        ``resize``: 8/7 of the size by default, 256 for 224. ``listing`` of their folders spares doing that here. Only
        folders are read, no file. Raises InputError naming files that are missing or empty.
        """
        resize = round(size * 8 / 7) if resize is None else resize
        if resize < size:
            raise InputError(f"resize = {resize!r}, but it must be at least the size, {size}")
        if listing is None:
            listing = list_folders(root, {path.rpartition("/")[0] for path in paths})
        lengths = []
        for path in paths:
            folder, _, name = path.rpartition("/")
            lengths.append(listing[folder].get(name, -1))
        for what, bad in (("missing", -1), ("empty (0 bytes)", 0)):
            found = [path for path, length in zip(paths, lengths, strict=True) if length == bad]
            if found:
                raise InputError(
                    f"{root}: {len(found)} of {len(paths)} files are {what}: {some(found)}; "
                    "unpack the archive again, or copy them there"
                )
        encoded = [os.fsencode(path) for path in paths]
        ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return cls(str(root), names, ends, np.array(lengths, dtype=np.int64), size, resize)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def shape(self) -> torch.Size:
        """(n, 3, size, size), as the tensor's would be."""
        return torch.Size((len(self), 3, self.size, self.size))

    @property
    def nbytes(self) -> int:
        """What it takes in memory; the images take nothing."""
        return int(self.names.nbytes + self.ends.nbytes + self.lengths.nbytes)

    def path(self, position: int) -> Path:
        """Where the image at ``position`` lies."""
        start = self.ends[position - 1] if position else 0
        return Path(self.root, os.fsdecode(self.names[start : self.ends[position]].tobytes()))

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The images at these positions as evaluation sees them, uint8 (m, 3, size, size); InputError if unreadable."""
        positions = torch.arange(len(self))[index]
        images = np.empty((len(positions), self.size, self.size, 3), dtype=np.uint8)
        for row, position in enumerate(positions.tolist()):
            images[row] = self.read(position, self.middle)
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def read(self, position: int, choose: Callable[[int, int], Box]) -> np.ndarray:
        """What ``choose`` cuts out of an image (`decode.cut`), uint8 (size, size, 3); InputError naming the file."""
        try:
            return cut(self.path(position), self.size, choose)
        except Unreadable as error:
            raise InputError(f"{self.path(position)}: {error}; repair the file or remove it") from None

    def middle(self, width: int, height: int) -> Box:
        """The square that evaluation sees of an image of this size."""
        return middle(width, height, size=self.size, resize=self.resize)

    def digest(self) -> bytes:
        """sha256 over the paths below the root, the files' lengths and how they are cut; pixels are not read."""
        digest = hashlib.sha256(f"{self.size} {self.resize}".encode())
        for array in (self.names, self.ends, self.lengths):
            digest.update(np.ascontiguousarray(array).data)
        return digest.digest()


def check_below(file: Path, paths: Iterable[str]) -> None:
    """Raise InputError, naming ``file`` which lists them, for a path that is not one below the folder of images."""
    wrong = next((path for path in paths if _LEADS_OUT.search(path)), None)
    if wrong is not None:
        raise InputError(f"{file}: found the path {wrong[:200]!r}; valid: one below the folder of images, without ..")


def list_folders(root: Path, folders: Iterable[str]) -> dict[str, dict[str, int]]:
    """The files of each of ``folders`` below ``root``, by name, with their bytes; hidden ones are left out.

    Raises InputError for a folder that is not there or cannot be listed.
    """
    names = sorted(folders)
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return dict(zip(names, pool.map(lambda folder: _files(root / folder), names), strict=True))


def _files(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            visible = (entry for entry in entries if not entry.name.startswith(".") and entry.is_file())
            return {entry.name: entry.stat().st_size for entry in visible}
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror}") from None
