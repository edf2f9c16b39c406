"""Accuracies of predictions, as fractions in [0, 1]; NaN where there is no image to score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from tune_lt import data, distributed
from tune_lt.config import GROUPS
from tune_lt.documents import ByImage


def tally(predictions: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Right predictions and images of each class, int64 (classes, 2). The tallies of several batches can be added.

    ``predictions``, ``targets``: integers (n,), targets in 0 … classes − 1. The result stays on their device, and
    nothing waits for that device. This is not a confusion matrix, which would take half a gigabyte for 8,142 classes.
    Raises IndexError (on the CPU) for a target outside that range, ValueError if the shapes differ.
    """
    if predictions.shape != targets.shape or targets.ndim != 1:
        raise ValueError(f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must be (n,)")
    counts = torch.zeros(classes, 2, dtype=torch.int64, device=targets.device)
    right = predictions.long() == targets.long()
    return counts.index_put_(
        (targets.long(),), torch.stack([right, torch.ones_like(right)], dim=1).long(), accumulate=True
    )


def groups(split_counts: Sequence[int]) -> dict[str, list[int]]:
    """Classes by training size, largest first, in four nearly equal parts: many, medium, few, rare.

    Ten classes give 3, 3, 2, 2 (numpy's `array_split`); classes of equal size stay in the order of their index;
    with fewer than four classes the last groups are empty.
    """
    order = sorted(range(len(split_counts)), key=lambda c: -split_counts[c])
    parts = np.array_split(np.array(order, dtype=np.int64), len(GROUPS))
    return {name: part.tolist() for name, part in zip(GROUPS, parts, strict=True)}


@dataclass(frozen=True)
class Scores:
    """Accuracies in [0, 1] over one set of images; NaN for a class or group without any.

    ``top1``: right predictions / images; ``balanced``: the mean of ``per_class`` over the classes that have images;
    ``groups``: right predictions / images over all classes of a group; ``per_class``: the recall of each class.
    """

    top1: float
    balanced: float
    groups: Mapping[str, float]
    per_class: tuple[float, ...]

    @classmethod
    def of(cls, tally: Tensor, groups: Mapping[str, Sequence[int]]) -> Self:
        """The scores of a `tally` on the CPU, (classes, 2)."""
        per_class: list[float] = _accuracy(tally).tolist()
        known = [recall for recall in per_class if not math.isnan(recall)]
        return cls(
            top1=_accuracy(tally.sum(0)).item(),
            balanced=sum(known) / len(known) if known else math.nan,
            groups={name: _accuracy(tally[list(classes)].sum(0)).item() for name, classes in groups.items()},
            per_class=tuple(per_class),
        )


def _accuracy(counts: Tensor) -> Tensor:
    """Right predictions / images, (..., 2) -> (...) in float64; 0 / 0 is NaN."""
    return counts[..., 0].double() / counts[..., 1]


class ImageScores:
    """A table with a line for each of ``images`` images: its label, whether it was right, the probability of its label.

    Every rank adds the images that it scored; `content` gives those of all ranks, on every rank.
    """

    def __init__(self, images: int, device: torch.device) -> None:
        self._table = torch.zeros(images, 3, device=device)

    def add(self, positions: slice, logits: Tensor, targets: Tensor) -> None:
        """Add the images at these positions, with their logits (b, C) and targets (b,)."""
        p = logits.float().softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)
        right = logits.argmax(dim=1) == targets
        self._table[positions] = torch.stack([targets.float(), right.float(), p], dim=1)

    def content(self) -> ByImage:
        """The whole table, with probabilities rounded to four digits."""
        labels, right, p = distributed.total(self._table).cpu().T
        return ByImage(labels.long().tolist(), right.long().tolist(), [round(value, 4) for value in p.tolist()])


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: data.AnyBatches,
    groups: Mapping[str, Sequence[int]],
    offset: Tensor,
    images: ImageScores | None = None,
) -> Scores:
    """Score ``model`` in eval mode on ``batches``; ``images`` also gets the result of each image.

    ``offset`` (C,) is subtracted from the logits. With tau times the logarithm of the training counts this is post-hoc
    logit adjustment (Menon et al. 2021, Eq. 9); zeros change nothing.
    """
    model.eval()
    table = torch.zeros(len(offset), 2, dtype=torch.int64, device=offset.device)
    for share, (x, y) in zip(data.parts(batches.sizes), batches.epoch(0), strict=True):
        if len(y):
            logits = model(x) - offset
            table += tally(logits.argmax(dim=1), y, len(offset))
            if images:
                images.add(share, logits, y)
    return Scores.of(distributed.total(table).cpu(), groups)  # .cpu() waits for the device, once in the evaluation
