"""Several processes that train one network on shares of every batch, and get what one process would get.

The rules that make it so, for whoever calls ``torch.distributed.init_process_group`` (torchrun, Ray Train):

- the ranks' shares of a batch, one behind the other, are the batch (`share`); a rank may have none of a short one;
- the **mean** over the ranks of a loss is the loss of the whole batch, so that averaged gradients are its gradients;
- what is counted or summed over a batch is summed over the ranks (`total`), batch normalisation's statistics too.

Every rank must make the same calls in the same order. Without ``torch.distributed``, or in a group of one, everything
here gives back what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

T = TypeVar("T")


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if size() > 1 else 0


def share(count: int) -> slice:
    """This rank's part of ``count`` things: nearly equal contiguous parts in the order of the ranks."""
    each, extra = divmod(count, size())
    start = rank() * each + min(rank(), extra)
    return slice(start, start + each + (rank() < extra))


def total(values: Tensor) -> Tensor:
    """The sum of ``values`` over the ranks, of one shape and type on all of them; gradients flow back to every rank."""
    return values if size() == 1 else _Sum.apply(values)


def mean(values: Tensor) -> Tensor:
    """The mean of ``values`` over the ranks, of one shape and floating type on all of them."""
    return values if size() == 1 else total(values) / size()


def rand(rows: int, columns: int, device: torch.device) -> Tensor:
    """This rank's rows of one ``torch.rand`` for the whole batch, (rows, columns).

    Ranks whose generators are in the same state stay so. With several ranks this waits for the device.
    """
    if size() == 1:
        return torch.rand(rows, columns, device=device)
    counts = torch.zeros(size(), dtype=torch.int64, device=device)
    counts[rank()] = rows
    of_ranks = total(counts).tolist()
    return torch.rand(sum(of_ranks), columns, device=device).split(of_ranks)[rank()]


def from_first(make: Callable[[], T]) -> T:
    """What ``make`` gives on rank 0, on every rank; where it raises there, every rank raises that."""
    if size() == 1:
        return make()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = make()
        except Exception as error:
            box[1] = error  # the others wait: they must hear of it
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    made: T = box[0]
    return made


def own_device(device: torch.device) -> torch.device:
    """``device``, but each of several processes has a GPU of its own: the one the launcher numbered in LOCAL_RANK."""
    if size() == 1 or device.type != "cuda":
        return device
    if device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank())) % torch.cuda.device_count())
    torch.cuda.set_device(device)  # where collective calls put what they send
    return device


def joined(model: nn.Module) -> nn.Module:
    """``model`` with rank 0's weights on every rank, and batch normalisation over the whole batch while training.

    The parameters stay the same objects, and all names as they are. Modules that call ``F.batch_norm`` themselves keep
    the statistics of their rank's share.
    """
    if size() == 1:
        return model
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)  # other hardware may have drawn other last digits
    if any(parameter.is_cuda for parameter in model.parameters()):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = BatchNorm  # the same object with another forward: nothing can get lost
    return model


def average_gradients(model: nn.Module) -> None:
    """After a backward pass: the mean of the ranks' gradients in place of each rank's own.

    One flat message rather than DistributedDataParallel, which refuses networks with a parameter that is not in use.
    """
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the statistics of all ranks' shares, on any device: (B, C, ...) -> (B, C, ...).

    torch's own SyncBatchNorm refuses tensors on the CPU. A share may be empty. In eval mode, torch's.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, input: Tensor) -> Tensor:
        """In training mode every rank must take part, in the backward pass as well."""
        if not self.training:
            return super().forward(input)
        others = [0, *range(2, input.ndim)]
        shape = (1, -1, *(1 for _ in others[1:]))
        count = input.numel() // self.num_features
        center = input.sum(others) / max(count, 1)
        spread = (input - center.view(shape)).square().sum(others)  # around its own mean: no digits are lost
        own = torch.stack([center, spread, torch.full_like(center, count)])
        table = own.new_zeros(size(), 1, 1)
        table[rank()] = 1
        centers, spreads, counts = total(table * own).unbind(1)  # (ranks, C) each, in one message
        weights, images = counts / counts.sum(0), counts[:, 0].sum()
        mean = (weights * centers).sum(0)
        variance = spreads.sum(0) / images + (weights * (centers - mean).square()).sum(0)
        if self.track_running_stats:
            self._follow(mean, variance * images / (images - 1).clamp(min=1))
        normal = (input - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        return normal * self.weight.view(shape) + self.bias.view(shape) if self.affine else normal

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            running.mul_(1 - rate).add_(now, alpha=rate)


class _Sum(torch.autograd.Function):
    """A sum over the ranks: what changes one rank's part changes every rank's loss, so gradients are summed too."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])
