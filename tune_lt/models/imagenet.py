"""torchvision's residual networks for large images, with random weights and the head of our choice."""

from __future__ import annotations

from typing import Any

from torch import nn

from tune_lt.errors import InputError
from tune_lt.models.resnet import Cosine, Head, Linear


def resnet18(classes: int, channels: int, *, head: Head = "linear") -> nn.Module:
    """torchvision's ResNet-18: images float (B, 3, H, W), best at 224×224 -> logits (B, classes); 11.7 M parameters."""
    return _torchvision("resnet18", classes, channels, head)


def resnet50(classes: int, channels: int, *, head: Head = "linear") -> nn.Module:
    """torchvision's ResNet-50 (He et al. 2016, the stride in the 3×3 convolution): the network of the paper's Tables 2
    and 3; 25.6 M parameters with 1,000 classes. Shapes as `resnet18`.
    """
    return _torchvision("resnet50", classes, channels, head)


def _torchvision(name: str, classes: int, channels: int, head: Head) -> nn.Module:
    from torchvision import models  # a second's work, which small images need not wait for

    if channels != 3:
        raise InputError(f"model {name!r}: found images of {channels} channels; valid: 3")
    network: Any = models.get_model(name, weights=None, num_classes=classes)
    features = network.fc.in_features
    network.fc = (Cosine if head == "cosine" else Linear)(features, classes)
    built: nn.Module = network
    return built
