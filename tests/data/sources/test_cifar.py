"""CIFAR from small archives in the official format: content, damage, download, and the published sums."""

from __future__ import annotations

import hashlib
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from tune_lt import data
from tune_lt.data import Dataset
from tune_lt.data.sources.cifar import _load
from tune_lt.errors import InputError

NAMES = ["airplane", "automobile", "bird"]


class _Python2(pickle._Pickler):
    """Texts and bytes as the ``str`` of Python 2, which wrote the official files."""

    def save_str2(self, value: str | bytes) -> None:
        raw = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[type, object]] = {**pickle._Pickler.dispatch, str: save_str2, bytes: save_str2}


def _pickle(file: Path, content: dict[str, object]) -> str:
    """Write a file as the official ones are; its MD5."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        _Python2(stream, protocol=2).dump(content)
    return hashlib.md5(file.read_bytes()).hexdigest()


def _pixels(images: int, seed: int) -> np.ndarray:
    """Rows of 1,024 red, then green, then blue bytes."""
    return np.random.default_rng(seed).integers(0, 256, (images, 3072), dtype=np.uint8)


def _small10(root: Path) -> type[CIFAR10]:
    """Two training batches, a test batch and the names below ``root``, and the class that knows their sums."""
    folder = root / "cifar-10-batches-py"
    batches = {"data_batch_1": [2, 0, 1, 0, 2, 1], "data_batch_2": [0, 1, 2, 2, 1, 0], "test_batch": [1, 0, 2, 1, 2, 0]}
    sums = [
        [name, _pickle(folder / name, {"data": _pixels(6, seed), "labels": labels, "batch_label": name})]
        for seed, (name, labels) in enumerate(batches.items())
    ]
    meta = {"filename": "batches.meta", "key": "label_names"}
    meta["md5"] = _pickle(folder / "batches.meta", {"label_names": NAMES, "num_vis": 3072})
    return type("Small10", (CIFAR10,), {"train_list": sums[:2], "test_list": sums[2:], "meta": meta})


def _small100(root: Path) -> type[CIFAR100]:
    folder, sums = root / "cifar-100-python", []
    for name, fine in (("train", [1, 0, 0, 1]), ("test", [0, 1])):
        content = {"data": _pixels(len(fine), 9), "fine_labels": fine, "coarse_labels": [7] * len(fine)}
        sums.append([name, _pickle(folder / name, content)])
    meta = {"filename": "meta", "key": "fine_label_names"}
    meta["md5"] = _pickle(folder / "meta", {"fine_label_names": ["apple", "bee"], "coarse_label_names": ["fruit"]})
    return type("Small100", (CIFAR100,), {"train_list": sums[:1], "test_list": sums[1:], "meta": meta})


@pytest.fixture
def source(tmp_path: Path) -> type[CIFAR10]:
    return _small10(tmp_path)


def _build(source: type[CIFAR10], root: Path, download: bool = False) -> Dataset:
    return _load(source, root, download)


def test_pixels_labels_and_names_are_those_of_the_files(source: type[CIFAR10], tmp_path: Path) -> None:
    found = _build(source, tmp_path)
    rows = np.concatenate([_pixels(6, 0), _pixels(6, 1)])
    assert found.train_images.shape == (12, 3, 32, 32)
    for image, row in zip(found.train_images.tolist(), rows.tolist(), strict=True):
        assert image == [[row[1024 * c + 32 * y : 1024 * c + 32 * y + 32] for y in range(32)] for c in range(3)]
    assert torch.equal(found.test_images.flatten(1), torch.from_numpy(_pixels(6, 2)))
    assert found.train_labels.tolist() == [2, 0, 1, 0, 2, 1, 0, 1, 2, 2, 1, 0]
    assert found.test_labels.tolist() == [1, 0, 2, 1, 2, 0]
    assert found.class_names == tuple(NAMES)
    assert found.mean == pytest.approx((rows.reshape(-1, 3, 1024) / 255).mean(axis=(0, 2)).tolist())


def test_cifar_100_takes_the_fine_labels(tmp_path: Path) -> None:
    found = _load(_small100(tmp_path), tmp_path, False)
    assert found.train_labels.tolist() == [1, 0, 0, 1]
    assert found.class_names == ("apple", "bee")


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_the_public_loaders_take_only_the_published_files(name: str, folder: str, tmp_path: Path) -> None:
    """Small files under the official names are refused by their MD5, unread; so are files that are not there."""
    with pytest.raises(InputError, match=rf"{folder}: .* is missing, .*get .*cifar\.html.*download: true"):
        data.build(name, root=str(tmp_path / "nowhere"))
    _small10(tmp_path), _small100(tmp_path)
    with pytest.raises(InputError, match="is damaged \\(its MD5"):
        data.build(name, root=str(tmp_path))


def test_a_damaged_and_a_missing_file_are_both_named(source: type[CIFAR10], tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    with (folder / "data_batch_2").open("ab") as file:
        file.write(b"x")
    (folder / "batches.meta").unlink()
    with pytest.raises(InputError) as refused:
        _build(source, tmp_path)
    message = str(refused.value)
    assert "data_batch_2 is damaged" in message
    assert "batches.meta is missing" in message
    assert "data_batch_1" not in message
    assert "\n" not in message


def test_an_archive_that_is_not_unpacked_is_noticed(source: type[CIFAR10], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cifar-10-python.tar.gz").touch()
    with pytest.raises(
        InputError, match=r"empty.* is missing, .*unpack cifar-10-python\.tar\.gz, which lies there, or get .*, or set"
    ):
        _build(source, tmp_path / "empty")


@pytest.fixture
def served(source: type[CIFAR10], tmp_path: Path) -> Iterator[list[str]]:
    """The archive of the small files on a server of this machine; what was fetched from it."""
    site, fetched = tmp_path / "site", []
    site.mkdir()
    with tarfile.open(site / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            super().do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source.url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
    source.tgz_md5 = hashlib.md5((site / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    yield fetched
    server.shutdown()
    server.server_close()


def test_several_at_once_download_it_once(source: type[CIFAR10], served: list[str], tmp_path: Path) -> None:
    _build(source, tmp_path / "alone", download=True)
    requests = len(served)  # torchvision asks for redirects first
    root = tmp_path / "new" / "folder"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: _build(source, root, download=True), range(4)))
    assert len(served) == 2 * requests
    assert {one.content_hash for one in found} == {_build(source, tmp_path).content_hash}


def test_a_download_repairs_what_is_damaged_and_leaves_what_is_whole(
    source: type[CIFAR10], served: list[str], tmp_path: Path
) -> None:
    _build(source, tmp_path, download=True)
    assert served == []
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(b"damaged")
    _build(source, tmp_path, download=True)
    assert set(served) == {"/cifar-10-python.tar.gz"}


def test_a_download_that_fails_is_one_message(source: type[CIFAR10], served: list[str], tmp_path: Path) -> None:
    source.tgz_md5 = "0" * 32  # the server has another archive
    with pytest.raises(InputError, match=r"cifar-10-python.tar.gz from http://127.* failed: .*; try again, or get it"):
        _build(source, tmp_path / "a", download=True)
    source.url = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # nobody listens there
    with pytest.raises(InputError, match=r"failed: .*refused.*; try again"):
        _build(source, tmp_path / "b", download=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: fetching .* failed"):
        _build(source, tmp_path / "file", download=True)
