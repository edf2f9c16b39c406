"""Both Tiny-ImageNets from small data in their true layouts: order, content, sealed test, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tune_lt import data
from tune_lt.data import Dataset
from tune_lt.data.sources.common import Size
from tune_lt.data.sources.tiny_imagenet import _of_folders, _of_lists
from tune_lt.errors import InputError

EACH = 3, 12, 2
WORDS = {"n03": "crane", "n01": "goldfish, Carassius auratus", "n02": "crane, lifting machine", "n09": "not used"}


def _jpeg(file: Path, seed: int, mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3) if mode == "RGB" else (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(file, quality=90)


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """Class folders named by numbers below train/ and val/; file names without leading zeros."""
    for c, name in enumerate(["0", "2", "10"]):
        for i in range(12):
            _jpeg(tmp_path / "train" / name / f"{name}_{i}.JPEG", 100 * c + i)
        for i in range(2):
            _jpeg(tmp_path / "val" / name / f"val_{i}.JPEG", 1000 + 10 * c + i)
    return tmp_path


@pytest.fixture
def stanford(tmp_path: Path) -> Path:
    """The 200-class layout with three; the first image of each class is grey, as some are there."""
    lines = []
    for c, wnid in enumerate(["n03", "n01", "n02"]):
        for i in range(12):
            file = tmp_path / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"
            _jpeg(file, 100 * c + i, "L" if i == 0 else "RGB")
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
        for i in range(2):
            _jpeg(tmp_path / "val" / "images" / f"val_{3 * i + c}.JPEG", 1000 + 10 * c + i)
            lines.append(f"val_{3 * i + c}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    (tmp_path / "wnids.txt").write_text("n03\nn01\nn02\n")
    (tmp_path / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    _jpeg(tmp_path / "test" / "images" / "test_0.JPEG", 7)
    return tmp_path


def _kaggle(root: Path, each: Size = EACH, size: int = 64) -> Dataset:
    return _of_folders(root, size, each)


def _stanford(root: Path, each: Size = EACH, size: int = 64) -> Dataset:
    return _of_lists(root, size, each)


def _pixels(file: Path) -> list[list[list[int]]]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1).tolist()


def test_the_papers_images_are_in_the_order_of_imagefolder(kaggle: Path) -> None:
    """The author's code draws from torchvision's ImageFolder: class 10 before class 2, file 10 before file 2."""
    found = _kaggle(kaggle)
    assert found.class_names == ("0", "10", "2")
    for part, images, labels in (
        ("train", found.train_images, found.train_labels),
        ("val", found.test_images, found.test_labels),
    ):
        samples = ImageFolder(kaggle / part).samples
        assert labels.tolist() == [label for _, label in samples]
        assert all(image == _pixels(Path(file)) for image, (file, _) in zip(images.tolist(), samples, strict=True))


def test_200_reads_the_labels_of_its_lists(stanford: Path) -> None:
    found = _stanford(stanford)
    assert found.train_images.shape == (36, 3, 64, 64)
    assert found.train_labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert found.class_names == ("goldfish", "crane (n02)", "crane (n03)"), "by wnid; two are called crane"
    assert found.train_images[0].tolist() == _pixels(stanford / "train/n01/images/n01_0.JPEG"), "a grey image"
    assert found.train_images[2].tolist() == _pixels(stanford / "train/n01/images/n01_10.JPEG")
    expected = ["val_1", "val_4", "val_2", "val_5", "val_0", "val_3"]
    assert found.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [image.tolist() for image in found.test_images] == [
        _pixels(stanford / "val/images" / f"{name}.JPEG") for name in expected
    ]


def test_a_smaller_size_shrinks_the_images(kaggle: Path) -> None:
    small, whole = _kaggle(kaggle, size=16), _kaggle(kaggle)
    assert small.train_images.shape == (36, 3, 16, 16)
    assert abs(small.mean[0] - whole.mean[0]) < 0.01


def test_the_public_loaders_take_only_the_published_totals(kaggle: Path) -> None:
    with pytest.raises(InputError, match="found 3 classes, published: 100"):
        data.build("tiny_imagenet", root=str(kaggle))
    with pytest.raises(InputError, match="size = 65"):
        data.build("tiny_imagenet", root=str(kaggle), size=65)


def test_200_takes_only_the_published_totals(stanford: Path) -> None:
    with pytest.raises(InputError, match="found 3 classes, published: 200"):
        data.build("tiny_imagenet_200", root=str(stanford))


def test_each_data_set_is_told_from_the_other(kaggle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InputError, match=r"not Tiny-ImageNet-200 .* 100 classes is read with name: tiny_imagenet,"):
        _stanford(kaggle)
    (kaggle / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\n")
    with pytest.raises(InputError, match=r"this is Tiny-ImageNet-200 .*read with name: tiny_imagenet_200"):
        _kaggle(kaggle)
    sorted_by_class = tmp_path_factory.mktemp("200")  # what many do to the 200 classes, so that ImageFolder reads them
    for c in range(200):
        (sorted_by_class / "train" / f"n{c:03d}").mkdir(parents=True)
        (sorted_by_class / "val" / f"n{c:03d}").mkdir(parents=True)
    with pytest.raises(InputError, match=r"200 classes\), not the paper's"):
        _kaggle(sorted_by_class, (100, 1000, 100))


def test_an_archive_not_unpacked_or_one_folder_deeper_is_noticed(kaggle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: there is no such folder; get .*thu-deep-learning"):
        _kaggle(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"train, val missing; get tiny-imagenet-200.zip"):
        _stanford(tmp_path / "train" / "0")
    deeper, packed = tmp_path / "deeper", tmp_path / "packed"
    deeper.mkdir(), packed.mkdir()
    (deeper / "tiny").symlink_to(kaggle)
    with pytest.raises(InputError, match=r"tiny/ has all that is needed: point root at .*deeper/tiny"):
        _kaggle(deeper)
    (packed / "tiny-imagenet-200.zip").touch()
    with pytest.raises(InputError, match=r"unpack tiny-imagenet-200.zip, which lies there"):
        _stanford(packed)


def test_missing_images_are_counted_by_class_and_split(kaggle: Path) -> None:
    (kaggle / "train" / "2" / "2_3.JPEG").unlink()
    (kaggle / "val" / "10" / "val_1.JPEG").unlink()
    with pytest.raises(
        InputError, match="found 11 training images of class '2', published: 12; 1 test images of class '10'"
    ):
        _kaggle(kaggle)
    _jpeg(kaggle / "val" / "11" / "val_0.JPEG", 0)
    with pytest.raises(InputError, match="same class folders; only in train/: none; only in val/: 11"):
        _kaggle(kaggle)


def test_a_damaged_image_is_named_with_the_reason(kaggle: Path) -> None:
    file = kaggle / "train" / "2" / "2_3.JPEG"
    file.write_bytes(file.read_bytes()[:500])
    (kaggle / "val" / "0" / "val_0.JPEG").write_text("no image")
    with pytest.raises(InputError, match=r"1 of 36 files cannot be read as images:\n.*train/2/2_3.JPEG: damaged"):
        _kaggle(kaggle)


def test_mistakes_in_the_lists_are_named(stanford: Path) -> None:
    annotations = stanford / "val" / "val_annotations.txt"
    text = annotations.read_text()
    annotations.write_text(text.replace("val_1.JPEG\tn01", "val_1.JPEG\tn77"))
    with pytest.raises(InputError, match=r"val_annotations.txt: line 3: found 'n77' where a wnid"):
        _stanford(stanford)
    annotations.write_text(text.replace("val_1.JPEG\tn01", "val_4.JPEG\tn01"))  # one image twice, another never
    with pytest.raises(InputError, match="found 1 test images of class 'goldfish', published: 2"):
        _stanford(stanford)
    annotations.write_text(text.replace("val_1.JPEG", "val_77.JPEG"))
    with pytest.raises(InputError, match=r"val/images/val_77.JPEG: No such file"):
        _stanford(stanford)
    annotations.unlink()
    with pytest.raises(
        InputError, match=r"val_annotations.txt: cannot be read: .*No such file.*; unpack the archive again"
    ):
        _stanford(stanford)
    (stanford / "wnids.txt").unlink()
    with pytest.raises(InputError, match=r"found neither wnids.txt nor val/val_annotations.txt"):
        _stanford(stanford)
