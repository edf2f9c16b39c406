"""K of the product's residual networks as one, by grouped convolutions: a side of `many_models.py`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tune_lt.models.resnet import Block


def side_by_side(members: Sequence[nn.Module]) -> nn.Module:
    """The members' modules of one place as one module, with their weights."""
    first, count = members[0], len(members)
    if isinstance(first, nn.Linear):
        return Classifiers(members)
    joined: Any
    if isinstance(first, nn.Conv2d):
        size, stride, padding = first.kernel_size, first.stride, first.padding
        channels = count * first.in_channels, count * first.out_channels
        joined = nn.Conv2d(*channels, size, stride, padding, groups=count, bias=False)  # type: ignore[arg-type]
    elif isinstance(first, nn.BatchNorm2d):
        joined = nn.BatchNorm2d(count * first.num_features)
    else:
        joined = copy.deepcopy(first)
        for name, _ in first.named_children():
            setattr(joined, name, side_by_side([getattr(member, name) for member in members]))
        if isinstance(first, Block):
            joined.__class__, joined.members = WideBlock, count
        return joined
    with torch.no_grad():
        for name, parameter in joined.named_parameters():
            parameter.copy_(torch.cat([getattr(member, name) for member in members]))
    return joined


class WideBlock(Block):
    """The product's block, whose shortcut pads the channels of each member."""

    members: int

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            before = self.extra // 2
            own = shortcut.unflatten(1, (self.members, -1))
            shortcut = F.pad(own, (0, 0, 0, 0, before, self.extra - before)).flatten(1, 2)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class Classifiers(nn.Module):
    """The members' linear classifiers: (B, K * F) -> (K, B, classes)."""

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([member.weight.detach() for member in members]))
        self.bias = nn.Parameter(torch.stack([member.bias.detach() for member in members]))

    def forward(self, features: Tensor) -> Tensor:
        own = features.unflatten(1, (len(self.weight), -1)).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], own, self.weight.transpose(1, 2))
