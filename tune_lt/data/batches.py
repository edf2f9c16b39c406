"""Batches of small images: kept on the device as bytes, and cropped, mirrored and normalised there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tune_lt import distributed
from tune_lt.config import Augment
from tune_lt.errors import InputError


@dataclass(frozen=True, eq=False)
class Draw:
    """The random choices of one epoch for n images, all on the CPU.

    ``rank`` (n,): each image's place in the order of the epoch. ``offsets`` (n, 2): of the crop, rows and columns.
    ``flips``, ``vertical`` bool (n,): whether it is mirrored left to right, upside down. ``turns`` (n,): quarter turns
    counter-clockwise, 0 … 3.
    """

    rank: Tensor
    offsets: Tensor
    flips: Tensor
    vertical: Tensor
    turns: Tensor


def draw(seed: int, epoch: int, images: int, crop: int) -> Draw:
    """The random choices of an epoch for a data set of ``images`` images, from a generator of their own.

    Offsets are uniform over 0 … 2·crop, turns over 0 … 3, mirroring has probability one half. They depend on the
    arguments alone, so neither batch size, nor the order of an index, nor the device changes what happens to an image.
    """
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    rank = torch.randperm(images, generator=generator)
    offsets = torch.randint(0, 2 * crop + 1, (images, 2), generator=generator)
    flips, vertical = (torch.rand(images, generator=generator) < 0.5 for _ in range(2))
    return Draw(rank, offsets, flips, vertical, torch.randint(0, 4, (images,), generator=generator))


class Batches:
    """The images at ``index``, once per epoch, in batches that a network can take.

    ``images`` uint8 (n, C, H, W), ``labels`` int64 (n,), ``index`` int64 (m,) positions in them. ``mean``, ``std``:
    per channel, pixels in [0, 1]. With ``augment`` the batches are for training: the order of each epoch and what
    happens to its images follow from ``seed``; crops are those of torchvision's RandomCrop, with black padding. Without
    ``augment`` images come unchanged, in the order of the index. The host never waits for the device.

    With several ranks each gets a share of every batch; concatenated in the order of the ranks, the shares are the
    batch of a single process. A share of a small batch may be empty. ``sizes``: images in each whole batch (see the
    function `sizes`).

    Raises InputError if there is no image, the batch size is below 1, or ``augment`` does not suit images in memory.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment | None,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self.sizes = sizes(len(index), batch_size, training=augment is not None)
        if augment is not None and augment.scale is not None:
            raise InputError(
                f"recipe.augment.scale: found {list(augment.scale)}, but these images are in memory; valid: null (only "
                "images that stay on disk, such as image_folder's with stream: true, take other values)"
            )
        if augment is not None and augment.rotate and images.shape[2] != images.shape[3]:
            raise InputError(
                f"recipe.augment.rotate: images are {tuple(images.shape[2:])}; valid: false, or square ones"
            )
        self.augment, self.seed, self.device = augment, seed, torch.device(device)
        self._index, self._total = index.cpu(), len(images)
        here = images.device.type == self.device.type  # otherwise only the images of the index are copied to the device
        self._rows = self._index.to(self.device) if here else torch.arange(len(index), device=self.device)
        self._images = (images if here else images[index]).to(self.device)
        self._labels = labels[index.to(labels.device)].to(self.device)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device).view(1, -1, 1, 1) * 255
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device).view(1, -1, 1, 1) * 255

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self.sizes)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, y): x float32 (b, C, H, W) normalised, y int64 (b,), both on the device."""
        if self.augment is None:
            for part in parts(self.sizes):
                yield self._normalised(self._images[self._rows[part]]), self._labels[part]
            return
        drawn = draw(self.seed, epoch, self._total, self.augment.crop)
        order = drawn.rank[self._index].argsort(stable=True)  # positions in the index
        chosen = self._index[order]
        flips = drawn.flips[chosen] & self.augment.flip
        order, offsets, flips, vertical, turns = (
            values.to(self.device, non_blocking=True)
            for values in (order, drawn.offsets[chosen], flips, drawn.vertical[chosen], drawn.turns[chosen])
        )
        for part in parts(self.sizes):
            x = self._images[self._rows[order[part]]]
            x = crop_and_flip(x, offsets[part], flips[part], self.augment.crop)
            if self.augment.vertical:
                x = _where(vertical[part], x.flip(2), x)
            if self.augment.rotate:
                x = turned(x, turns[part])
            yield self._normalised(x), self._labels[order[part]]

    def _normalised(self, x: Tensor) -> Tensor:
        return x.float().sub_(self._mean).div_(self._std)


def sizes(images: int, batch_size: int, *, training: bool) -> list[int]:
    """The number of images in each batch: ``batch_size``, and in the last one what is left; no image is dropped.

    In ``training`` a single image that is left joins the batch before it, because batch normalisation has no variance
    of one value. Only a batch size of 1, or one image in all, then makes batches of one image.

    Raises InputError if there is no image or the batch size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size!r}, but it must be at least 1")
    if images == 0:
        raise InputError("no images to make batches of: the index is empty")
    found = [min(batch_size, images - start) for start in range(0, images, batch_size)]
    if training and found[-1] == 1 < batch_size and len(found) > 1:
        found[-2:] = [batch_size + 1]
    return found


def parts(sizes: Sequence[int]) -> Iterator[slice]:
    """This rank's share of each batch, as a slice of the epoch's images."""
    start = 0
    for images in sizes:
        mine = distributed.share(images)
        yield slice(start + mine.start, start + mine.stop)
        start += images


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Square images (b, C, side, side), each turned counter-clockwise by as many quarters as ``turns`` (b,) says."""
    x = _where(turns % 2 == 1, x.rot90(1, (2, 3)), x)
    return _where(turns >= 2, x.rot90(2, (2, 3)), x)


def _where(chosen: Tensor, x: Tensor, otherwise: Tensor) -> Tensor:
    """The images of ``x`` where ``chosen`` bool (b,), of ``otherwise`` elsewhere."""
    return torch.where(chosen[:, None, None, None], x, otherwise)


def crop_and_flip(x: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """torchvision's pad with zeros, crop and hflip of images (b, C, H, W), each with an offset and a flip of its own.

    ``offsets`` (b, 2): rows and columns, 0 … 2·padding; ``flips`` bool (b,).
    """
    batch, channels, height, width = x.shape
    rows = torch.arange(height, device=x.device) + offsets[:, :1]
    columns = torch.arange(width, device=x.device).expand(batch, -1)
    columns = torch.where(flips[:, None], width - 1 - columns, columns) + offsets[:, 1:]
    padded = pad(x, (padding,) * 4)
    stride = width + 2 * padding
    pixels = (rows[:, :, None] * stride + columns[:, None, :]).flatten(1)
    cut = padded.flatten(2).gather(2, pixels[:, None].expand(-1, channels, -1))
    return cut.view(batch, channels, height, width)
