"""The networks: published size, shapes, shortcuts, heads, bounds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from tune_lt import models
from tune_lt.errors import InputError
from tune_lt.models.resnet import Block, Cosine


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts() -> None:
    """ResNet-32: conv 432, BN 32; stages 23,360 + 88,192 + 351,488 by hand; head 650. He et al. say 0.46 M."""
    stage1 = 10 * 16 * 16 * 9 + 10 * 2 * 16
    stage2 = (16 * 32 + 9 * 32 * 32) * 9 + 10 * 2 * 32
    stage3 = (32 * 64 + 9 * 64 * 64) * 9 + 10 * 2 * 64
    assert _size(models.build("resnet32", classes=10, channels=3)) == 432 + 32 + stage1 + stage2 + stage3 + 650
    assert _size(models.build("resnet32", classes=10, channels=3)) == 464_154
    assert _size(models.build("resnet8", classes=10, channels=3)) == 75_290


@pytest.mark.parametrize(("name", "layers"), [("resnet32", 32), ("resnet8", 8)])
def test_the_name_counts_the_layers(name: str, layers: int) -> None:
    model = models.build(name, classes=10, channels=3)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == layers


@pytest.mark.parametrize("name", ["resnet8", "resnet32"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 32, 32), (3, 9, 13), (2, 17, 8)])
def test_any_size_gives_finite_logits_and_gradients(
    name: str, head: str, channels: int, height: int, width: int
) -> None:
    model = models.build(name, classes=7, channels=channels, width=5, head=head)
    logits = model(torch.randn(3, channels, height, width))
    assert logits.shape == (3, 7)
    logits.logsumexp(1).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_training_reduces_the_loss() -> None:
    torch.manual_seed(0)
    model = models.build("resnet8", classes=3, channels=1, width=8)
    x, y = torch.randn(24, 1, 8, 8), torch.arange(24) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(("inputs", "outputs", "before"), [(4, 8, 2), (5, 10, 2)])
def test_option_a_shortcut_subsamples_and_pads_with_zeros(inputs: int, outputs: int, before: int) -> None:
    """With the last normalisation at zero a block is relu(shortcut)."""
    block = Block(inputs, outputs, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, inputs, 9, 8)
    out = block(x)
    assert out.shape == (2, outputs, 5, 4)
    assert torch.equal(out[:, before : before + inputs], x[:, :, ::2, ::2])
    assert out[:, :before].abs().sum() == 0
    assert out[:, before + inputs :].abs().sum() == 0


def test_stages_halve_the_image_and_double_the_channels() -> None:
    model = models.build("resnet32", classes=10, channels=3)
    shapes: list[tuple[int, ...]] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    model(torch.zeros(1, 3, 32, 32))
    assert shapes == [(16, 32, 32)] * 5 + [(32, 16, 16)] * 5 + [(64, 8, 8)] * 5


def test_shortcuts_have_no_parameters() -> None:
    names = {name.rsplit(".", 2)[-2] for name, _ in models.build("resnet32", classes=10, channels=3).named_parameters()}
    assert names == {"conv", "bn", "conv1", "bn1", "conv2", "bn2", "head"}


def test_weights_are_kaiming_normal() -> None:
    torch.manual_seed(0)
    model = models.build("resnet32", classes=100, channels=3)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            deviation = float(module.weight.detach().std()) / (2 / fan_in) ** 0.5
            assert 0.85 < deviation < 1.15, module


def test_initialisation_follows_torchs_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in models.build("resnet8", classes=4, channels=1).parameters()])

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_cosine_head_is_the_cosine() -> None:
    head = Cosine(6, 4)
    features = torch.randn(5, 6)
    expected = torch.stack([nn.functional.cosine_similarity(features, row[None]) for row in head.weight], 1)
    torch.testing.assert_close(head(features), expected)
    torch.testing.assert_close(head(features * 1e4), expected)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(4))
    head.weight.data *= 7
    torch.testing.assert_close(head(features), expected)
    head.weight.data = normalize(features[:4], dim=1)
    torch.testing.assert_close(head(features[:4]).diagonal(), torch.ones(4))


def test_cosine_logits_are_bounded() -> None:
    logits = models.build("resnet8", classes=5, channels=3, head="cosine")(torch.randn(8, 3, 16, 16) * 100)
    assert logits.abs().max() <= 1 + 1e-5


def test_width_scales_every_stage() -> None:
    narrow, wide = (models.build("resnet8", classes=10, channels=3, width=w) for w in (8, 16))
    assert _size(narrow) < _size(wide) / 3


def test_state_round_trip() -> None:
    first, second = (models.build("resnet8", classes=4, channels=1, head="cosine").eval() for _ in range(2))
    x = torch.randn(2, 1, 8, 8)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"name": "resnet23"}, "did you mean 'resnet32'"),
        ({"widht": 16}, "did you mean 'width'"),
        ({"width": 3}, "width = 3, but it must be >= 4"),
        ({"width": 513}, "width = 513, but it must be <= 512"),
        ({"head": "cos"}, "head = 'cos'"),
        ({"classes": 0}, "classes = 0"),
        ({"channels": 0}, "channels = 0"),
    ],
)
def test_wrong_settings_are_named(params: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.build(**{"name": "resnet8", "classes": 3, "channels": 1, **params})  # type: ignore[arg-type]


def test_registry() -> None:
    assert set(models.MODELS) >= {"resnet32", "resnet8", "torchvision", "timm"}
    with pytest.raises(InputError, match="exists already"):
        models.register("resnet8")(nn.Identity)

    @models.register("flat")
    def flat(classes: int, channels: int, *, side: int = 8) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, classes))

    assert models.build("flat", classes=3, channels=2)(torch.zeros(4, 2, 8, 8)).shape == (4, 3)
