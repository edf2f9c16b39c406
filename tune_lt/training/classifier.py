"""A trained network together with its class names and its preprocessing, as a PyTorch file and as ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tune_lt import models
from tune_lt.data.decode import Unreadable, cut, middle, read
from tune_lt.errors import InputError
from tune_lt.texts import first_line

FORMAT = "tune-lt classifier 1"


@dataclass(frozen=True)
class Description:
    """How to build a network and use it.

    ``model``: the section of a study file that it was built from. ``mean``, ``std``: per channel, of pixels in [0, 1].
    ``shape``: (C, H, W) of its images. ``resize``: the length to which the shorter side of an image is scaled before
    the centre is cut out, None to scale it to H. ``offset`` (classes): is subtracted from the logits (post-hoc logit
    adjustment), zeros for none.
    """

    model: Mapping[str, Any]
    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    shape: Sequence[int]
    resize: int | None
    offset: Sequence[float]


class Classifier(nn.Module):
    """Images as bytes, uint8 (B, C, H, W), to logits (B, classes), with the preprocessing of the evaluation.

    ``network``: trained, takes normalised images, float (B, C, H, W).
    """

    def __init__(self, network: nn.Module, described: Description) -> None:
        super().__init__()
        self.network, self.described, self.class_names = network, described, tuple(described.class_names)
        mean, std = (torch.tensor(values).float().view(1, -1, 1, 1) * 255 for values in (described.mean, described.std))
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        self.register_buffer("_offset", torch.tensor(described.offset, dtype=torch.float32), persistent=False)
        self.eval()

    _mean: Tensor
    _std: Tensor
    _offset: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.network((images.float() - self._mean) / self._std)
        return logits - self._offset

    def read(self, paths: Sequence[str | Path]) -> Tensor:
        """Read image files as the evaluation does: upright, RGB, scaled, the centre cut out; uint8 (n, 3, H, W).

        Raises InputError that names a file which cannot be read, and if the network does not take RGB images.
        """
        channels, size, _ = self.described.shape
        if channels != 3:
            raise InputError(f"this network takes images of {channels} channels, not the RGB of image files")
        resize = self.described.resize
        images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
        for row, path in enumerate(map(Path, paths)):
            try:
                if resize is None:
                    images[row] = read(path, size)
                else:
                    images[row] = cut(path, size, partial(middle, size=size, resize=resize)).transpose(2, 0, 1)
            except Unreadable as error:
                raise InputError(f"{path}: {error}") from None
        return torch.from_numpy(images)

    @torch.no_grad()
    def names(self, images: Tensor) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.class_names[label] for label in self(images).argmax(dim=1).tolist()]


def save(classifier: Classifier, path: Path) -> None:
    """Write the network's state dict and its description. `load` reads the file without running pickled code."""
    torch.save({"format": FORMAT, "state": classifier.network.state_dict(), **asdict(classifier.described)}, path)


def load(path: str | Path) -> Classifier:
    """The classifier that `save` wrote. Import the plugin first if its network is one of a plugin's.

    Raises InputError if the file is missing or damaged, or if something else wrote it.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found, state = content.pop("format"), content.pop("state")
        described = Description(**content) if found == FORMAT else None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        raise InputError(f"{path}: not a readable classifier ({type(error).__name__})") from None
    if described is None:
        raise InputError(f"{path}: found the format {found!r}; valid: {FORMAT!r}, a model.pt that tune-lt wrote")
    no_download: dict[str, dict[str, Any]] = {"torchvision": {"weights": None}, "timm": {"pretrained": False}}
    model = dict(described.model)
    if model["name"] in ("resnet18", "resnet50"):  # as older versions called torchvision's networks
        model |= {"name": "torchvision", "architecture": model["name"]}
    model |= no_download.get(model["name"], {})
    network = models.build(**model, classes=len(described.class_names), channels=described.shape[0])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: its state does not fit the network {model['name']!r}: {first_line(error)}") from None
    return Classifier(network, described)


def to_onnx(classifier: Classifier, path: Path) -> None:
    """Write the classifier as ONNX, with the input ``images``, uint8 (batch, C, H, W), and the output ``logits``,
    float32 (batch, classes).

    Raises InputError if ONNX cannot express the network, or if the packages for the export are missing.
    """
    images = torch.zeros((2, *classifier.described.shape), dtype=torch.uint8)
    try:
        program = torch.onnx.export(
            classifier,
            (images,),
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)
    except Exception as error:  # the exporter runs the network, and a user's network may raise anything
        raise InputError(f"this network cannot be written as ONNX: {first_line(error)}") from None
