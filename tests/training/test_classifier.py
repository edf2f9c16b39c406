"""A trained network for use: what it says of an image must be what evaluation counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from tune_lt import data, training
from tune_lt.config import CellConfig, Recipe
from tune_lt.errors import InputError
from tune_lt.training import classifier
from tune_lt.training.classifier import Classifier, Description

pytestmark = pytest.mark.long


def _folder(root: Path) -> Path:
    """Two classes of noise, brighter or darker, 12 and 6 files to train on and 5 to test on, not square."""
    generator = np.random.default_rng(0)
    for part, counts in (("train", (12, 6)), ("test", (5, 5))):
        for name, low, count in zip(("bright", "dark"), (128, 0), counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(low, low + 128, (40, 56, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def _trained(folder: Path, tmp_path: Path, **changes: object) -> tuple[Classifier, training.EpochResult, data.Dataset]:
    source = {"name": "image_folder", "root": str(folder), "size": 32} | dict(changes)
    recipe = Recipe(epochs=2, batch_size=8, posthoc_tau=1.0)
    cell = CellConfig(source, {"name": "resnet8", "width": 4}, {"name": "softmax"}, recipe)
    dataset = training.load_dataset(cell)
    state = tmp_path / "state.pt"
    *_, last = training.run_epochs(cell, dataset=dataset, device="cpu", score_test=True, save_to=state)
    return training.trained(cell, dataset, state), last, dataset


@pytest.mark.parametrize("stream", [False, True])
def test_files_are_classified_as_evaluation_did(tmp_path: Path, stream: bool) -> None:
    folder = _folder(tmp_path / "images")
    trained, last, dataset = _trained(folder, tmp_path, stream=stream)
    classifier.save(trained, tmp_path / "model.pt")
    loaded = classifier.load(tmp_path / "model.pt")
    files = sorted((folder / "test").rglob("*.png"))
    named = loaded.names(loaded.read(files))
    right = [name == file.parent.name for name, file in zip(named, files, strict=True)]
    assert last.test is not None
    assert sum(right) / len(right) == pytest.approx(last.test.top1)
    if not stream:
        in_order = [file for name in ("bright", "dark") for file in files if file.parent.name == name]
        assert torch.equal(loaded.read(in_order), torch.as_tensor(dataset.test_images))
    prior = torch.tensor([12.0, 6.0]).log()
    x = (loaded.read(files).float() / 255 - torch.tensor(dataset.mean).view(1, 3, 1, 1)) / torch.tensor(
        dataset.std
    ).view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(loaded(loaded.read(files)), trained.network(x) - prior, atol=1e-4)


def test_onnx_gives_the_same_logits_for_any_number_of_images(tmp_path: Path) -> None:
    trained, _, _ = _trained(_folder(tmp_path / "images"), tmp_path)
    classifier.to_onnx(trained, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 3, 7):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            expected = trained(images).numpy()
        np.testing.assert_allclose(session.run(["logits"], {"images": images.numpy()})[0], expected, atol=1e-4)


class Stubborn(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not today")


def test_what_cannot_be_written_or_read_is_said(tmp_path: Path) -> None:
    grey = Classifier(Stubborn(), Description({"name": "resnet8"}, "ab", (0.5,), (0.5,), (1, 8, 8), None, (0, 0)))
    with pytest.raises(InputError, match="cannot be written as ONNX"):
        classifier.to_onnx(grey, tmp_path / "x.onnx")
    with pytest.raises(InputError, match="1 channels, not the RGB"):
        grey.read(["a.png"])
    (tmp_path / "damaged.pt").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"damaged\.pt: not a readable classifier"):
        classifier.load(tmp_path / "damaged.pt")
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        classifier.load(tmp_path / "none.pt")


def test_a_state_before_the_last_epoch_is_no_model(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "images")
    source = {"name": "image_folder", "root": str(folder), "size": 32}
    cell = CellConfig(source, {"name": "resnet8", "width": 4}, {"name": "softmax"}, Recipe(epochs=3, batch_size=8))
    dataset = training.load_dataset(cell)
    epochs = training.run_epochs(cell, dataset=dataset, device="cpu", save_to=tmp_path / "state.pt")
    next(epochs), next(epochs)
    epochs.close()
    with pytest.raises(InputError, match=r"state\.pt: found the state after epoch 1; valid: .* 3"):
        training.trained(cell, dataset, tmp_path / "state.pt")
