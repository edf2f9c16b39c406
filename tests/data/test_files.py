"""Images on disk: they can replace a tensor, take little memory, and their hash is over the files' bytes."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import center_crop, resize, to_pil_image

from tune_lt.data import Dataset, ImageFiles
from tune_lt.data.decode import cut
from tune_lt.errors import InputError


def _smooth(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards: what was cut out can be read from the pixels."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, np.full_like(across, 77)], axis=2).round().astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images in two folders, one of them with a name that is not ASCII."""
    for number, name in enumerate(["a/0.png", "a/1.png", "a/é 2.png", "b/3.png", "b/c/4.png", "b/5.jpg"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _smooth(40 + 10 * number, 90 - 10 * number).save(path)
    return tmp_path / "images"


def _paths(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _files(folder: Path, paths: list[str] | None = None, size: int = 32) -> ImageFiles:
    return ImageFiles.of(_paths(folder) if paths is None else paths, root=folder, size=size)


def test_it_has_the_shape_and_the_rows_of_a_tensor(folder: Path) -> None:
    files = _files(folder)
    assert len(files) == 6
    assert files.shape == (6, 3, 32, 32)
    assert files[:2].dtype == torch.uint8
    assert torch.equal(files[torch.tensor([4, 0])], torch.cat([files[4:5], files[:1]]))
    assert [files.path(i) for i in range(6)] == [folder / path for path in _paths(folder)]


def test_evaluation_sees_the_centre_of_the_shorter_side_scaled(folder: Path) -> None:
    """As torchvision's Resize to 8/7 of the size and CenterCrop, but for its rounding to whole pixels."""
    files = _files(folder, size=56)
    for number, path in enumerate(_paths(folder)):
        expected = center_crop(resize(Image.open(folder / path).convert("RGB"), [64]), [56])
        difference = np.abs(np.asarray(expected).astype(int).transpose(2, 0, 1) - files[number : number + 1][0].numpy())
        assert difference.max() <= 6, path  # a pixel of the file is up to 6 levels wide


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_part_is_one_of_the_upright_image(tmp_path: Path, orientation: int, suffix: str) -> None:
    """A large JPEG, decoded at a fraction of its size, gives the same part."""
    whole, exif = _smooth(1200, 700), Image.Exif()
    exif[0x0112] = orientation
    turn = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]  # what such a camera stores, upright again after exif_transpose
    stored = whole.rotate(turn, expand=True)
    stored.save(tmp_path / f"a{suffix}", exif=exif)
    asked: list[tuple[int, int]] = []

    def choose(width: int, height: int) -> tuple[float, float, float, float]:
        asked.append((width, height))
        return 300, 350, 900, 700

    found = cut(tmp_path / f"a{suffix}", 48, choose).astype(int)
    assert asked == [(1200, 700)]
    expected = np.asarray(whole.resize((48, 48), Image.Resampling.BILINEAR, box=(300, 350, 900, 700))).astype(int)
    assert np.abs(found - expected).max() <= 4


def test_missing_and_empty_files_are_named_before_any_is_read(folder: Path) -> None:
    paths = _paths(folder)
    (folder / "a/0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 of 6 files cannot be used \(empty file \(0 bytes\)\): a/0\.png;"):
        _files(folder, paths)
    (folder / "a/0.png").unlink()
    (folder / "a/1.png").unlink()
    with pytest.raises(
        InputError, match=r"2 of 6 files cannot be used \(No such file or directory\): a/0\.png, a/1\.png;"
    ):
        _files(folder, paths)
    with pytest.raises(InputError, match=r"1 of 1 files cannot be used \(No such file.*\): nowhere/1\.png"):
        _files(folder, ["nowhere/1.png"])


def test_a_damaged_file_is_named_when_it_is_read(folder: Path) -> None:
    (folder / "a/1.png").write_bytes((folder / "a/1.png").read_bytes()[:90])
    files = _files(folder)
    files[:1]
    with pytest.raises(InputError, match=r"a/1\.png: damaged: .*repair the file or remove it"):
        files[:2]


def test_a_copy_for_a_worker_is_small_and_the_same(tmp_path: Path) -> None:
    """200,000 paths as long as iNaturalist's, of which a list would take some 30 MB and a pickle of Paths more."""
    paths = [f"train/Actinopterygii/Abudefduf saxatilis {i % 50}/{i:032x}.jpg" for i in range(200_000)]
    files = ImageFiles.of(paths, root=tmp_path, size=224, hashes=np.zeros((200_000, 32), dtype=np.uint8))
    sent = pickle.dumps(files, protocol=5)
    assert len(sent) < 200_000 * (len(paths[0]) + 20)
    again = pickle.loads(sent)
    assert again.path(199_999) == tmp_path / paths[-1]
    assert again.digest() == files.digest()
    assert again.nbytes == files.nbytes < len(sent)


def _dataset(files: ImageFiles, labels: tuple[int, ...] = (0, 0, 0, 1, 1, 1)) -> Dataset:
    return Dataset.of(files, torch.tensor(labels), files, torch.tensor(labels), ["a", "b"])


def test_the_hash_has_bytes_order_labels_and_the_cut_but_neither_place_nor_names(folder: Path) -> None:
    base = _dataset(_files(folder)).content_hash
    moved = folder.rename(folder.with_name("moved"))
    one = moved / "a/0.png"
    one.rename(moved / "a/00.png").rename(one.with_name("0 1.png"))
    assert _dataset(_files(moved)).content_hash == base
    (moved / "a/0 1.png").rename(one)
    seen = {
        base,
        _dataset(_files(moved), (0, 0, 1, 1, 1, 1)).content_hash,
        _dataset(_files(moved, size=40)).content_hash,
        _dataset(_files(moved, _paths(moved)[::-1])).content_hash,
    }
    seen.add(_dataset(dataclasses.replace(_files(moved), resize=32)).content_hash)
    same_length = bytearray(one.read_bytes())
    same_length[-20] ^= 255
    one.write_bytes(same_length)
    seen.add(_dataset(_files(moved)).content_hash)
    with one.open("ab") as file:
        file.write(b"x")
    seen.add(_dataset(_files(moved)).content_hash)
    assert len(seen) == 7


def test_a_data_set_of_files_is_checked_as_one_of_tensors(folder: Path) -> None:
    files = _files(folder)
    found = _dataset(files)
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.available == [3, 3]
    with pytest.raises(InputError, match=r"training labels must be int64 \(6,\)"):
        _dataset(files, (0, 1))
    with pytest.raises(InputError, match="but test images are"):
        Dataset.of(files, torch.zeros(6).long(), _files(folder, size=40), torch.zeros(6).long(), ["a"])
    with pytest.raises(InputError, match="there are no test images"):
        Dataset.of(files, torch.zeros(6).long(), _files(folder, []), torch.zeros(0).long(), ["a"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_in_a_folder_that_may_not_be_entered_are_named(folder: Path) -> None:
    paths = _paths(folder)
    (folder / "a").chmod(0)
    try:
        with pytest.raises(InputError, match=r"3 of 6 files cannot be used \(Permission denied\): a/0"):
            _files(folder, paths)
    finally:
        (folder / "a").chmod(0o755)


def test_rows_of_pixels_are_the_first_of_a_smooth_image(folder: Path) -> None:
    """Red to the right, green down: nothing is transposed or mirrored on the way."""
    image = to_pil_image(_files(folder)[:1][0])
    assert image.getpixel((0, 0))[0] < 20 < 200 < image.getpixel((31, 0))[0]
    assert image.getpixel((0, 0))[1] < image.getpixel((0, 31))[1]
