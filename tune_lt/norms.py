"""The gradient norms a trained network leaves on its training images: what the paper's Figure 2 shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tune_lt import data, losses, parallel

BINS = 100  # of equal width over [0, 1]: finer than any loss's unit regions


@torch.no_grad()
def recorded(
    model: nn.Module, loss: losses.Loss, batches: data.AnyBatches, groups: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Histograms of the loss's gradient norms g over the images in ``batches``, not augmented, in eval mode.

    ``{"bins": 100, "counts": {name: [100 counts]}, "largest": c, "smallest": c, "edges": {name: [N + 1]} or None}``:
    the names are ``all``, those of ``groups`` (classes by size), ``largest`` and ``smallest``, the classes with the
    most and the fewest training images. ``edges`` are those two classes' unit regions, of a loss that has them.
    """
    model.eval()
    loss.eval()
    classes = len(loss.class_counts)
    table = torch.zeros(classes * BINS, dtype=torch.int64, device=loss.class_counts.device)
    for x, y in batches.epoch(0):
        if len(y):
            g = loss.gradient_norm(model(x).float(), y)
            cells = y * BINS + (g * BINS).long().clamp(0, BINS - 1)
            table.index_add_(0, cells, torch.ones_like(cells))
    counts = parallel.total(table).view(classes, BINS).cpu()
    extremes = {"largest": int(loss.class_counts.argmax()), "smallest": int(loss.class_counts.argmin())}
    members = {"all": list(range(classes)), **groups} | {name: [label] for name, label in extremes.items()}
    edges = loss.unit_regions()
    return {
        "bins": BINS,
        "counts": {name: counts[list(labels)].sum(0).tolist() for name, labels in members.items()},
        **extremes,
        "edges": None if edges is None else {name: edges[label].tolist() for name, label in extremes.items()},
    }
