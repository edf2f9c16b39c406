"""Accuracies from counts of right predictions. All are fractions in [0, 1]; NaN where there is nothing to score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tune_lt import data, distributed
from tune_lt.config import GROUPS
from tune_lt.documents import ByImage


def tally(predictions: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Right predictions and images of each class, int64 (classes, 2); those of several batches add up.

    ``predictions``, ``targets``: integers (n,), targets in 0 … classes − 1. Stays on their device and reads nothing
    back. Not a confusion matrix: of 8,142 classes that would take half a gigabyte.
    Raises IndexError (on the CPU) for a target that does not exist, ValueError if the shapes differ.
    """
    if predictions.shape != targets.shape or targets.ndim != 1:
        raise ValueError(f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must be (n,)")
    counts = torch.zeros(classes, 2, dtype=torch.int64, device=targets.device)
    right = predictions.long() == targets.long()
    return counts.index_put_(
        (targets.long(),), torch.stack([right, torch.ones_like(right)], dim=1).long(), accumulate=True
    )


def scores(tally: Tensor) -> dict[str, float]:
    """``top1``: share of right predictions; ``balanced``: mean recall over the classes that have images."""
    recalls = [recall for recall in per_class(tally) if not math.isnan(recall)]
    right, total = tally.sum(0).tolist()
    return {"top1": _ratio(right, total), "balanced": sum(recalls) / len(recalls) if recalls else math.nan}


def per_class(tally: Tensor) -> list[float]:
    """Recall of each class; NaN for a class without images."""
    return [_ratio(right, total) for right, total in tally.tolist()]


def groups(split_counts: Sequence[int]) -> dict[str, list[int]]:
    """Classes by training size, largest first, in four nearly equal parts: many, medium, few, rare.

    Ten classes give 3, 3, 2, 2 (numpy's `array_split`); classes of equal size stay in the order of their index;
    with fewer than four classes the last groups are empty.
    """
    order = sorted(range(len(split_counts)), key=lambda c: -split_counts[c])
    parts = np.array_split(np.array(order, dtype=np.int64), len(GROUPS))
    return {name: part.tolist() for name, part in zip(GROUPS, parts, strict=True)}


def group_scores(tally: Tensor, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Share of correct predictions among all images of each group's classes; NaN for a group without images."""
    right, total = tally.T.tolist()
    return {
        name: _ratio(sum(right[c] for c in classes), sum(total[c] for c in classes)) for name, classes in groups.items()
    }


class ImageScores:
    """What became of each of ``images`` images: its label, whether it was right, the probability of its class.

    Several ranks each add their own; `content` gives all of them, on every rank.
    """

    def __init__(self, images: int, device: torch.device) -> None:
        self._table = torch.zeros(images, 3, device=device)

    def add(self, positions: slice, logits: Tensor, targets: Tensor) -> None:
        """Logits (b, C) and targets (b,) of the images at these positions."""
        p = logits.float().softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)
        right = logits.argmax(dim=1) == targets
        self._table[positions] = torch.stack([targets.float(), right.float(), p], dim=1)

    def content(self) -> ByImage:
        """Of every image, with probabilities to four digits."""
        labels, right, p = distributed.total(self._table).cpu().T
        shown = [round(value, 4) for value in p.tolist()]
        return ByImage(labels.long().tolist(), right.long().tolist(), shown)


def _ratio(right: int, total: int) -> float:
    return right / total if total else math.nan


@dataclass(frozen=True)
class Scores:
    """Accuracies in [0, 1] over one set of images; NaN where a class or group has none."""

    top1: float
    balanced: float
    groups: Mapping[str, float]
    per_class: tuple[float, ...]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: data.AnyBatches,
    groups: Mapping[str, list[int]],
    classes: int,
    offset: torch.Tensor,
    seen: ImageScores | None = None,
) -> Scores:
    """Accuracies of ``model`` over ``batches``; ``offset`` (C,) is subtracted from the logits, ``seen`` told of each.

    With ``offset`` = tau times the log of the training counts this is post-hoc logit adjustment (Menon et al. 2021,
    Eq. 9).
    """
    model.eval()
    table = torch.zeros(classes, 2, dtype=torch.int64, device=offset.device)
    for share, (x, y) in zip(data.parts(batches.sizes), batches.epoch(0), strict=True):
        if len(y):
            logits = model(x) - offset
            table += tally(logits.argmax(dim=1), y, classes)
            if seen:
                seen.add(share, logits, y)
    table = distributed.total(table).cpu()  # the only read-back of the evaluation
    whole = scores(table)
    return Scores(
        top1=whole["top1"],
        balanced=whole["balanced"],
        groups=group_scores(table, groups),
        per_class=tuple(per_class(table)),
    )
