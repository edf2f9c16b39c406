"""Streamed batches: what happens to an image depends on seed, epoch and image alone; nothing is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import RandomCrop, RandomResizedCrop

from tune_lt import data, distributed, training
from tune_lt.config import Augment, CellConfig, Optimizer, Recipe
from tune_lt.data import ImageFiles, StreamedBatches, stream
from tune_lt.errors import InputError
from tune_lt.study import Resources

pytestmark = pytest.mark.long

IMAGES, SIZE = 23, 32
SCALED = Augment(scale=(0.2, 1.0))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random pixels of every shape, as PNG and JPEG."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = generator.integers(0, 256, (40 + 3 * number, 70 - number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.{'png' if number % 2 else 'jpg'}")
    return folder


@pytest.fixture(scope="module")
def files(root: Path) -> ImageFiles:
    return ImageFiles.of(sorted(path.name for path in root.iterdir()), root=root, size=SIZE)


def _batches(files: ImageFiles, index: Tensor | None = None, **changes: Any) -> StreamedBatches:
    settings: dict[str, Any] = {"batch_size": 5, "mean": (0.5,) * 3, "std": (0.25,) * 3, "augment": SCALED, "seed": 0}
    index = torch.arange(len(files)) if index is None else index
    return StreamedBatches(files, torch.arange(len(files)), index, **{**settings, "device": "cpu", **changes})


def _epoch(batches: StreamedBatches, epoch: int = 1) -> tuple[Tensor, Tensor]:
    x, y = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(x), torch.cat(y)


def _by_image(batches: StreamedBatches, epoch: int = 1) -> dict[int, Tensor]:
    x, y = _epoch(batches, epoch)
    return dict(zip(y.tolist(), x, strict=True))


@contextlib.contextmanager
def _as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(distributed, "size", lambda: size)
        patched.setattr(distributed, "rank", lambda: rank)
        yield


@pytest.mark.parametrize("augment", [None, SCALED, Augment(rotate=True, vertical=True)])
@pytest.mark.parametrize("loaders", [1, 2])
def test_any_number_of_loaders_gives_the_same_batches(files: ImageFiles, augment: Augment | None, loaders: int) -> None:
    here, there = _batches(files, augment=augment), _batches(files, augment=augment, loaders=loaders)
    for epoch in (1, 2):  # the second one with the same processes
        for found, expected in zip(_epoch(there, epoch), _epoch(here, epoch), strict=True):
            assert torch.equal(found, expected)


def test_what_happens_to_an_image_depends_on_seed_epoch_and_image_alone(files: ImageFiles) -> None:
    base = _by_image(_batches(files))
    shuffled = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(5))
    for other in (
        _batches(files, batch_size=7),
        _batches(files, shuffled),
        _batches(files, torch.arange(0, IMAGES, 3)),
    ):
        assert all(torch.equal(x, base[number]) for number, x in _by_image(other).items())
    for changed in (_by_image(_batches(files), 2), _by_image(_batches(files, seed=1))):
        assert not any(torch.equal(x, base[number]) for number, x in changed.items())


def test_no_epoch_of_one_seed_is_an_epoch_of_another(files: ImageFiles) -> None:
    """Seed 0 in epoch 1, seed 1 in epoch 0: runs of neighbouring seeds would share all but one of their epochs."""
    one, other = _by_image(_batches(files, seed=0), 1), _by_image(_batches(files, seed=1), 0)
    assert not any(torch.equal(x, other[number]) for number, x in one.items())


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4, 4, 3]), (5, [5, 6])])
def test_order_and_batches_are_those_of_images_in_memory(files: ImageFiles, batch_size: int, sizes: list[int]) -> None:
    labels, index = torch.arange(IMAGES), torch.arange(1, IMAGES, 2)
    options: dict[str, Any] = {"batch_size": batch_size, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    options |= {"seed": 7, "device": "cpu"}
    memory = data.Batches(files[:], labels, index, augment=Augment(), **options)
    streamed = StreamedBatches(files, labels, index, augment=SCALED, **options)
    for epoch in (1, 2):
        orders = [torch.cat([y for _, y in batches.epoch(epoch)]).tolist() for batches in (memory, streamed)]
        assert orders[0] == orders[1] != sorted(orders[0])
    assert [len(y) for _, y in streamed.epoch(1)] == [len(y) for _, y in memory.epoch(1)] == sizes


def test_evaluation_is_the_middle_in_the_order_of_the_index_normalised(files: ImageFiles) -> None:
    index = torch.tensor([5, 3, 20, 0])
    x, y = _epoch(_batches(files, index, augment=None, batch_size=3))
    assert y.tolist() == index.tolist()
    assert (x.dtype, y.dtype, x.shape) == (torch.float32, torch.int64, (4, 3, SIZE, SIZE))
    torch.testing.assert_close(x, (files[index] / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_the_shares_of_the_ranks_are_the_batch(files: ImageFiles, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """A last batch of three images leaves some of seven ranks none."""
    whole = list(_batches(files).epoch(1))
    shares = []
    for rank in range(ranks):
        with _as_rank(monkeypatch, rank, ranks):
            shares.append(list(_batches(files).epoch(1)))
    for number, (x, y) in enumerate(whole):
        parts = [share[number] for share in shares]
        assert torch.equal(torch.cat([part[0] for part in parts]), x)
        assert torch.equal(torch.cat([part[1] for part in parts]), y)


@pytest.mark.parametrize(("width", "height", "scale"), [(500, 375, (0.08, 1.0)), (300, 800, (0.25, 0.9))])
def test_random_parts_are_distributed_as_torchvisions(width: int, height: int, scale: tuple[float, float]) -> None:
    n, generator = 4000, np.random.default_rng(0)
    boxes = [stream.random_part(width, height, generator=generator, scale=scale) for _ in range(n)]
    ours = np.array([(top, left, bottom - top, right - left) for left, top, right, bottom in boxes])
    blank = torch.zeros(1, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(blank, list(scale), [3 / 4, 4 / 3]) for _ in range(n)])
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1)])
def test_a_part_that_never_fits_is_torchvisions_centre(width: int, height: int) -> None:
    left, top, right, bottom = stream.random_part(width, height, generator=np.random.default_rng(0), scale=(1.0, 1.0))
    expected = RandomResizedCrop.get_params(torch.zeros(1, height, width), [1.0, 1.0], [3 / 4, 4 / 3])
    assert (top, left, bottom - top, right - left) == tuple(expected)


def test_random_squares_are_random_crops_of_the_scaled_image() -> None:
    n, generator = 3000, np.random.default_rng(0)
    boxes = [stream.random_square(600, 400, generator=generator, size=56, resize=64) for _ in range(n)]
    found = np.array(boxes) * 64 / 400  # in pixels of the scaled image, 96 x 64
    np.testing.assert_allclose(found[:, 2:] - found[:, :2], 56, rtol=1e-12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array([RandomCrop.get_params(torch.zeros(1, 64, 96), (56, 56))[:2] for _ in range(n)])
    assert set(found[:, 1].round(9)) == set(range(9))
    assert ks_2samp(found[:, 0].round(9), theirs[:, 1]).pvalue > 1e-3
    assert ks_2samp(found[:, 1].round(9), theirs[:, 0]).pvalue > 1e-3


def test_mirrors_and_turns_are_of_the_same_part_each_as_likely(tmp_path: Path) -> None:
    """An image without symmetry in each of the eight positions, and nothing else about it changed."""
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    files = dataclasses.replace(ImageFiles.of(["a.png"], root=tmp_path, size=32), resize=32)
    plain = _by_image(_batches(files, augment=Augment(flip=False)))[0]
    positions = [mirrored.rot90(k, (1, 2)) for mirrored in (plain, plain.flip(2)) for k in range(4)]

    def seen(augment: Augment) -> list[int]:
        batches = _batches(files, augment=augment)
        drawn = [_by_image(batches, epoch)[0] for epoch in range(160)]
        counts = [sum(torch.equal(x, position) for x in drawn) for position in positions]
        assert sum(counts) == 160
        return counts

    everything = seen(Augment(vertical=True, rotate=True))
    assert min(everything) > 5
    assert [count > 0 for count in seen(Augment())] == [True, False, False, False, True, False, False, False]
    assert [count > 0 for count in seen(Augment(flip=False, vertical=True))] == [True] + [False] * 5 + [True, False]
    assert [count > 0 for count in seen(Augment(flip=False, rotate=True))] == [True] * 4 + [False] * 4


def test_global_generators_are_left_alone(files: ImageFiles) -> None:
    states = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for loaders in (0, 1):
        _epoch(_batches(files, loaders=loaders))
    assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002


@pytest.mark.parametrize("loaders", [0, 2])
def test_an_epoch_broken_off_can_be_begun_again_and_leaves_no_process(files: ImageFiles, loaders: int) -> None:
    batches = _batches(files, loaders=loaders)
    expected = _epoch(_batches(files), 2)
    for _ in range(2):
        broken = batches.epoch(1)
        next(broken)
        broken.close()
        for found, whole in zip(_epoch(batches, 2), expected, strict=True):
            assert torch.equal(found, whole)
    started = batches.epoch(3)
    next(started)
    assert len(multiprocessing.active_children()) == loaders
    started.close()
    assert multiprocessing.active_children() == []
    _epoch(batches)
    assert len(multiprocessing.active_children()) == loaders
    del batches
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_file_that_cannot_be_read_is_named(root: Path, tmp_path: Path, loaders: int) -> None:
    shutil.copytree(root, tmp_path / "copy")
    damaged = tmp_path / "copy" / "08.jpg"
    damaged.write_bytes(damaged.read_bytes()[:700])
    files = ImageFiles.of(sorted(path.name for path in root.iterdir()), root=tmp_path / "copy", size=SIZE)
    for augment in (None, SCALED):
        with pytest.raises(
            InputError, match=r"08\.jpg: damaged: .*truncated.*; repair the file or remove it"
        ) as caught:
            _epoch(_batches(files, loaders=loaders, augment=augment))
        assert len(str(caught.value).splitlines()) == 1
        assert multiprocessing.active_children() == []
    damaged.unlink()
    with pytest.raises(InputError, match=r"08\.jpg: No such file"):
        _epoch(_batches(files, loaders=loaders))


def test_impossible_values_are_refused(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="batch_size = 0"):
        _batches(files, batch_size=0)
    with pytest.raises(InputError, match="index is empty"):
        _batches(files, torch.arange(0))
    with pytest.raises(InputError, match=r"recipe\.augment\.crop: found 8, but it is for images in memory"):
        _batches(files, augment=Augment(crop=8))
    with pytest.raises(InputError, match=r"recipe\.augment\.scale: found \[0\.9, 0\.1\]; valid: the smallest"):
        _batches(files, augment=Augment(scale=(0.9, 0.1)))
    small = type(shutil.disk_usage("/"))(2**16, 0, 2**16)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    monkeypatch.setattr(stream, "_SHARED", Path("/"))
    next(_batches(files, batch_size=32).epoch(1))
    with pytest.raises(InputError, match=r"resources\.loaders: 2 processes keep 0 MiB of batches in /, .*--shm-size"):
        next(_batches(files, batch_size=32, loaders=2).epoch(1))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes told apart by their colour; 16, 12 and 9 images."""
    root = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(1)
    for colour, (name, count) in enumerate({"ant": 16, "bee": 12, "cat": 9}.items()):
        (root / name).mkdir()
        for number in range(count):
            pixels = generator.integers(0, 90, (50, 40 + number, 3), dtype=np.uint8)
            pixels[..., colour] += 120
            Image.fromarray(pixels).save(root / name / f"{number:02d}.jpg")
    return root


