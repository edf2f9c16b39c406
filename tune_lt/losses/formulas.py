"""Pure functions that several losses share."""

from __future__ import annotations

import torch
from torch import Tensor


def sizes(class_counts: Tensor) -> Tensor:
    """max(n_c, 1) in float64, (C,): what stands for n_c in the formulas."""
    return class_counts.double().clamp(min=1)


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """(1 − β) / (1 − β^n_c), (C,) in float64: 1 for β = 0, towards 1 / n_c as β → 1 (Cui et al. 2019)."""
    return (1 - beta) / (1 - beta ** sizes(class_counts))


def with_margin(logits: Tensor, log_size: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """z + γ · log min(S_n, S_y) for each example's class y, (B, C), from log S (C,): never a (C, C) matrix.

    For a softmax this is z + γ · log min(1, S_n / S_y), of which γ · log S_y is constant in a row.
    """
    return torch.add(logits, torch.minimum(log_size, log_size[targets].unsqueeze(1)), alpha=gamma)


def onehot(logits: Tensor, targets: Tensor) -> Tensor:
    """[y_b = c], (B, C), like the logits. Unlike F.one_hot it never checks the targets' values on the host."""
    return torch.zeros_like(logits).scatter(1, targets.unsqueeze(1), 1)


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """a = log Σ_{j≠y} e^{z_j} − z_y, (B,): the log-odds of the other classes, so that 1 − p_y = σ(a).

    Neither 1 − p_y = σ(a) nor CE = softplus(a) loses digits near p_y = 1, as 1 − exp(log p_y) does.
    """
    target = targets.unsqueeze(1)
    return logits.scatter(1, target, -torch.inf).logsumexp(1) - logits.gather(1, target).squeeze(1)


def one_minus_p(cross_entropy: Tensor) -> Tensor:
    """1 − p_y = 1 − e^−CE, (B,): near p_y = 1 exact to the last digit of 1 only, which is enough to bin it."""
    return -torch.expm1(-cross_entropy)
