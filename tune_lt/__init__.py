"""Hyper-parameter search for long-tailed image classification, with the GHM-CWAP loss and others."""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    """``from tune_lt import classifier``, as model cards write it; imported on demand because it needs PyTorch."""
    if name == "classifier":
        return import_module("tune_lt.training.classifier")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