def _cell(root: Path, **augment: Any) -> CellConfig:
    recipe = Recipe(epochs=3, batch_size=8, optimizer=Optimizer(lr=0.05), augment=Augment(**augment))
    folder = {"name": "image_folder", "root": str(root), "size": 32, "stream": True}
    return CellConfig(
        folder, {"name": "resnet8", "width": 4}, {"name": "ghm_cwap"}, recipe, fold="holdout", holdout=0.3
    )


def _numbers(cell: CellConfig, **options: Any) -> list[dict[str, float]]:
    return [result.as_metrics() for result in training.run_epochs(cell, device="cpu", **options)]


def test_a_streamed_cell_trains_the_same_with_any_loaders_interrupted_or_not(classes: Path, tmp_path: Path) -> None:
    cell = _cell(classes, scale=(0.5, 1.0))
    whole = _numbers(cell)
    assert whole[-1]["train/loss"] < whole[0]["train/loss"]
    assert _numbers(cell, loaders=2) == whole
    run = training.run_epochs(cell, device="cpu", loaders=2, save_to=tmp_path / "state.pt")
    assert [next(run).as_metrics() for _ in range(2)] == whole[:2]
    assert multiprocessing.active_children() != []
    run.close()
    assert multiprocessing.active_children() == []
    assert _numbers(cell, loaders=1, save_to=tmp_path / "state.pt") == whole[1:]


