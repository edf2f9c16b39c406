"""iNaturalist: a small one of the true form, in COCO's JSON, with ids that are neither contiguous nor in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tune_lt import data
from tune_lt.data.sources.inaturalist import _load
from tune_lt.errors import InputError

EDITION = 2017, "train_val_images", (3, 6, 3)
CATEGORIES = [(40, "Larus"), (7, "Abies alba"), (9, "Larus")]  # of one name in two kingdoms
TRAIN = [(31, 40), (2, 7), (17, 7), (5, 9), (3, 7), (1, 40)]  # image, category
VAL = [(50, 9), (44, 7), (60, 40)]


def _level(category: int) -> int:
    return category * 5


def _write(root: Path, part: str, pairs: list[tuple[int, int]], **changes: Any) -> None:
    names = {image: f"train_val_images/Kingdom/{category} x/{image:032x}.jpg" for image, category in pairs}
    for image, category in pairs:
        path = root / names[image]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 44), (_level(category),) * 3).save(path)
    images = [
        {"id": image, "width": 60, "height": 44, "license": 1, "file_name": name} for image, name in names.items()
    ]
    annotations = [
        {"id": 1000 + image, "image_id": image, "category_id": category} for image, category in reversed(pairs)
    ]
    categories = [{"id": key, "name": name, "supercategory": "Kingdom"} for key, name in CATEGORIES]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories, "licenses": []}
    (root / f"{part}2017.json").write_text(json.dumps(content | changes))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    _write(tmp_path, "train", TRAIN)
    _write(tmp_path, "val", VAL)
    return tmp_path


def test_classes_are_in_the_order_of_their_ids_and_images_too(root: Path) -> None:
    found = _load(root, 32, *EDITION)
    assert found.class_names == ("Abies alba", "Larus (9)", "Larus (40)")
    assert found.train_labels.tolist() == [2, 0, 0, 1, 0, 2]  # of the images 1, 2, 3, 5, 17, 31
    assert found.test_labels.tolist() == [0, 1, 2]
    keys = sorted(key for key, _ in CATEGORIES)
    for images, labels in ((found.train_images, found.train_labels), (found.test_images, found.test_labels)):
        levels = images[:][:, 0, 16, 16].tolist()
        assert levels == pytest.approx([_level(keys[label]) for label in labels.tolist()], abs=2)
    assert found.train_images.shape == (6, 3, 32, 32)


def test_no_other_long_tail_is_laid_over_it(root: Path) -> None:
    found = _load(root, 32, *EDITION)
    with pytest.raises(InputError, match=r"data\.imbalance: found 10\.0, but this data set is a long tail"):
        data.cell_data(found, imbalance=10.0, profile="exponential", data_seed=0)
    assert data.cell_data(found, imbalance=None, profile="exponential", data_seed=0).class_counts == [3, 1, 2]


def test_all_that_is_missing_is_said_with_where_to_get_it(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (root / "val2017.json").unlink()
    with pytest.raises(InputError, match=r"val2017\.json missing; .*visipedia/inat_comp/tree/master/2017"):
        _load(root, 32, *EDITION)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(
        InputError, match=r"train2018\.json, val2018\.json, train_val2018 missing; .*train_val2018\.tar"
    ):
        data.build("inaturalist2018", root=str(empty))


def test_the_published_totals_are_expected(root: Path) -> None:
    with pytest.raises(InputError, match="found 3 classes, published: 5,089; 6 training images, published: 579,184"):
        data.build("inaturalist2017", root=str(root))


def test_files_that_are_named_must_be_there(root: Path) -> None:
    (root / "train_val_images/Kingdom/40 x" / f"{31:032x}.jpg").unlink()
    with pytest.raises(
        InputError, match=r"1 of 9 files cannot be used \(No such.*\): train_val_images/Kingdom/40 x/0+1f\.jpg"
    ):
        _load(root, 32, *EDITION)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"image_id": 31, "category_id": 8}]}, "not the competition's file: KeyError: 8"),
        ({"annotations": []}, "each image must have exactly one annotation"),
        ({"images": [{"id": 1}]}, "not the competition's file: KeyError: 'file_name'"),
        ({"categories": {}}, "KeyError: 40"),
    ],
)
def test_a_file_of_another_form_is_named(root: Path, changes: dict[str, Any], message: str) -> None:
    _write(root, "train", TRAIN, **changes)
    with pytest.raises(InputError, match=rf"train2017\.json: .*{message}"):
        _load(root, 32, *EDITION)


def test_damaged_json_and_other_classes_in_the_two_files(root: Path) -> None:
    other = [{"id": key, "name": f"{name}!"} for key, name in CATEGORIES]
    _write(root, "val", VAL, categories=other)
    with pytest.raises(InputError, match=r"val2017\.json: its classes are not those of train2017\.json"):
        _load(root, 32, *EDITION)
    (root / "val2017.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"val2017\.json: damaged, .*unpack the archive again"):
        _load(root, 32, *EDITION)
