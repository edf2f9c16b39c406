"""The optimizer of a recipe and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from tune_lt.config import Optimizer, Schedule


def optimizer(config: Optimizer, model: nn.Module, device_lr: torch.Tensor | None) -> torch.optim.Optimizer:
    """The recipe's optimizer of the network; ``device_lr``: the learning rate as a tensor, for a recorded graph."""
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if device_lr is not None:
        options |= {"lr": device_lr, "fused": True}
    if config.name == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=config.momentum, **options)
    betas, recorded = (config.momentum, 0.999), device_lr is not None
    return torch.optim.AdamW(model.parameters(), betas=betas, capturable=recorded, **options)


def lr_factor(schedule: Schedule, epoch: int, epochs: int) -> float:
    """The factor on the base learning rate in ``epoch`` (counted from 0) of ``epochs``."""
    warmup = round(schedule.warmup * epochs)
    if epoch < warmup:
        return (epoch + 1) / warmup
    if schedule.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))
    passed = [factor for at, factor in zip(schedule.milestones, schedule.factors, strict=True) if epoch >= at * epochs]
    return passed[-1] if passed else 1.0