def test_streaming_or_not_scores_the_sealed_test_and_is_rehearsed(classes: Path) -> None:
    cell = dataclasses.replace(_cell(classes), fold="full", holdout=None)
    dataset = training.load_dataset(cell)
    assert training.rehearse(cell, dataset).class_counts == dataset.available
    *_, last = training.run_epochs(cell, dataset=dataset, device="cpu", score_test=True)
    assert last.test is not None
    assert last.test.top1 > 0.5
    with pytest.raises(InputError, match=r"recipe\.augment\.crop: found 2"):
        training.rehearse(_cell(classes, crop=2), dataset)
    memory = _cell(classes, scale=(0.5, 1.0))
    memory = dataclasses.replace(memory, data={**memory.data, "stream": False})
    with pytest.raises(
        InputError, match=r"recipe\.augment\.scale: found \[0\.5, 1\.0\], but these images are in memory"
    ):
        training.rehearse(memory, training.load_dataset(memory))


def test_a_streamed_folder_has_the_splits_of_one_in_memory_and_checks_headers(classes: Path, tmp_path: Path) -> None:
    shutil.copytree(classes, tmp_path / "copy")
    options: dict[str, Any] = {"root": str(tmp_path / "copy"), "size": 32}
    streamed = data.build("image_folder", **options, stream=True)
    memory = data.build("image_folder", **options)
    assert isinstance(streamed.train_images, ImageFiles)
    assert torch.equal(streamed.train_labels, memory.train_labels)
    assert torch.equal(streamed.test_labels, memory.test_labels)
    assert streamed.train_images.shape == memory.train_images.shape
    (tmp_path / "copy/bee/01.jpg").write_text("<html>")
    with pytest.raises(InputError, match=r"1 of 37 files[\s\S]*bee/01\.jpg: its content is no image"):
        data.build("image_folder", **options, stream=True)
    skipped = data.build("image_folder", **options, stream=True, corrupt="skip")
    assert skipped.skipped == ("bee/01.jpg",)
    assert len(skipped.train_images) + len(skipped.test_images) == 36


def test_a_trial_has_as_many_loaders_as_cpus_unless_told() -> None:
    assert [Resources(cpus=cpus).readers for cpus in (0.5, 1, 6.5)] == [1, 1, 6]
    assert [Resources(cpus=4, loaders=loaders).readers for loaders in (0, 1, 9)] == [0, 1, 9]
