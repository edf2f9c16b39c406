"""A first study file for a folder: what it says is what is there, and it is a study that can be run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from tune_lt import training
from tune_lt.cli import app
from tune_lt.errors import InputError
from tune_lt.study import reader, starter


def _folder(root: Path, counts: dict[str, int], side: tuple[int, int] = (40, 30)) -> Path:
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(generator.integers(0, 256, (*side, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    return _folder(tmp_path / "My birds: 2024", {"robin": 40, 'the "rare" one': 4, "1": 12})


def test_it_counts_what_is_there(birds: Path) -> None:
    seen = starter.look(birds)
    assert seen == starter.Look({"1": 12, "robin": 40, 'the "rare" one': 4}, side=30)
    assert (seen.images, seen.imbalance) == (56, 10)


def test_files_that_are_no_images_by_their_names_are_not_counted(birds: Path) -> None:
    for number in range(9):
        (birds / "robin" / f"{number}.xml").write_text("<box/>")
    assert starter.look(birds).counts["robin"] == 40


def test_it_counts_the_training_images_alone_where_a_test_lies_beside_them(tmp_path: Path) -> None:
    _folder(tmp_path / "train", {"a": 3, "b": 2})
    _folder(tmp_path / "test", {"a": 9, "b": 9})
    assert starter.look(tmp_path).counts == {"a": 3, "b": 2}


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("side", [28, 64, 500])
def test_what_it_writes_is_a_study(birds: Path, side: int, gpu: bool) -> None:
    text = starter.study(birds, starter.Look({"robin": 4000, "1": 40}, side), gpu=gpu)
    study = reader.parse(text, birds.parent)
    assert study.name == "My-birds-2024"
    assert study.data["root"] == str(birds)
    assert study.data["size"] == {28: 32, 64: 64, 500: 224 if gpu else 64}[side]
    assert study.data["stream"] is (gpu and side == 500)
    assert len(study.searches) == 4  # balanced softmax has nothing to search
    assert study.resources.gpus == (0 if not gpu else 1 if side == 500 else 0.25)
    assert '4,000 of "robin" down to 40 of "1"' in text


def test_more_images_get_fewer_epochs_and_larger_batches(birds: Path) -> None:
    def recipe(images: int) -> tuple[int, int]:
        text = starter.study(birds, starter.Look({"a": images // 2, "b": images // 2}, 32), gpu=True)
        content = yaml.safe_load(text)["recipe"]
        return content["epochs"], content["batch_size"]

    assert recipe(100) == (200, 16)
    assert recipe(12_000) == (128, 128)
    assert recipe(1_000_000) == (10, 128)


def test_the_command_writes_it_once_and_names_what_to_type_next(birds: Path, tmp_path: Path) -> None:
    file = tmp_path / "birds.yaml"
    done = CliRunner().invoke(app, ["init", str(birds), "--output", str(file)])
    assert done.exit_code == 0, done.output
    assert "56 training images of 3 classes, imbalance 10" in done.output
    assert f"tune-lt run {file}" in done.output
    study = reader.read(file)
    assert study.name == "birds"
    cell = reader.cell(study.base() | {"recipe": study.recipe}, data_seed=0, init_seed=0)
    assert training.rehearse(cell, training.load_dataset(cell)).split_counts
    before = file.read_text()
    again = CliRunner().invoke(app, ["init", str(birds), "--output", str(file)])
    assert isinstance(again.exception, InputError)
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/birds/train", "birds"),
        ("/mnt/data/My birds: 2024/images/Train", "My-birds-2024"),
        ("/home/ada/Images", "ada"),
        ("/data/鳥/train", "鳥"),
        ("/data/images", "images"),
        ("/", "images"),
        ("/x/" + 80 * "long", 12 * "long" + "lo"),
    ],
)
def test_a_study_is_named_after_what_tells_its_folder_from_others(path: str, name: str) -> None:
    assert starter.name_of(Path(path)) == name
    assert reader.parse(starter.study(Path(path), starter.Look({"a": 40, "b": 4}, 32), gpu=False), Path()).name == name


def test_a_folder_that_is_no_data_set_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no class folders"):
        starter.look(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in "ab":
        (tmp_path / name / "x.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="none of the files"):
        starter.look(tmp_path)
