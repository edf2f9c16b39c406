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


def groups(split_counts: Sequence[int]) -> dict[str, list[int]]:
    """Classes by training size, largest first, in four nearly equal parts: many, medium, few, rare.

    Ten classes give 3, 3, 2, 2 (numpy's `array_split`); classes of equal size stay in the order of their index;
    with fewer than four classes the last groups are empty.
    """
    order = sorted(range(len(split_counts)), key=lambda c: -split_counts[c])
    parts = np.array_split(np.array(order, dtype=np.int64), len(GROUPS))
    return {name: part.tolist() for name, part in zip(GROUPS, parts, strict=True)}


def measured(split: data.CellData) -> set[str]:
    """The metrics that the held-out images of a cell give: that of a group only if one of its classes has an image."""
    held_out = set(range(len(split.split_counts))) - set(split.unvalidated)
    given = {f"val/{name}" for name, own in groups(split.split_counts).items() if held_out & set(own)}
    return {"val/top1", "val/balanced"} | given


def scored(logits: Tensor, targets: Tensor) -> Tensor:
    """By image its label, whether the prediction is right (0 or 1), and the probability of its label; float32 (b, 3).

    ``logits``: (b, C); ``targets``: int64 (b,). The result stays on their device, and nothing waits for that device.
    """
    p = logits.float().softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)
    right = logits.argmax(dim=1) == targets
    return torch.stack([targets.float(), right.float(), p], dim=1)


@torch.no_grad()
def evaluate(model: nn.Module, batches: data.AnyBatches, offset: Tensor) -> Tensor:
    """Score every image of ``batches`` with ``model`` in eval mode: a line of `scored` for each, (n, 3), on the CPU.

    ``offset`` (C,) is subtracted from the logits. With tau times the logarithm of the training counts this is post-hoc
    logit adjustment (Menon et al. 2021, Eq. 9); zeros change nothing. With several ranks every rank gets all lines.
    """
    model.eval()
    table = torch.zeros(sum(batches.sizes), 3, device=offset.device)
    for share, (x, y) in zip(data.parts(batches.sizes), batches.epoch(0), strict=True):
        if len(y):
            table[share] = scored(model(x) - offset, y)
    return distributed.total(table).cpu()


def by_image(table: Tensor) -> ByImage:
    """The document of what `evaluate` gave, with probabilities rounded to four digits."""
    labels, right, p = table.T
    return ByImage(labels.long().tolist(), right.long().tolist(), [round(value, 4) for value in p.tolist()])


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
    def of(cls, table: Tensor, classes: int, groups: Mapping[str, list[int]]) -> Self:
        """The scores of the images in a table that `evaluate` gave. ``groups``: the classes of each group."""
        labels = table[:, 0].long()
        images = labels.bincount(minlength=classes)
        right = labels.bincount(table[:, 1].double(), minlength=classes)
        recalls: list[float] = (right / images).tolist()  # 0 / 0 is NaN
        known = [recall for recall in recalls if not math.isnan(recall)]
        return cls(
            top1=(right.sum() / images.sum()).item(),
            balanced=sum(known) / len(known) if known else math.nan,
            groups={name: (right[own].sum() / images[own].sum()).item() for name, own in groups.items()},
            per_class=tuple(recalls),
        )
