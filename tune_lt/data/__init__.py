"""Data sets, the long tail laid over them, and batches for training.

``DATASETS`` is the literal registry; a data set of your own is a function that returns a `Dataset`::

    @register("mine")
    def mine(*, root: str) -> Dataset:
        return Dataset.of(train_images, train_labels, test_images, test_labels, class_names)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tune_lt import registry
from tune_lt.data.batches import Batches
from tune_lt.data.dataset import Dataset
from tune_lt.data.digits import digits
from tune_lt.data.folder import image_folder
from tune_lt.data.profiles import PROFILES, exponential, step
from tune_lt.data.sampling import CellData, cell_data

__all__ = [
    "DATASETS",
    "PROFILES",
    "Batches",
    "CellData",
    "Dataset",
    "build",
    "cell_data",
    "digits",
    "exponential",
    "image_folder",
    "register",
    "step",
]

DATASETS: dict[str, Callable[..., Dataset]] = {"digits": digits, "image_folder": image_folder}


def register(name: str) -> Callable[[Any], Any]:
    """Decorator that adds a loader to ``DATASETS``; InputError if the name is taken."""
    return registry.register(DATASETS, "data set", name)


def build(name: str, **params: Any) -> Dataset:
    """Load the data set called ``name``; its parameters are the keyword-only ones of its loader.

    Raises InputError for an unknown name or parameter, a value out of bounds, or data that cannot be used.
    """
    dataset: Dataset = registry.build(DATASETS, "data set", name, **params)
    return dataset
