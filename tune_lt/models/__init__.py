"""The networks. ``MODELS`` is the literal registry; a network of your own is a function or class
``(classes, channels, *, ...)`` that returns a module taking float (B, channels, H, W) to logits (B, classes)::

    @register("mine")
    def mine(classes: int, channels: int, *, depth: Annotated[int, Ge(1)] = 4) -> nn.Module: ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tune_lt import registry
from tune_lt.errors import InputError
from tune_lt.models.backbones import timm, torchvision, weights_hash, weights_of
from tune_lt.models.resnet import Mixed, resnet8, resnet32

__all__ = [
    "BUILT_IN",
    "MODELS",
    "OWN",
    "Mixed",
    "build",
    "register",
    "resnet8",
    "resnet32",
    "timm",
    "torchvision",
    "weights_hash",
    "weights_of",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet32": resnet32,
    "resnet8": resnet8,
    "torchvision": torchvision,
    "timm": timm,
}
BUILT_IN = frozenset(MODELS)  # without the plugins' networks, which are registered later
OWN = frozenset({"resnet32", "resnet8"})  # every training step of theirs launches the same kernels: a CUDA graph fits


def register(name: str) -> Callable[[Any], Any]:
    """Decorator that adds a network to ``MODELS``; InputError if the name is taken."""
    return registry.register(MODELS, "model", name)


def build(name: str, *, classes: int, channels: int, **params: Any) -> nn.Module:
    """The network called ``name`` for ``channels`` input channels; weights come from torch's global generator.

    Raises InputError for an unknown name or parameter, or a value out of bounds.
    """
    for what, count in (("classes", classes), ("channels", channels)):
        if count < 1:
            raise InputError(f"model {name!r}: {what} = {count!r}, but it must be >= 1")
    model: nn.Module = registry.build(MODELS, "model", name, classes, channels, **params)
    return model
