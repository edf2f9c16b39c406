"""Data sets, their long-tailed sub-samples, and batches for training.

``DATASETS`` lists the data sets by name; `build` loads one. Your own is a function that returns a `Dataset`::

    @register("mine")
    def mine(*, root: str) -> Dataset:
        return Dataset.of(train_images, train_labels, test_images, test_labels, class_names)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tune_lt import registry
from tune_lt.data.batches import Batches, parts
from tune_lt.data.dataset import Dataset
from tune_lt.data.files import ImageFiles
from tune_lt.data.profiles import PROFILES, exponential, step
from tune_lt.data.sampling import CellData, cell_data, test_index
from tune_lt.data.sources.cifar import cifar10, cifar100
from tune_lt.data.sources.digits import digits
from tune_lt.data.sources.folder import image_folder
from tune_lt.data.sources.imagenet import imagenet
from tune_lt.data.sources.inaturalist import inaturalist2017, inaturalist2018
from tune_lt.data.sources.tiny_imagenet import tiny_imagenet, tiny_imagenet_200
from tune_lt.data.stream import StreamedBatches

__all__ = [
    "BUILT_IN",
    "DATASETS",
    "PROFILES",
    "AnyBatches",
    "Batches",
    "CellData",
    "Dataset",
    "ImageFiles",
    "StreamedBatches",
    "build",
    "cell_data",
    "exponential",
    "parts",
    "register",
    "step",
    "test_index",
]

AnyBatches = Batches | StreamedBatches
DATASETS: dict[str, Callable[..., Dataset]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "digits": digits,
    "image_folder": image_folder,
    "imagenet": imagenet,
    "inaturalist2017": inaturalist2017,
    "inaturalist2018": inaturalist2018,
    "tiny_imagenet": tiny_imagenet,
    "tiny_imagenet_200": tiny_imagenet_200,
}
BUILT_IN = frozenset(DATASETS)  # without the plugins' data sets, which are registered later


def register(name: str) -> Callable[[Any], Any]:
    """Decorator that adds a function to ``DATASETS``; InputError if the name is taken."""
    return registry.register(DATASETS, "data set", name)


def build(name: str, **params: Any) -> Dataset:
    """Load the data set called ``name``; ``params`` are the keyword-only parameters of its function in ``DATASETS``.

    Raises InputError for an unknown name or parameter, a value out of bounds, or data that cannot be used.
    """
    dataset: Dataset = registry.build(DATASETS, "data set", name, **params)
    return dataset
