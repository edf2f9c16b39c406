"""What a network gets right on a set of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tune_lt import data, distributed
from tune_lt.training import accuracies


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
    seen: accuracies.ByImage | None = None,
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
            table += accuracies.tally(logits.argmax(dim=1), y, classes)
            if seen:
                seen.add(share, logits, y)
    table = distributed.total(table).cpu()  # the only read-back of the evaluation
    whole = accuracies.scores(table)
    return Scores(
        top1=whole["top1"],
        balanced=whole["balanced"],
        groups=accuracies.group_scores(table, groups),
        per_class=tuple(accuracies.per_class(table)),
    )
