"""Any classifier of torchvision or timm by name, with random or pretrained weights, and a last layer of our own."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import nn

from tune_lt.errors import InputError
from tune_lt.models.resnet import HEADS, Head
from tune_lt.registry import names
from tune_lt.texts import first_line

IMAGENET_CLASSES = 1000


def torchvision(
    classes: int, channels: int, *, architecture: str, weights: str | None = None, head: Head = "linear"
) -> nn.Module:
    """A classifier of torchvision: images float (B, 3, H, W) -> logits (B, classes).

    ``architecture``: its name in torchvision, such as ``resnet50`` (He et al. 2016 with the stride in the 3×3
    convolution, the network of the paper's Tables 2 and 3). ``weights``: the name of pretrained weights, such as
    ``IMAGENET1K_V1``; None draws random ones. ``head``: the kind of the last layer, which is new in both cases.

    Raises InputError for images of other than 3 channels, an unknown name, weights that cannot be loaded, and an
    architecture without a linear last layer.
    """
    if channels != 3:
        raise InputError(f"model 'torchvision': found images of {channels} channels; valid: 3")
    network = _of_torchvision(architecture, weights)
    return _with_head(network, f"torchvision's {architecture}", IMAGENET_CLASSES, classes, head)


def _of_torchvision(architecture: str, weights: str | None) -> Any:
    from torchvision import models  # importing it takes a second, which resnet8 and resnet32 need not wait for

    known = models.list_models(module=models)
    if architecture not in known:
        raise InputError(f"model 'torchvision': architecture = {architecture!r}; {names(known, architecture)}")
    valid = {member.name: member for member in models.get_model_weights(architecture)}
    if weights is not None and weights not in valid:
        raise InputError(f"model 'torchvision': weights = {weights!r} of {architecture}; {names(valid, weights)}, null")
    member = valid[weights] if weights else None
    return _made(
        lambda: models.get_model(architecture, weights=member),
        f"the weights {weights} of torchvision's {architecture}",
        f"download {member.url} into torch.hub.get_dir()/checkpoints" if member else "",
    )


def timm(
    classes: int, channels: int, *, architecture: str, pretrained: bool = True, head: Head = "linear"
) -> nn.Module:
    """A classifier of timm (``tune-lt[timm]``): images float (B, channels, H, W) -> logits (B, classes).

    ``architecture``: its name in timm, with the tag of its weights: ``resnet50.a1_in1k``. ``pretrained``: whether to
    load these weights or to draw random ones. ``head``: the kind of the last layer, which is new in both cases.

    Raises InputError where timm is not installed, and for an unknown name, weights that cannot be loaded, and an
    architecture without a linear last layer.
    """
    network = _of_timm(architecture, pretrained, in_chans=channels, num_classes=classes)
    return _with_head(network, f"timm's {architecture}", classes, classes, head)


def _of_timm(architecture: str, pretrained: bool, **options: Any) -> Any:
    try:
        import timm as library
    except ImportError:
        raise InputError(
            "model 'timm': timm is not installed here; valid: pip install 'tune-lt[timm]' on every host"
        ) from None
    base = architecture.split(".")[0]
    known = library.list_models()
    if base not in known:
        close = ", ".join(difflib.get_close_matches(base, known)) or "none"
        raise InputError(
            f"model 'timm': architecture = {architecture!r}; valid: a name of timm.list_models(); similar: {close}"
        )
    return _made(
        lambda: library.create_model(architecture, pretrained=pretrained, **options),
        f"the weights of timm's {architecture}",
        "download them on a host with a network, into the cache of huggingface_hub",
    )


def weights_of(model: Mapping[str, Any]) -> str:
    """The name of the pretrained weights that a network of ours, given by its section of a study file, begins with.

    "" if it begins with random ones.
    """
    if model["name"] == "torchvision" and model.get("weights"):
        return f"weights:torchvision/{model['architecture']}/{model['weights']}"
    if model["name"] == "timm" and model.get("pretrained", True):
        return f"weights:timm/{model['architecture']}"
    return ""


@cache
def weights_hash(name: str) -> str:
    """sha256 (hex) of the values of pretrained weights, which are fetched if they are not here.

    ``name``: what `weights_of` returned. The values count, not the file, since each library has its own cache and
    format, and may fetch others under the same name one day. Raises InputError if they cannot be loaded.
    """
    library, architecture, *member = name.removeprefix("weights:").split("/")
    network = _of_torchvision(architecture, *member) if library == "torchvision" else _of_timm(architecture, True)
    digest = hashlib.sha256()
    for key, values in sorted(network.state_dict().items()):
        digest.update(f"{key} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.contiguous().numpy().data)
    return digest.hexdigest()


def _made(make: Callable[[], Any], what: str, advice: str) -> Any:
    try:
        return make()
    except Exception as error:  # no connection, a damaged file, no such weights: each library has errors of its own
        raise InputError(
            f"model: {what} cannot be loaded ({first_line(error)}); {advice}, or do without them"
        ) from None


def _with_head(network: Any, what: str, outputs: int, classes: int, head: Head) -> nn.Module:
    """``network`` with the last of its linear layers that have so many ``outputs`` replaced by a ``head``."""
    linear = [
        name for name, part in network.named_modules() if isinstance(part, nn.Linear) and part.out_features == outputs
    ]
    if not linear:
        raise InputError(f"model: {what} has no linear last layer to replace; valid: another architecture")
    network.set_submodule(linear[-1], HEADS[head](network.get_submodule(linear[-1]).in_features, classes))
    built: nn.Module = network
    return built
