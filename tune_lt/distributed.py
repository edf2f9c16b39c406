"""Data parallelism: several processes train one network on shares of each batch, with the result of one process.

The launcher (torchrun, Ray Train) has called ``torch.distributed.init_process_group``. Three rules then give the result
that one process gets, but for rounding:

- `share` cuts a batch into contiguous parts in the order of the ranks; parts of a small batch may be empty;
- the **mean** of a loss over the ranks is the loss of the whole batch, so that averaged gradients are its gradients;
- `total` sums over the ranks what is counted or summed over a batch, the statistics of batch normalisation included.

Every rank must make the same calls in the same order. In a single process `total`, `mean` and `joined` return their
argument.
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
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, counted from 0."""
    return dist.get_rank() if size() > 1 else 0


def share(count: int) -> slice:
    """The part of ``count`` items that this rank has.

    The parts differ by at most one item, but the last ones are empty where others would have a single item:
    normalisation layers that `joined` does not know refuse a single image. Only of 1 item a part has 1.
    """
    parts = min(size(), max(1, count // 2))  # that are not empty
    each, extra = divmod(count, parts)
    start, stop = (each * part + min(part, extra) for part in (min(rank(), parts), min(rank() + 1, parts)))
    return slice(start, stop)


def total(values: Tensor) -> Tensor:
    """The differentiable sum of ``values`` over the ranks; every rank must pass the same shape and dtype."""
    return values if size() == 1 else _Sum.apply(values)


def mean(values: Tensor) -> Tensor:
    """The mean of floating ``values`` over the ranks; every rank must pass the same shape and dtype."""
    return values if size() == 1 else total(values) / size()


def rand(rows: int, columns: int, device: torch.device) -> Tensor:
    """This rank's rows of one ``torch.rand`` for the whole batch, (rows, columns).

    Every rank draws the whole batch, so that the ranks' generators stay in the same state. With several ranks this
    waits for the device.
    """
    if size() == 1:
        return torch.rand(rows, columns, device=device)
    counts = torch.zeros(size(), dtype=torch.int64, device=device)
    counts[rank()] = rows
    of_ranks = total(counts).tolist()
    return torch.rand(sum(of_ranks), columns, device=device).split(of_ranks)[rank()]


def from_first(make: Callable[[], T]) -> T:
    """On every rank the result of ``make()`` on rank 0, where alone it is called, or the exception that it raised."""
    if size() == 1:
        return make()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = make()
        except Exception as error:
            box[1] = error  # without a broadcast the other ranks would wait for ever
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    made: T = box[0]
    return made


def own_device(device: torch.device) -> torch.device:
    """``device``, or for CUDA in one of several processes the GPU whose number the launcher put into LOCAL_RANK."""
    if size() == 1 or device.type != "cuda":
        return device
    if device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank())) % torch.cuda.device_count())
    torch.cuda.set_device(device)  # NCCL's collective calls use the current device
    return device


def joined(model: nn.Module) -> nn.Module:
    """``model`` with the weights of rank 0, whose batch normalisation uses the whole batch in training mode.

    Parameters stay the same objects and keep their names. A module that calls ``F.batch_norm`` itself still uses the
    statistics of its rank's share.
    """
    if size() == 1:
        return model
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)  # random numbers may differ in the last digit between kinds of hardware
    if any(parameter.is_cuda for parameter in model.parameters()):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = BatchNorm  # the same object, with its parameters, buffers and hooks
    return model


def average_gradients(model: nn.Module) -> None:
    """Replace the gradients, after a backward pass, by their mean over the ranks.

    DistributedDataParallel cannot do it: it refuses a network with a parameter that has no gradient.
    """
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the statistics of the whole batch, on any device: (B, C, ...) -> (B, C, ...).

    torch.nn.SyncBatchNorm refuses tensors on the CPU. This rank's share may be empty. In training mode every rank must
    run the forward and the backward pass.
    """

    running_mean: Tensor  # with running_var and num_batches_tracked only if track_running_stats
    running_var: Tensor
    num_batches_tracked: Tensor

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        others = [0, *range(2, input.ndim)]
        own = input.sum(others, keepdim=True)
        count = total(own.new_tensor(input.numel() // self.num_features))
        mean = total(own) / count
        centered = input - mean
        variance = total(centered.square().sum(others, keepdim=True)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                unbiased = variance * count / (count - 1).clamp(min=1)
                self.running_mean.mul_(1 - rate).add_(mean.flatten(), alpha=rate)
                self.running_var.mul_(1 - rate).add_(unbiased.flatten(), alpha=rate)
        normal = centered * (variance + self.eps).rsqrt()
        return normal * self.weight.view(mean.shape) + self.bias.view(mean.shape) if self.affine else normal


class _Sum(torch.autograd.Function):
    """The sum over the ranks. A rank's values change the loss of every rank, so the gradients are summed as well."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])
