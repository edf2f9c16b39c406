"""One training step, and the same step as a CUDA graph.

A step of ResNet-32 launches about a thousand kernels. For small images the CPU needs longer to launch them one by one
than the GPU needs to compute them. A CUDA graph launches them all at once.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from tune_lt import distributed, losses
from tune_lt.config import Optimizer, Schedule
from tune_lt.texts import first_line

WARM_UP = 3  # steps before the recorded one; in the first, libraries initialise and the optimizer makes its state


class Step:
    """Forward pass, loss, backward pass, update. ``total`` is the sum of the losses of all images so far.

    ``clip_norm``: the largest norm allowed for all gradients together, None for no limit. A step never waits for the
    device: ``total`` is a tensor there.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: losses.Loss,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        place: torch.device,
    ) -> None:
        self.model, self.loss, self.optimizer, self.clip_norm = model, loss, optimizer, clip_norm
        self.total = torch.zeros((), device=place)

    def __call__(self, x: Tensor, y: Tensor, images: int) -> None:
        """Train on x (b, C, H, W), y (b,), this rank's share of a batch of ``images`` images."""
        value = self._value(x, y, images)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        distributed.average_gradients(self.model)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.total += value.detach() * images

    def _value(self, x: Tensor, y: Tensor, images: int) -> Tensor:
        """The loss of the batch. With several ranks: of this rank's share, scaled so that the mean over ranks is it."""
        logits = self.model(x)
        if distributed.size() == 1 or type(self.loss).forward is losses.Loss.forward:
            value: Tensor = self.loss(logits, y)
            return value
        # A loss with a forward of its own is taken as a mean over its images; this rank may have none of the batch.
        return self.loss(logits, y) * (distributed.size() * len(y) / images) if len(y) else logits.sum()


class RecordedStep:
    """A `Step` that is recorded as a CUDA graph once, for batches of ``images`` images, and then replayed.

    Batches of another size run the plain step. Network, loss and optimizer must run the same kernels on the same memory
    at every step and must not wait for the device, so whatever changes between epochs must be a tensor that is changed
    in place. A step that cannot be recorded runs plainly, with a warning.
    """

    def __init__(self, step: Step, images: int) -> None:
        self.step, self.total, self.images = step, step.total, images
        self._seen = 0
        self._aside = torch.cuda.Stream()  # CUDA does not record on the default stream
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor, y: Tensor, images: int) -> None:
        """Train on a batch, as `Step` does."""
        if images != self.images or (self._seen > WARM_UP and self._graph is None):
            self.step(x, y, images)
        elif self._seen < WARM_UP:
            self._seen += 1
            self._aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._aside), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
                self.step(x, y, images)
            torch.cuda.current_stream().wait_stream(self._aside)
        elif self._graph is None:
            self._seen += 1
            self._record(x, y)
            self(x, y, images)
        else:
            self._x.copy_(x)
            self._y.copy_(y)
            self._graph.replay()

    def _record(self, x: Tensor, y: Tensor) -> None:
        """Record the kernels of a step, which does not run them."""
        self._x, self._y, graph = x.clone(), y.clone(), torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, stream=self._aside):
                self.step(self._x, self._y, self.images)
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # a recording that fails at its end does not
            del self._x, self._y
            warnings.warn(f"steps are not replayed as a CUDA graph and take longer: {first_line(error)}", stacklevel=2)
        else:
            self._graph = graph


def optimizer(config: Optimizer, model: nn.Module, device_lr: torch.Tensor | None) -> torch.optim.Optimizer:
    """The recipe's optimizer for ``model``. ``device_lr``: the learning rate as a tensor, for a `RecordedStep`."""
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if device_lr is not None:
        options |= {"lr": device_lr, "fused": True}
    if config.name == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=config.momentum, **options)
    betas = (config.momentum, 0.999)
    return torch.optim.AdamW(model.parameters(), betas=betas, capturable=device_lr is not None, **options)


def lr_factor(schedule: Schedule, epoch: int, epochs: int) -> float:
    """The factor by which `Schedule` multiplies the base learning rate in ``epoch``, counted from 0, of ``epochs``."""
    warmup = round(schedule.warmup * epochs)
    if epoch < warmup:
        return (epoch + 1) / warmup
    if schedule.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))
    passed = [factor for at, factor in zip(schedule.milestones, schedule.factors, strict=True) if epoch >= at * epochs]
    return passed[-1] if passed else 1.0
