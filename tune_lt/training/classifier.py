"""A trained network for use: with its class names and its preprocessing, as a file of torch's and as ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class Classifier(nn.Module):
    """Images as bytes, uint8 (B, C, H, W), to logits (B, classes): what evaluation does with an image, in one module.

    ``network``: trained; float (B, C, H, W) -> logits. ``model``: the section of a study file that it was built from.
    ``mean``, ``std``: per channel, pixels in [0, 1]. ``shape``: (C, H, W). ``resize``: what the shorter side of an
    image is scaled to before the centre is cut out, None where it is scaled to H at once. ``offset`` (classes): is
    subtracted from the logits (post-hoc logit adjustment), zeros for none.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        model: Mapping[str, Any],
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        shape: Sequence[int],
        resize: int | None,
        offset: Sequence[float],
    ) -> None:
        super().__init__()
        self.network, self.class_names = network, tuple(class_names)
        self.described: dict[str, Any] = {
            "model": dict(model),
            "class_names": list(class_names),
            "mean": list(mean),
            "std": list(std),
            "shape": list(shape),
            "resize": resize,
            "offset": list(offset),
        }
        self.register_buffer("_mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer("_std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer("_offset", torch.tensor(offset, dtype=torch.float32), persistent=False)
        self.eval()

    _mean: Tensor
    _std: Tensor
    _offset: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.described["shape"]
        return channels, height, width

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.network((images.float() - self._mean) / self._std)
        return logits - self._offset

    def read(self, paths: Sequence[str | Path]) -> Tensor:
        """Image files as evaluation sees them: upright, RGB, scaled, the centre cut out; uint8 (n, 3, H, W).

        Raises InputError naming the file that cannot be read, or if the network does not take RGB images.
        """
        channels, size, _ = self.shape
        if channels != 3:
            raise InputError(f"this network takes images of {channels} channels, not the RGB of image files")
        resize = self.described["resize"]
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
        """The class of each image, by name."""
        return [self.class_names[label] for label in self(images).argmax(dim=1).tolist()]


def save(classifier: Classifier, path: Path) -> None:
    """Write the state dict with everything that says how to use it; `load` reads it, without running pickled code."""
    content = {"format": FORMAT, "state": classifier.network.state_dict(), **classifier.described}
    torch.save(content, path)


def load(path: str | Path) -> Classifier:
    """The classifier that `save` wrote. A network of a plugin is known once that module has been imported.

    Raises InputError if the file is missing, damaged, or no such file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found, state = content.pop("format"), content.pop("state")
        described = content if found == FORMAT else {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        raise InputError(f"{path}: not a readable classifier ({type(error).__name__})") from None
    if not described:
        raise InputError(f"{path}: found the format {found!r}; valid: {FORMAT!r}, a model.pt of tune-lt's")
    model = described["model"]
    no_download: dict[str, dict[str, Any]] = {"torchvision": {"weights": None}, "timm": {"pretrained": False}}
    untrained = no_download.get(model["name"], {})
    network = models.build(
        **{**model, **untrained}, classes=len(described["class_names"]), channels=described["shape"][0]
    )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: its state is not one of {model['name']!r}: {first_line(error)}") from None
    return Classifier(network, **described)


def to_onnx(classifier: Classifier, path: Path) -> None:
    """Write the classifier as ONNX: ``images`` uint8 (batch, C, H, W) in, ``logits`` float32 (batch, classes) out.

    Raises InputError where ONNX cannot express the network, or its packages are missing.
    """
    images = torch.zeros((2, *classifier.shape), dtype=torch.uint8)
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
    except Exception as error:  # of the exporter, and whatever a network of the user's raises in it
        raise InputError(f"this network cannot be written as ONNX: {first_line(error)}") from None
