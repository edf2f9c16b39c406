"""The losses as their public code usually has them, in our own words: what `losses.py` measures the product against.

Each is a function ``(logits (B, C), targets (B,)) -> scalar``; those that keep something from batch to batch are
classes with ``__call__``. What public code computes once (class weights, priors) is computed when they are made.
GHM-CWAP has no public code: it is the paper's algorithm with GHM's loop over bins and a table of margins, (C, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Formula = Callable[[Tensor, Tensor], Tensor]


def softmax(counts: Tensor) -> Formula:
    return F.cross_entropy


def class_balanced(counts: Tensor) -> Formula:
    weight = 1 / counts
    return lambda logits, targets: F.cross_entropy(logits, targets, weight=weight)


def effective_number(counts: Tensor, beta: float = 0.9999) -> Formula:
    weight = ((1 - beta) / (1 - beta ** counts.double())).float()  # in float32 1 - beta^n has few digits left
    weight = weight / weight.sum() * len(counts)
    return lambda logits, targets: F.cross_entropy(logits, targets, weight=weight)


def focal(counts: Tensor, gamma: float = 1.0) -> Formula:
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        entropy = F.cross_entropy(logits, targets, reduction="none")
        p = torch.exp(-entropy)
        return ((1 - p) ** gamma * entropy).mean()

    return loss


class GHM:
    """GHM-C with a loop over its bins, each of which is counted on the host."""

    def __init__(self, counts: Tensor, bins: int = 10, momentum: float = 0.75) -> None:
        self.bins, self.momentum = bins, momentum
        self.edges = torch.arange(bins + 1, device=counts.device) / bins
        self.edges[-1] += 1e-6
        self.accumulated = torch.zeros(bins, device=counts.device)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        truth = F.one_hot(targets, logits.shape[1]).float()
        g = (logits.sigmoid().detach() - truth).abs()
        weights, occupied = torch.zeros_like(g), 0
        for i in range(self.bins):
            inside = (g >= self.edges[i]) & (g < self.edges[i + 1])
            number = inside.sum().item()
            if number > 0:
                self.accumulated[i] = self.momentum * self.accumulated[i] + (1 - self.momentum) * number
                weights[inside] = g.numel() / self.accumulated[i]
                occupied += 1
        weights = weights / occupied
        return F.binary_cross_entropy_with_logits(logits, truth, weights, reduction="sum") / g.numel()


def equalization(counts: Tensor, gamma: float = 0.9) -> Formula:
    tail = (counts / counts.sum() < 0.5 / len(counts)).float()

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        drawn = (torch.rand(logits.shape, device=logits.device) < gamma).float()
        truth = F.one_hot(targets, logits.shape[1])
        weights = 1 - drawn * tail * (1 - truth)
        exponentials = torch.exp(logits)
        total = (weights * exponentials).sum(1, keepdim=True)
        return F.nll_loss(torch.log(exponentials / total), targets)

    return loss


class Seesaw:
    """Labels counted class by class as they come, and the table of all mitigation factors, (C, C), in each step."""

    def __init__(self, counts: Tensor, p: float = 0.8, q: float = 2.0) -> None:
        self.p, self.q, self.seen = p, q, torch.zeros_like(counts)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        for label in targets.unique():
            self.seen[label] += (targets == label).sum()
        truth = F.one_hot(targets, logits.shape[1])
        seen = self.seen.clamp(min=1)
        ratio = seen[None, :] / seen[:, None]
        rarer = (ratio < 1).float()
        factors = (ratio.pow(self.p) * rarer + (1 - rarer))[targets]
        scores = F.softmax(logits.detach(), dim=1)
        own = scores[torch.arange(len(scores)), targets]
        confusion = scores / own[:, None].clamp(min=0.01)
        confused = (confusion > 1).float()
        factors = factors * (confusion.pow(self.q) * confused + (1 - confused))
        return F.cross_entropy(logits + factors.log() * (1 - truth), targets)


def ldam(counts: Tensor, max_m: float = 0.5, s: float = 30.0) -> Formula:
    margins = 1 / counts.sqrt().sqrt()
    margins = margins * (max_m / margins.max())

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, targets[:, None], True)
        margin = torch.matmul(margins[None, :], own.float().t()).view(-1, 1)
        return F.cross_entropy(s * torch.where(own, logits - margin, logits), targets)

    return loss


def balanced_softmax(counts: Tensor) -> Formula:
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits + counts.unsqueeze(0).expand(len(logits), -1).log(), targets)

    return loss


def logit_adjustment(counts: Tensor, tau: float = 1.0) -> Formula:
    adjustment = torch.log((counts / counts.sum()) ** tau + 1e-12)
    return lambda logits, targets: F.cross_entropy(logits + adjustment, targets)


def vs(counts: Tensor, gamma: float = 0.3, tau: float = 1.0) -> Formula:
    delta, iota = (counts.max() / counts) ** gamma, tau * torch.log(counts / counts.sum())
    return lambda logits, targets: F.cross_entropy(logits / delta + iota, targets)


class GHMCWAP:
    """The paper's Eq. 1-3 and Algorithm 1, with the readings that are the product's defaults."""

    def __init__(self, counts: Tensor, alpha: float = 0.6, gamma: float = 1.2, regions: int = 30) -> None:
        self.alpha, self.gamma, self.regions, self.n = alpha, gamma, regions, counts
        equal = torch.arange(regions + 1, device=counts.device) / regions
        self.edges = self.next_edges = equal.repeat(len(counts), 1)
        self.histogram = torch.zeros(len(counts), regions, device=counts.device)
        self.weights = torch.ones_like(self.histogram)
        self.margins = self.table(counts)

    def table(self, sizes: Tensor) -> Tensor:
        """M, (C, C)."""
        return self.gamma * torch.log((sizes[None, :] / sizes[:, None]).clamp(max=1))

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        adjusted = logits + self.margins[targets]
        g = 1 - F.softmax(adjusted.detach(), dim=1)[torch.arange(len(logits)), targets]
        weights = torch.ones_like(g)
        for i in range(self.regions):
            last = i == self.regions - 1
            inside = (g >= self.edges[targets, i]) & ((g < self.edges[targets, i + 1]) | last)
            weights[inside] = self.weights[targets[inside], i]
            counted = (g >= self.next_edges[targets, i]) & ((g < self.next_edges[targets, i + 1]) | last)
            self.histogram[:, i] += torch.bincount(targets[counted], minlength=len(self.n))
        entropy = F.cross_entropy(adjusted, targets, reduction="none")
        return (weights / weights.sum() * entropy).sum()

    def end_epoch(self) -> None:
        """For classes that all had examples: the product keeps the histogram of one that had none."""
        v = self.histogram / (self.regions * self.next_edges.diff(dim=1))
        self.edges, self.weights = self.next_edges, v.clamp(min=1) ** (self.alpha - 1)
        self.margins = self.table((self.histogram**self.alpha).sum(1))
        widths = 1 / torch.log(math.e + v)
        adapted = F.pad((widths / widths.sum(1, keepdim=True)).cumsum(1), (1, 0))
        equal = torch.arange(self.regions + 1, device=v.device) / self.regions
        self.next_edges = torch.where(self.n[:, None] >= self.regions, adapted, equal)
        self.histogram = torch.zeros_like(self.histogram)


FORMULAS: dict[str, Callable[[Tensor], Any]] = {
    "softmax": softmax,
    "class_balanced": class_balanced,
    "focal": focal,
    "ghm": GHM,
    "effective_number": effective_number,
    "equalization": equalization,
    "seesaw": Seesaw,
    "ghm_cwap": GHMCWAP,
    "balanced_softmax": balanced_softmax,
    "logit_adjustment": logit_adjustment,
    "ldam": ldam,
    "vs": vs,
}
