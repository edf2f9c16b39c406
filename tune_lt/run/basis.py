"""What a study's results rest on beside its file: images and plugins. A run says so when they are not the same."""

from __future__ import annotations

from contextlib import suppress

from tune_lt import data
from tune_lt.documents import BASIS, Basis
from tune_lt.errors import InputError
from tune_lt.store import Store
from tune_lt.study import Study
from tune_lt.study.cells import row_cell
from tune_lt.texts import some
from tune_lt.training.identity import used


def basis_of(study: Study, dataset: data.Dataset) -> Basis:
    """What the results of the study rest on now; of plugins and pretrained weights only what a cell uses."""
    parts = [(space.model, space.loss) for space in study.searches.values()]
    parts += [(cell.model, cell.loss) for cell in (row_cell(study, row, {}) for row in study.rows)]
    sources: dict[str, str] = {}
    for model, loss in parts:
        sources |= used(study.data, model, loss, study.sources)
    images = len(dataset.train_labels), len(dataset.test_labels)
    return Basis(*images, dataset.hashes.training, dataset.hashes.whole, sources)


def recorded_basis(store: Store, study: str) -> Basis | None:
    """What the recorded runs of a study rest on, None if that is not known."""
    with suppress(InputError):  # a damaged document is no reason to stop: it is only compared
        if parent := store.parent(study):
            return store.read(parent.info.run_id, BASIS, Basis.of)
    return None


def changes(before: Basis | None, now: Basis) -> list[str]:
    """Lines that say why cells of a study are new although its file may be the same."""
    if before is None:
        return []
    lines = []
    counts = [("training", before.training_images, now.training_images), ("test", before.test_images, now.test_images)]
    told = "; ".join(
        f"{here:,} {split} images, the recorded runs had {there:,}" for split, there, here in counts if there != here
    )
    told = told or f"as many images as the recorded runs had ({now.training_images:,} for training), but not the same"
    if before.training != now.training:
        lines.append(f"data: {told}; no cell of those is reused")
    elif before.whole != now.whole:
        lines.append(f"data: {told}; the training images are the same, so only the tables' cells are not reused")
    for what, of_weights in (("plugins", False), ("pretrained weights", True)):
        there, here = (
            {name: one for name, one in basis.sources.items() if name.startswith("weights:") == of_weights}
            for basis in (before, now)
        )
        changed = sorted({name for name, _ in there.items() ^ here.items()})
        if of_weights:  # others belong to networks that only one of the files has
            changed = [name for name in changed if name in there and name in here]
        if there and here and changed:
            lines.append(f"{what}: {some(changed)}: not as in the recorded runs; no cell that used them is reused")
    return lines
