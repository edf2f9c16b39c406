"""How the runs of a study differ and how finely they are scored, and what its intervals therefore cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tune_lt.documents import BY_IMAGE, PER_CLASS, ByImage, Contents, PerClass
from tune_lt.report.tables.differences import Draw
from tune_lt.report.tables.summary import Scoring, cells_at, records_of
from tune_lt.store import CellRecord, Store
from tune_lt.training import accuracies


def scorings(store: Store, content: Contents, finished: Mapping[str, CellRecord]) -> dict[float | None, Scoring]:
    """By imbalance factor; `Scoring.steps` is empty where no run recorded its sealed images.

    ``finished``: cells by fingerprint, as `Store.finished_cells` gives them. Reads an artifact for each factor, and one
    more.
    """
    found, images = {}, None
    for imbalance in content.columns:
        record = next(iter(records_of(cells_at(content.rows, imbalance), finished)), None)
        classes = store.read(record.run_id, PER_CLASS, PerClass.of) if record else None
        if record and images is None:  # the same for every factor
            images = store.read(record.run_id, BY_IMAGE, ByImage.of)
        known = steps(classes.class_counts, images.label) if classes and images else {}
        found[imbalance] = Scoring(draw_of(content, imbalance), known)
    return found


def steps(class_counts: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
    """By how much one image changes each metric of the sealed test. ``labels``: of the sealed images."""
    images = np.bincount(labels, minlength=len(class_counts))
    sizes = {name: int(images[own].sum()) for name, own in accuracies.groups(class_counts).items()}
    found = {f"test/{name}": 1 / size for name, size in sizes.items() if size}
    scored = images[images > 0]
    return found | {"test/top1": 1 / int(images.sum()), "test/balanced": 1 / int(len(scored) * scored.min())}


def draw_of(content: Contents, imbalance: float | None) -> Draw:
    """What the data seed of a study's runs with this imbalance factor does."""
    if content.data.get("resample"):
        return "bootstrap"
    return "fixed" if imbalance in (None, 1) and content.data["largest"] is None else "sub-sample"


def covered(content: Contents) -> list[str]:
    """The footnote on what the intervals of a study cover, where that is not one sub-sample for each run."""
    pairs = {(cell.data_seed, cell.init_seed) for cell in content.cells}
    draws, kinds = len({data for data, _ in pairs}), {draw_of(content, imbalance) for imbalance in content.columns}
    if len(pairs) == 1:
        return []
    if "fixed" in kinds:
        at = "" if len(kinds) == 1 else "At imbalance 1: "
        return [
            f"{at}All runs have the same training images. So intervals, tests and ≈ cover initialisation, order and "
            "augmentation, but not another draw of the images; seeds: {resample: [0, 1, …]} in the study file does."
        ]
    if draws == 1:
        return [
            "All runs have one sub-sample of the training images. So intervals, tests and ≈ cover initialisation, "
            "order and augmentation, but not another sub-sample; several data seeds do."
        ]
    if "bootstrap" in kinds:
        return [
            "Each data seed draws the training images of every class anew from those that are there (bootstrap). The "
            "draws share images, so the standard error is s · √(1 + 1/n) and not s · √(1/n): intervals, tests and ≈ "
            "cover other images of the same kind."
        ]
    if draws < len(pairs):
        return [
            f"{len(pairs)} runs on {draws} sub-samples: for intervals, tests and ≈ the runs on a sub-sample count as "
            f"one, their mean, so n is {draws}."
        ]
    return []
