"""The gradient norms of a trained network on its training images, which the paper's Figure 2 shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from tune_lt import data, distributed, losses
from tune_lt.documents import Norms

BINS = 100  # of the recorded histograms, of equal width over [0, 1]
FINE = 1000  # bins to compare unit regions with, narrower than any of those


@torch.no_grad()
def recorded(
    model: nn.Module, loss: losses.Loss, batches: data.AnyBatches, groups: Mapping[str, Sequence[int]]
) -> Norms:
    """Histograms of the loss's gradient norms over the images in ``batches``, with network and loss in eval mode.

    ``groups``: the classes of each group. The ``largest`` and the ``smallest`` class are those with the most and the
    fewest training images. ``precision`` holds the `density_error` of each class.
    """
    model.eval()
    loss.eval()
    classes = len(loss.class_counts)
    table = torch.zeros(classes * FINE, dtype=torch.int64, device=loss.class_counts.device)
    for x, y in batches.epoch(0):
        if len(y):
            g = loss.gradient_norm(model(x).float(), y)
            cells = y * FINE + (g * FINE).long().clamp(0, FINE - 1)
            table.index_add_(0, cells, torch.ones_like(cells))
    fine = distributed.total(table).view(classes, FINE).cpu()
    counts = fine.view(classes, BINS, FINE // BINS).sum(2)
    extremes = {"largest": int(loss.class_counts.argmax()), "smallest": int(loss.class_counts.argmin())}
    members = {"all": list(range(classes)), **groups} | {name: [label] for name, label in extremes.items()}
    edges = loss.unit_regions()
    precision = None
    if edges is not None:
        own = edges.double().cpu().numpy()
        equal = np.broadcast_to(np.linspace(0, 1, own.shape[1]), own.shape)
        precision = {
            name: [density_error(row, ends) for row, ends in zip(fine.numpy(), regions, strict=True)]
            for name, regions in (("own", own), ("equal", equal))
        }
    return Norms(
        BINS,
        {name: counts[list(labels)].sum(0).tolist() for name, labels in members.items()},
        extremes["largest"],
        extremes["smallest"],
        edges=None if edges is None else {name: edges[label].tolist() for name, label in extremes.items()},
        precision=precision,
    )


def density_error(counts: np.ndarray, edges: np.ndarray) -> float | None:
    """How far a class's density, if taken as constant in each region, is from its density in narrow bins.

    The mean over the images of |log of the mean density in the image's region − log of the density in its bin|; None
    without images. ``counts`` (bins): images in bins of equal width over [0, 1]; ``edges`` (N + 1): of the regions. An
    edge inside a bin divides its images in proportion.
    """
    total = counts.sum()
    if not total:
        return None
    bins = len(counts)
    below = np.interp(edges, np.linspace(0, 1, bins + 1), np.concatenate([[0], np.cumsum(counts)]))
    mean = np.diff(below) / np.maximum(np.diff(edges), 1e-12)  # images per unit of g
    taken = np.flatnonzero(counts)
    region = np.clip(np.searchsorted(edges, (taken + 0.5) / bins, side="right") - 1, 0, len(edges) - 2)
    error = np.abs(np.log(np.maximum(mean[region], 1e-12)) - np.log(counts[taken] * bins))
    return float((error * counts[taken]).sum() / total)
