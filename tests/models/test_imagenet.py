"""torchvision's networks with our heads."""

from __future__ import annotations

import pytest
import torch

from tune_lt import models
from tune_lt.errors import InputError
from tune_lt.models.resnet import Cosine


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_the_published_number_of_parameters(name: str, parameters: int) -> None:
    """He et al. 2016 as torchvision documents them: 11.7 M and 25.6 M with 1,000 classes."""
    model = models.build(name, classes=1000, channels=3)
    assert sum(one.numel() for one in model.parameters()) == parameters


def test_the_head_has_the_data_sets_classes_and_may_be_cosine() -> None:
    torch.manual_seed(0)
    model = models.build("resnet18", classes=7, channels=3, head="cosine")
    logits = model(torch.randn(2, 3, 64, 64))
    assert isinstance(model.fc, Cosine)
    assert logits.shape == (2, 7)
    assert logits.abs().max() <= 1
    logits.sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())


def test_weights_follow_from_the_global_generator() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return models.build("resnet18", classes=3, channels=3).conv1.weight.detach()  # type: ignore[union-attr, operator]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_other_than_three_channels_are_refused() -> None:
    with pytest.raises(InputError, match="'resnet50': found images of 1 channels; valid: 3"):
        models.build("resnet50", classes=10, channels=1)
