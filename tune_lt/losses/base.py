"""The base class of all losses: it checks class counts and shapes, and reduces a batch to one value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tune_lt import distributed
from tune_lt.errors import InputError
from tune_lt.losses.formulas import log_odds


class Loss(nn.Module):
    """Base of all losses: logits (B, C) and targets (B,) -> scalar. A subclass adds `terms` and its parameters.

    ``class_counts``: training images of each class, (C,). Raises InputError unless they are at least two whole numbers
    >= 0, not all 0.
    """

    class_counts: Tensor  # (C,) int64

    def __init__(self, class_counts: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("class_counts", _checked(class_counts), persistent=False)

    @classmethod
    def idle(cls, params: Mapping[str, Any]) -> Collection[str]:
        """The names of the parameters that have no effect on any result; ``params``: the values of all parameters."""
        return ()

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Losses (B,) and their weights (B,), None for equal ones, from logits (B, C) in float32 or float64."""
        raise NotImplementedError

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of the batch. Neither this nor `terms` may read a value back from the device.

        In training mode with several ranks, B counts the examples of this rank (0 is allowed), and the mean of the
        results over the ranks is the loss of the whole batch. Every rank must call it.
        """
        if logits.ndim != 2 or logits.shape[1] != len(self.class_counts) or targets.shape != logits.shape[:1]:
            raise InputError(
                f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}, "
                f"but they must be (B, {len(self.class_counts)}) and (B,)"
            )
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        losses, weights = self.terms(logits, targets)
        if self.training and distributed.size() > 1:
            weights = torch.ones_like(losses) if weights is None else weights
            return distributed.size() * (weights * losses).sum() / self.total(weights.sum())
        return losses.mean() if weights is None else (weights * losses).sum() / weights.sum()

    def gradient_norm(self, logits: Tensor, targets: Tensor) -> Tensor:
        """g = 1 − softmax(z)_y, (B,) in [0, 1]: half the 1-norm of the gradient of cross-entropy in the logits."""
        return torch.sigmoid(log_odds(logits, targets))

    def unit_regions(self) -> Tensor | None:
        """The edges (C, N + 1) of the bins that the loss keeps of each class's gradient norms; None if it has none."""
        return None

    def total(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over the ranks in training mode, ``values`` themselves in eval mode.

        `terms` that count or sum over the batch need it, so that several ranks get what one process gets.
        """
        return distributed.total(values) if self.training else values

    def end_epoch(self) -> None:
        """Called after each pass over the training data; most losses do nothing here."""

    def register_constant(self, name: str, values: Tensor) -> None:
        """Add a buffer of torch's default dtype that is not saved, since the configuration determines it."""
        self.register_buffer(name, values.to(torch.get_default_dtype()), persistent=False)


def _checked(class_counts: Sequence[int]) -> Tensor:
    try:
        counts = torch.as_tensor(class_counts, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"class_counts = {class_counts!r}, but it must be a list of whole numbers") from error
    if counts.ndim != 1 or len(counts) < 2:
        raise InputError(f"class_counts has shape {tuple(counts.shape)}, but it must list at least 2 classes")
    for label, count in enumerate(counts.tolist()):
        if not (count >= 0 and count.is_integer()):
            raise InputError(f"class_counts[{label}] = {count:g}, but it must be a whole number >= 0")
    if not counts.any():
        raise InputError("class_counts are all 0: there is nothing to train on")
    return counts.long()
