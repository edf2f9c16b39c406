"""The residual networks for small images of He et al. 2016, section 4.2."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, pad, relu

Width = Annotated[int, Ge(4), Le(512)]
Head = Literal["linear", "cosine"]


class Linear(nn.Linear):
    """A last layer (B, F) -> (B, classes) that computes in float32 under autocast too.

    In bfloat16 the two largest of many logits are often equal. argmax then takes the first class, the one with the
    most training images.
    """

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype))


class Cosine(nn.Module):
    """A last layer (B, F) -> (B, classes) of cosines between features and class vectors, in [−1, 1].

    It has no scale, since LDAM scales the logits itself (Cao et al. 2019, NormedLinear). It computes in float32 under
    autocast, as `Linear` does.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normalize(torch.randn(classes, features), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.weight.dtype)
            return linear(normalize(features, dim=1), normalize(self.weight, dim=1))


HEADS: dict[Head, type[Linear | Cosine]] = {"linear": Linear, "cosine": Cosine}


class Mixed(nn.Module):
    """``network`` under automatic mixed precision with bfloat16; its last layer, `Linear` or `Cosine`, is exempt."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.network(x)
        return logits


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut without parameters (option A): subsampled, padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            before = self.extra // 2
            shortcut = pad(shortcut, (0, 0, 0, 0, before, self.extra - before))
        x = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """Three stages of ``width``, 2·width and 4·width channels, each of ``blocks`` blocks; 6·blocks + 2 layers.

    Images float (B, channels, H, W) of at least 8×8 pixels -> logits (B, classes). The weights are Kaiming-normal, as
    in the code of LDAM-DRW (Cao et al. 2019).
    """

    def __init__(self, blocks: int, classes: int, channels: int, width: int, head: Head) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        widths = [width * 2**stage for stage in range(3) for _ in range(blocks)]
        pairs = pairwise([width, *widths])
        self.blocks = nn.Sequential(*(Block(inputs, outputs, outputs // inputs) for inputs, outputs in pairs))
        self.head = HEADS[head](widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(relu(self.bn(self.conv(x))))
        return self.head(x.mean((2, 3)))


def resnet32(classes: int, channels: int, *, width: Width = 16, head: Head = "linear") -> ResNet:
    """ResNet-32, the network of the CIFAR-LT recipe: five blocks per stage, 0.46 M parameters at width 16."""
    return ResNet(5, classes, channels, width, head)


def resnet8(classes: int, channels: int, *, width: Width = 16, head: Head = "linear") -> ResNet:
    """ResNet-8, for quick studies: one block per stage, 0.08 M parameters at width 16."""
    return ResNet(1, classes, channels, width, head)
