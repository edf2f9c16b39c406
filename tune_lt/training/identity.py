"""Which trainings are one and the same: the canonical form of a cell, and its fingerprint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tune_lt import data, losses, models
from tune_lt.config import RESULT_VERSION, CellConfig, ImageHashes, determining, digest


def canonical(cell: CellConfig) -> CellConfig:
    """``cell`` with the defaults in place of everything that has no effect at the values of the rest.

    A cell is trained in this form, so that cells which share it also share their results to the last bit.
    """
    return dataclasses.replace(
        cell,
        loss=losses.canonical(cell.loss, cell.recipe.epochs),
        recipe=cell.recipe.canonical(),
        holdout=None if cell.fold == "full" else cell.holdout,
    )


def content(cell: CellConfig) -> dict[str, Any]:
    """The canonical form of ``cell`` as a mapping, with the `determining` fields alone of its data section."""
    return dataclasses.asdict(canonical(cell)) | {"data": determining(cell.data, cell.fold)}


def fingerprint(cell: CellConfig, images: ImageHashes, sources: Mapping[str, str]) -> str:
    """Hash of all that determines a cell's result: its `content`, its images, and the code and weights that it uses.

    ``sources``: as for `used`. The images' folder, the study's name and its resources do not matter.
    """
    config = content(cell)
    return digest([config, images.of(cell.fold), used(cell.data, cell.model, cell.loss, sources), RESULT_VERSION])


def used(
    data_set: Mapping[str, Any], model: Mapping[str, Any], loss: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, str]:
    """What a cell with these three sections depends on beside its images: name -> hash of the content.

    All plugins if it uses a part of one, and the weights that its network begins with. ``sources``: of the plugins'
    modules and files, and of weights as far as they are known; others are loaded, and fetched if they are not here.
    Raises InputError if they cannot be.
    """
    ours = data_set["name"] in data.BUILT_IN and model["name"] in models.BUILT_IN and loss["name"] in losses.OWN
    found = {} if ours else {name: one for name, one in sources.items() if not name.startswith("weights:")}
    if weights := models.weights_of(model):
        found[weights] = sources[weights] if weights in sources else models.weights_hash(weights)
    return found
