"""Any classifier of torchvision or timm by name, with or without the weights it was trained to on other images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tune_lt.errors import InputError
from tune_lt.models.resnet import Cosine, Head, Linear
from tune_lt.registry import names
from tune_lt.texts import first_line

IMAGENET_CLASSES = 1000


def torchvision(
    classes: int, channels: int, *, architecture: str, weights: str | None = None, head: Head = "linear"
) -> nn.Module:
    """A classifier of torchvision: images float (B, 3, H, W) of a size it takes -> logits (B, classes).

    ``architecture``: its name there, such as ``convnext_tiny``. ``weights``: the name of its weights there, such as
    ``IMAGENET1K_V1``, None for random ones; its last layer is new either way. ``head`` as in the other networks.

    Raises InputError for an unknown name, weights that cannot be fetched, a network without a linear last layer.
    """
    from torchvision import models  # a second's work, which small images need not wait for

    if channels != 3:
        raise InputError(f"model 'torchvision': found images of {channels} channels; valid: 3")
    known = models.list_models(module=models)
    if architecture not in known:
        raise InputError(f"model 'torchvision': architecture = {architecture!r}; {names(known, architecture)}")
    valid = {member.name: member for member in models.get_model_weights(architecture)}
    if weights is not None and weights not in valid:
        raise InputError(f"model 'torchvision': weights = {weights!r} of {architecture}; {names(valid, weights)}, null")
    member = None if weights is None else valid[weights]
    network = _fetched(
        f"the weights {weights} of torchvision's {architecture}",
        "" if member is None else f"download {member.url} into torch.hub.get_dir()/checkpoints",
        lambda: models.get_model(architecture, weights=member),
    )
    return _with_head(network, f"torchvision's {architecture}", IMAGENET_CLASSES, classes, head)


def timm(
    classes: int, channels: int, *, architecture: str, pretrained: bool = True, head: Head = "linear"
) -> nn.Module:
    """A classifier of timm (``tune-lt[timm]``): images float (B, channels, H, W) of a size it takes -> (B, classes).

    ``architecture``: its name there, with the tag that says which weights: ``resnet50.a1_in1k``. ``pretrained``: with
    those weights; its last layer is new either way. ``head`` as in the other networks.

    Raises InputError where timm is missing, for an unknown name, weights that cannot be fetched, a network without a
    linear last layer.
    """
    try:
        import timm as library
    except ImportError:
        raise InputError(
            "model 'timm': timm is not installed here; valid: pip install 'tune-lt[timm]' on every host"
        ) from None
    base = architecture.split(".")[0]
    known = library.list_models()
    if base not in known:
        raise InputError(f"model 'timm': architecture = {architecture!r}; {_close(known, base)}")
    network = _fetched(
        f"the weights of timm's {architecture}",
        "fetch them where there is a network (its cache is that of huggingface_hub)",
        lambda: library.create_model(architecture, pretrained=pretrained, in_chans=channels, num_classes=classes),
    )
    return _with_head(network, f"timm's {architecture}", classes, classes, head)


def _close(known: list[str], found: str) -> str:
    """timm knows a thousand."""
    import difflib

    close = difflib.get_close_matches(found, known, n=3)
    return f"did you mean {', '.join(close)}?" if close else "valid: the names that timm.list_models() gives"


def _fetched(what: str, instead: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # no network, a damaged file, no such weights: each library has errors of its own
        raise InputError(f"model: {what} cannot be had ({first_line(error)}); {instead}, or do without them") from None


def _with_head(network: Any, what: str, outputs: int, classes: int, head: Head) -> nn.Module:
    """``network`` with a last layer of our own in place of its linear one with so many ``outputs``."""
    last = [
        name for name, part in network.named_modules() if isinstance(part, nn.Linear) and part.out_features == outputs
    ]
    if not last:
        raise InputError(f"model: {what} has no linear last layer to replace; valid: another architecture")
    parent, _, name = last[-1].rpartition(".")
    features = network.get_submodule(last[-1]).in_features
    setattr(network.get_submodule(parent), name, (Cosine if head == "cosine" else Linear)(features, classes))
    built: nn.Module = network
    return built
