"""Formulas that several losses share."""

from __future__ import annotations

import torch
from torch import Tensor


def sizes(class_counts: Tensor) -> Tensor:
    """max(n_c, 1) in float64, (C,), from n_c, (C,): every formula uses it in place of n_c."""
    return class_counts.double().clamp(min=1)


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """(1 − β) / (1 − β^n_c), (C,) in float64: 1 for β = 0, towards 1 / n_c as β → 1 (Cui et al. 2019)."""
    return (1 - beta) / (1 - beta ** sizes(class_counts))


def with_margin(logits: Tensor, log_size: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """z[b, n] + γ · log min(S_n, S_y), (B, C), from logits z (B, C), log S (C,) and targets y (B,).

    A softmax of it equals that of z + γ · log min(1, S_n / S_y): the difference γ · log S_y is constant in each row.
    No (C, C) matrix is made.
    """
    return torch.add(logits, torch.minimum(log_size, log_size[targets].unsqueeze(1)), alpha=gamma)


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """a = log Σ_{j≠y} e^{z_j} − z_y, (B,): the log-odds of all classes but y, from logits (B, C) and targets (B,).

    1 − p_y = σ(a) and CE = softplus(a) keep their digits where p_y is close to 1; 1 − exp(log p_y) loses them.
    """
    target = targets.unsqueeze(1)
    return logits.scatter(1, target, -torch.inf).logsumexp(1) - logits.gather(1, target).squeeze(1)
