"""Networks of torchvision and timm by name, with weights and without."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights, get_model

from tune_lt import models
from tune_lt.errors import InputError
from tune_lt.models.resnet import Cosine, Linear

WEIGHTS = ResNet18_Weights.IMAGENET1K_V1


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder of fetched weights, empty, and no way to the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it is kept from the first request on, with its proxies
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["mobilenet_v3_small", "convnext_tiny", "swin_t", "densenet121"])
def test_any_classifier_of_torchvision_gets_a_head_of_our_own(architecture: str) -> None:
    model = models.build("torchvision", classes=7, channels=3, architecture=architecture, head="cosine")
    logits = model.eval()(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 7)
    assert logits.abs().max() <= 1
    assert sum(isinstance(part, Cosine) for part in model.modules()) == 1


def test_the_weights_are_those_of_the_file_but_for_the_new_last_layer(hub: Path) -> None:
    torch.manual_seed(5)
    stored = get_model("resnet18").state_dict()
    torch.save(stored, hub / WEIGHTS.url.rpartition("/")[2])
    model = models.build("torchvision", classes=3, channels=3, architecture="resnet18", weights=WEIGHTS.name)
    found = model.state_dict()
    assert found.keys() == stored.keys()
    assert all(found[name].equal(value) for name, value in stored.items() if not name.startswith("fc."))
    assert isinstance(model.fc, Linear)
    assert model.fc.out_features == 3


@pytest.mark.parametrize(("architecture", "parameters"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_the_published_number_of_parameters(architecture: str, parameters: int) -> None:
    """He et al. 2016 as torchvision documents them: 11.7 M and 25.6 M with 1,000 classes."""
    model = models.build("torchvision", classes=1000, channels=3, architecture=architecture)
    assert sum(one.numel() for one in model.parameters()) == parameters


def test_every_parameter_gets_a_gradient_with_a_cosine_head() -> None:
    torch.manual_seed(0)
    model = models.build("torchvision", classes=7, channels=3, architecture="resnet18", head="cosine")
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())


def test_weights_follow_from_the_global_generator() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = models.build("torchvision", classes=3, channels=3, architecture="resnet18")
        return torch.cat([one.detach().flatten() for one in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_other_than_three_channels_are_refused() -> None:
    with pytest.raises(InputError, match="'torchvision': found images of 1 channels; valid: 3"):
        models.build("torchvision", classes=10, channels=1, architecture="resnet50")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_short_names_of_older_versions_are_refused_with_the_new_spelling(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}'; write {{name: torchvision, architecture: {name}}} instead"):
        models.build(name, classes=10, channels=3)


def test_weights_that_cannot_be_fetched_are_one_message(hub: Path) -> None:
    with pytest.raises(InputError) as caught:
        models.build("torchvision", classes=3, channels=3, architecture="resnet18", weights=WEIGHTS.name)
    assert WEIGHTS.url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_weights_is_one_message(hub: Path) -> None:
    (hub / WEIGHTS.url.rpartition("/")[2]).write_bytes(b"half")
    with pytest.raises(InputError, match="cannot be loaded"):
        models.build("torchvision", classes=3, channels=3, architecture="resnet18", weights=WEIGHTS.name)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"architecture": "resnet19"}, "did you mean 'resnet18'"),
        ({"architecture": "resnet18", "weights": "BEST"}, "valid: IMAGENET1K_V1, null"),
        ({"architecture": "squeezenet1_0"}, "no linear last layer"),
    ],
)
def test_wrong_names_are_told_what_is_valid(params: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.build("torchvision", classes=3, channels=3, **params)


@pytest.mark.long
def test_timm_by_name() -> None:
    pytest.importorskip("timm")
    model = models.build("timm", classes=4, channels=1, architecture="resnet10t", pretrained=False)
    assert model.eval()(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert sum(isinstance(part, Linear) for part in model.modules()) == 1
    with pytest.raises(InputError, match=r"resnet10x.*resnet10t"):
        models.build("timm", classes=4, channels=3, architecture="resnet10x")


def test_weights_are_told_apart_by_their_values(hub: Path) -> None:
    """Whatever their name; a file with the same values in another form is the same."""
    section = {"name": "torchvision", "architecture": "resnet18", "weights": WEIGHTS.name, "head": "linear"}
    name = models.weights_of(section)
    file = hub / WEIGHTS.url.rpartition("/")[2]
    torch.manual_seed(5)
    stored = get_model("resnet18").state_dict()
    hashes = []
    for legacy in (False, True):
        torch.save(stored, file, _use_new_zipfile_serialization=not legacy)
        models.weights_hash.cache_clear()
        hashes.append(models.weights_hash(name))
    stored["layer1.0.conv1.weight"][0, 0, 0, 0] += 1
    torch.save(stored, file)
    models.weights_hash.cache_clear()
    assert hashes[0] == hashes[1] != models.weights_hash(name)
    models.weights_hash.cache_clear()
    file.unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        models.weights_hash(name)


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ({"name": "resnet8", "width": 4}, ""),
        ({"name": "torchvision", "architecture": "resnet18", "weights": None}, ""),
        ({"name": "torchvision", "architecture": "resnet18", "weights": "V"}, "weights:torchvision/resnet18/V"),
        ({"name": "timm", "architecture": "resnet10t", "pretrained": False}, ""),
        ({"name": "timm", "architecture": "resnet10t.c3_in1k"}, "weights:timm/resnet10t.c3_in1k"),
    ],
)
def test_which_weights_a_network_begins_with(section: dict[str, object], name: str) -> None:
    assert models.weights_of(section) == name


@pytest.mark.long
def test_timms_weights_are_hashed_from_the_cache_of_huggingface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    import huggingface_hub.constants
    from safetensors.torch import save_file

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--timm--resnet10t.c3_in1k"
    (repository / "refs").mkdir(parents=True)
    hashes = set()
    for revision in ("one", "two"):
        (repository / "refs/main").write_text(revision)
        file = repository / "snapshots" / revision / "model.safetensors"
        file.parent.mkdir(parents=True)
        save_file(timm.create_model("resnet10t").state_dict(), file)
        models.weights_hash.cache_clear()
        hashes.add(models.weights_hash("weights:timm/resnet10t.c3_in1k"))
    models.weights_hash.cache_clear()
    assert len(hashes) == 2
