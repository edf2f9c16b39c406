"""What every loss shares: checked class counts, one precision, one reduction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tune_lt import distributed
from tune_lt.errors import InputError
from tune_lt.losses.formulas import log_odds


class Loss(nn.Module):
    """Base of all losses. A subclass adds keyword-only parameters with bounds, and `terms`.

    ``class_counts``: training images per class, (C,). Raises InputError unless they are at least two whole numbers
    >= 0 of which one is positive.
    """

    class_counts: Tensor  # (C,) int64

    def __init__(self, class_counts: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("class_counts", _checked(class_counts), persistent=False)

    def terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Losses (B,) and their weights (B,), or None for a plain mean. Logits arrive in float32 or better."""
        raise NotImplementedError

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, C) and targets (B,) to a scalar. Nothing here or in `terms` reads a value back to the host.

        In training mode with several ranks B is this rank's share, and the mean over the ranks is the loss of the
        whole batch; every rank must call it, with no example at all if need be.
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
        """g = 1 − softmax(z)_y, (B,) in [0, 1]: half the 1-norm of cross-entropy's gradient for the logits."""
        return torch.sigmoid(log_odds(logits, targets))

    def unit_regions(self) -> Tensor | None:
        """The edges (C, N + 1) by which a loss bins the gradient norms of each class; None for one that does not."""
        return None

    def total(self, values: Tensor) -> Tensor:
        """Statistics of this rank's share of a batch -> those of the whole batch; in eval mode they stay its own.

        For `terms` that count or sum over the batch, so that several ranks give what one process gives.
        """
        return distributed.total(values) if self.training else values

    def end_epoch(self) -> None:
        """Called after each pass over the training data; most losses have nothing to do."""

    def register_constant(self, name: str, values: Tensor) -> None:
        """A buffer of the default precision, computed from the configuration and so left out of the state dict."""
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
