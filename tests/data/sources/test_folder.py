"""Folders of class folders: layouts, what is refused and how it is said, skipping, sealing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tune_lt import data
from tune_lt.data import Dataset, memory, sources
from tune_lt.errors import InputError


def _fill(folder: Path, count: int, first: int = 0, suffix: str = ".png") -> None:
    """Images of one grey level each, so that an image can be told from its pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for level in range(first, first + count):
        Image.new("RGB", (10, 12), (level,) * 3).save(folder / f"{level:03d}{suffix}")


def _levels(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def _build(root: Path, **params: object) -> Dataset:
    return data.build("image_folder", **{"root": str(root), "size": 8, **params})


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Three classes, split into train and test."""
    for c, name in enumerate(["zebra", "ant", "cat"]):
        _fill(tmp_path / "train" / name, 4, 10 * c)
        _fill(tmp_path / "test" / name, 2, 100 + 10 * c)
    return tmp_path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Three classes of 20, 10 and 1 images, no split."""
    for name, count, first in (("a", 20, 0), ("b", 10, 50), ("c", 1, 90)):
        _fill(tmp_path / name, count, first)
    return tmp_path


def test_images_that_do_not_fit_in_memory_are_refused_before_any_is_decoded(
    split: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """18 images of 3 x 512 x 512 bytes are 13.5 MiB, and there are two copies of them for a moment."""
    monkeypatch.setattr(memory, "available", lambda: 27 * 2**20)
    assert _build(split, size=512).train_images.shape == (12, 3, 512, 512)
    monkeypatch.setattr(memory, "available", lambda: 27 * 2**20 - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources.folder, "decode", lambda *_: pytest.fail("an image is decoded"))
        with pytest.raises(InputError) as raised:
            _build(split, size=512)
    said = str(raised.value)
    assert said.startswith(f"{split}: to load 18 images of 512 x 512 pixels takes 27 MiB of memory, and 26 MiB are")
    assert "data.stream: true" in said
    assert "a smaller data.size" in said
    assert isinstance(_build(split, size=512, stream=True).train_images, data.ImageFiles)


def test_train_and_test_below_the_root(split: Path) -> None:
    found = _build(split)
    assert found.class_names == ("ant", "cat", "zebra")
    assert found.train_images.shape == (12, 3, 8, 8)
    assert _levels(found.train_images) == [10, 11, 12, 13, 20, 21, 22, 23, 0, 1, 2, 3]
    assert found.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert _levels(found.test_images) == [110, 111, 120, 121, 100, 101]
    assert found.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.mean == pytest.approx([np.mean([*range(4), *range(10, 14), *range(20, 24)]) / 255] * 3)
    assert (found.largest, found.skipped) == (None, ())


def test_class_folders_alone_seal_a_fifth_of_each(flat: Path) -> None:
    found = _build(flat)
    assert torch.bincount(found.test_labels, minlength=3).tolist() == [4, 2, 0]
    assert found.available == [16, 8, 1]
    everything = _levels(found.train_images) + _levels(found.test_images)
    assert sorted(everything) == [*range(20), *range(50, 60), 90]
    labels = torch.cat([found.train_labels, found.test_labels]).tolist()
    assert all(label == (level >= 50) + (level >= 90) for level, label in zip(everything, labels, strict=True))
    assert _levels(found.test_images[:4]) != [0, 1, 2, 3], "chosen at random, not the first ones"


def test_the_seal_is_the_same_on_every_call_and_for_every_data_seed(flat: Path) -> None:
    first = _build(flat)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    assert _build(flat).content_hash == first.content_hash
    _fill(flat / "a", 7, 200)
    assert _levels(_build(flat).test_images[-2:]) == _levels(first.test_images[-2:])


def test_a_long_tail_can_be_laid_over_it(flat: Path) -> None:
    cell = data.cell_data(_build(flat), imbalance=4, profile="exponential", data_seed=0, holdout=None)
    assert cell.class_counts == [16, 8, 1]


def test_content_and_class_names_are_in_the_hash_but_not_the_place(flat: Path, tmp_path_factory: object) -> None:
    first = _build(flat).content_hash
    moved = flat.rename(flat.with_name("moved"))
    assert _build(moved).content_hash == first
    (moved / "b").rename(moved / "bb")
    assert _build(moved).content_hash != first


def test_size_is_the_side_of_the_images(flat: Path) -> None:
    assert _build(flat, size=24).train_images.shape[1:] == (3, 24, 24)
    assert data.build("image_folder", root=str(flat)).train_images.shape[1:] == (3, 32, 32)


def test_folders_within_a_class_are_searched_and_links_followed(split: Path) -> None:
    """Tiny-ImageNet keeps its images in <class>/images/."""
    _fill(split / "train" / "ant" / "images", 2, 40)
    _fill(split / "elsewhere", 3, 60)
    (split / "train" / "ant" / "linked").symlink_to(split / "elsewhere")
    (split / "train" / "ant" / "one.png").symlink_to(split / "elsewhere" / "061.png")
    found = _build(split)
    ants = _levels(found.train_images[found.train_labels == 0])
    assert sorted(ants) == [10, 11, 12, 13, 40, 41, 60, 61, 61, 62]


def test_what_systems_leave_behind_is_passed_over(split: Path) -> None:
    expected = _build(split).content_hash
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._010.png", ".hidden.txt"):
        (split / "train" / "ant" / name).write_bytes(b"x")
    for folder in (".ipynb_checkpoints", "__MACOSX", ".git"):
        (split / "train" / folder).mkdir()
    (split / "train" / "labels.csv").write_text("not below a class folder")
    (split / "README.md").write_text("nor this")
    assert _build(split).content_hash == expected


def _spoil(root: Path) -> list[str]:
    """Four bad files, in the order in which they are read."""
    bad = ["train/ant/000.jpg", "train/ant/notes.txt", "train/cat/zz.png", "test/cat/120.png"]
    (root / bad[0]).write_bytes(b"")
    (root / bad[1]).write_text("hello")
    (root / bad[2]).write_bytes((root / "train/cat/020.png").read_bytes()[:50])
    (root / bad[3]).write_bytes(b"<html>")
    return bad


def test_bad_files_are_refused_each_with_its_reason(split: Path) -> None:
    bad = _spoil(split)
    with pytest.raises(InputError) as caught:
        _build(split)
    message = str(caught.value)
    assert "4 of 21 files" in message
    assert "corrupt: skip" in message
    for name, reason in zip(bad, ("empty", "by its name", "damaged", "no image of a known"), strict=True):
        assert any(str(split / name) in line and reason in line for line in message.splitlines())


def test_bad_files_are_skipped_and_listed(split: Path) -> None:
    expected = _build(split)
    bad = _spoil(split)
    found = _build(split, corrupt="skip")
    assert found.skipped == tuple(bad)
    assert torch.equal(found.train_images, expected.train_images)
    assert torch.equal(found.train_labels, expected.train_labels)
    assert _levels(found.test_images) == [110, 111, 121, 100, 101]
    assert found.test_labels.tolist() == [0, 0, 1, 2, 2]


def test_a_long_list_of_bad_files_is_cut(flat: Path) -> None:
    for number in range(30):
        (flat / "a" / f"bad{number:02d}.png").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        _build(flat)
    assert "30 of 61 files" in str(caught.value)
    assert "and 25 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 8


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_of_which_no_file_can_be_read(split: Path, part: str) -> None:
    for path in (split / part / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"{part}/cat: none of its files can be read"):
        _build(split, corrupt="skip")


def test_missing_root_and_file_as_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        _build(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        _build(tmp_path / "file")


def test_root_may_be_below_home(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(flat.parent))
    assert _build(Path("~") / flat.name).class_names == ("a", "b", "c")


def test_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no class folders \(0 images"):
        _build(tmp_path)
    _fill(tmp_path, 3)
    with pytest.raises(
        InputError, match=r"no class folders \(3 images lie in it directly\); make one folder per class$"
    ):
        _build(tmp_path)


def test_a_test_without_labels(split: Path) -> None:
    shutil.rmtree(split / "test")
    _fill(split / "test", 3)
    with pytest.raises(InputError, match=r"test: no class folders .* point root at .*train, of which a fifth"):
        _build(split)


def test_a_single_class(tmp_path: Path) -> None:
    _fill(tmp_path / "a", 3)
    with pytest.raises(InputError, match="only one class folder"):
        _build(tmp_path)


def test_a_class_folder_without_images(split: Path) -> None:
    (split / "train" / "bee").mkdir()
    with pytest.raises(InputError, match=r"train/bee: no images in this class folder \(0 other files\)"):
        _build(split)
    (split / "train" / "bee" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"\(1 other files\)"):
        _build(split, corrupt="skip")


def test_classes_that_differ_between_train_and_test(split: Path) -> None:
    (split / "test" / "cat").rename(split / "test" / "dog")
    with pytest.raises(InputError, match="only in train/: cat; only in test/: dog"):
        _build(split)
    _fill(split / "train" / "dog", 1)
    with pytest.raises(InputError, match="only in train/: cat; only in test/: none"):
        _build(split)
    _fill(split / "test" / "cat", 1)
    _fill(split / "test" / "eel", 1)
    with pytest.raises(InputError, match="only in train/: none; only in test/: eel"):
        _build(split)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_train_or_test_alone(split: Path, missing: str) -> None:
    (split / missing).rename(split / "val")
    with pytest.raises(InputError, match=rf"{missing}/ is missing \(found: .*val"):
        _build(split)


def test_train_can_be_the_name_of_a_class(tmp_path: Path) -> None:
    for number, name in enumerate(["bus", "train", "tram"]):
        _fill(tmp_path / name, 5, 10 * number)
    assert _build(tmp_path).class_names == ("bus", "train", "tram")


def test_nothing_to_seal(tmp_path: Path) -> None:
    for name in "ab":
        _fill(tmp_path / name, 1)
    with pytest.raises(InputError, match="no class has a second image"):
        _build(tmp_path)


@pytest.mark.parametrize("target", ["train/ant", "train", "."])
def test_a_link_that_leads_back_up(split: Path, target: str) -> None:
    (split / "train" / "ant" / "loop").symlink_to(split / target)
    with pytest.raises(InputError, match="links lead to this folder twice"):
        _build(split)


def test_a_link_to_itself_is_a_bad_file(split: Path) -> None:
    (split / "train" / "ant" / "self.png").symlink_to(split / "train" / "ant" / "self.png")
    with pytest.raises(InputError, match=r"self\.png: .*symbolic link"):
        _build(split)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed(split: Path) -> None:
    (split / "train" / "ant").chmod(0)
    try:
        with pytest.raises(InputError, match="cannot be listed"):
            _build(split)
    finally:
        (split / "train" / "ant").chmod(0o755)


def _streamed(root: Path, **params: object) -> Dataset:
    return _build(root, size=32, stream=True, **params)


def test_a_streamed_image_that_is_edited_in_place_is_another(split: Path) -> None:
    """The same path, length and time: other pixels, or the EXIF tag that says which side is up."""
    file = split / "train" / "ant" / "010.jpg"
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.new("RGB", (40, 60), "red").save(file, exif=exif)
    found = _streamed(split)
    hashes = [found.hashes]
    whole = file.read_bytes()
    place = whole.index(b"\x12\x01\x03\x00") + 8 if b"\x12\x01\x03\x00" in whole else whole.index(b"\x01\x12") + 9
    turned = bytearray(whole)
    assert turned[place] == 1
    turned[place] = 6
    for content in (bytes(turned), bytes(len(whole))):
        times = file.stat()
        file.write_bytes(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        if content[:2] == whole[:2]:
            assert Image.open(file).getexif()[0x0112] == 6
            hashes.append(_streamed(split).hashes)
    with pytest.raises(InputError, match=r"010\.jpg: its content is no image"):
        _streamed(split)
    assert hashes[0].training != hashes[1].training
    assert hashes[0].whole != hashes[1].whole


def test_two_machines_with_the_same_streamed_files_have_the_same_hash(split: Path, tmp_path_factory: object) -> None:
    copy = shutil.copytree(split, tmp_path_factory.mktemp("there") / "images")  # type: ignore[attr-defined]
    assert _streamed(copy).hashes == _streamed(split).hashes


def test_one_more_image_in_the_test_leaves_the_hash_of_the_training_images(split: Path) -> None:
    for stream in (False, True):
        before = _build(split, size=32, stream=stream).hashes
        file = split / "test" / "ant" / "zz.png"
        Image.new("RGB", (10, 12), "blue").save(file)
        after = _build(split, size=32, stream=stream).hashes
        assert after.training == before.training
        assert after.whole != before.whole
        file.unlink()


def test_damaged_streamed_images_are_skipped_and_the_hash_knows(split: Path) -> None:
    """Their headers are whole. Without ``skip`` training would end where it meets them."""
    train, test = split / "train" / "cat" / "zz.png", split / "test" / "ant" / "zz.png"
    expected = _streamed(split)
    for file in (train, test):
        noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
        file.write_bytes(file.read_bytes()[:9000])
    refused = _streamed(split)
    assert len(refused.train_images) == len(expected.train_images) + 1
    found = _streamed(split, corrupt="skip")
    assert found.skipped == ("train/cat/zz.png", "test/ant/zz.png")
    assert found.hashes == expected.hashes != refused.hashes
