"""Accuracies from a confusion matrix. All are fractions in [0, 1]; NaN where there is nothing to score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

GROUPS = ("many", "medium", "few", "rare")


def confusion(predictions: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Counts int64 (classes, classes), row = target, column = prediction; those of several batches add up.

    ``predictions``, ``targets``: integers (n,) in 0 … classes − 1. Stays on their device and reads nothing back.
    Raises IndexError (on the CPU) for a class that does not exist, ValueError if the shapes differ.
    """
    if predictions.shape != targets.shape or targets.ndim != 1:
        raise ValueError(f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must be (n,)")
    counts = torch.zeros(classes, classes, dtype=torch.int64, device=targets.device)
    ones = torch.ones(1, dtype=torch.int64, device=targets.device).expand(len(targets))
    # Two indices rather than one flat bincount: a prediction out of range cannot land in another class's row.
    return counts.index_put_((targets.long(), predictions.long()), ones, accumulate=True)


def scores(confusion: Tensor) -> dict[str, float]:
    """``top1``: share of correct predictions; ``balanced``: mean recall over the classes that have images."""
    recalls = [recall for recall in per_class(confusion) if not math.isnan(recall)]
    return {
        "top1": _ratio(int(confusion.trace()), int(confusion.sum())),
        "balanced": sum(recalls) / len(recalls) if recalls else math.nan,
    }


def per_class(confusion: Tensor) -> list[float]:
    """Recall of each class; NaN for a class without images."""
    counts = confusion.cpu()
    return [
        _ratio(right, total) for right, total in zip(counts.diagonal().tolist(), counts.sum(1).tolist(), strict=True)
    ]


def groups(split_counts: Sequence[int]) -> dict[str, list[int]]:
    """Classes by training size, largest first, in four nearly equal parts: many, medium, few, rare.

    Ten classes give 3, 3, 2, 2 (numpy's `array_split`); classes of equal size stay in the order of their index;
    with fewer than four classes the last groups are empty.
    """
    order = sorted(range(len(split_counts)), key=lambda c: -split_counts[c])
    parts = np.array_split(np.array(order, dtype=np.int64), len(GROUPS))
    return {name: part.tolist() for name, part in zip(GROUPS, parts, strict=True)}


def group_scores(confusion: Tensor, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Share of correct predictions among all images of each group's classes; NaN for a group without images."""
    counts = confusion.cpu()
    right, total = counts.diagonal().tolist(), counts.sum(1).tolist()
    return {
        name: _ratio(sum(right[c] for c in classes), sum(total[c] for c in classes)) for name, classes in groups.items()
    }


def _ratio(right: int, total: int) -> float:
    return right / total if total else math.nan
