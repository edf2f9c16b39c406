"""What `tune-lt data` shows, against counts made with plain loops."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from svg import texts

from tune_lt import data
from tune_lt.report.figures import dataset
from tune_lt.study import reader

pytestmark = pytest.mark.long

TEXT = """\
name: looked
data: {name: digits, imbalance: 20, validation: {folds: 3}}
model: {name: resnet8, width: 4}
recipe: {epochs: 4}
loss: {name: ghm_cwap, gamma: {choice: [0.0, 0.8]}}
search: {sampler: grid}
cross: {imbalance: [5, 100]}
seeds: [3]
"""


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.build("digits")


def test_every_class_has_its_images_and_those_of_each_fold(digits: data.Dataset, tmp_path: Path) -> None:
    study = reader.parse(TEXT, tmp_path)
    frame = dataset.classes(study, digits)
    assert list(frame["imbalance"].unique()) == [5, 100]
    for factor in (5, 100):
        whole = data.cell_data(digits, imbalance=factor, profile="exponential", data_seed=3)
        trained = Counter(digits.train_labels[whole.train_index].tolist())
        own = frame[frame["imbalance"] == factor].set_index("class")
        assert own["train"].to_dict() == dict(trained)
        assert own["train"].is_monotonic_decreasing
        assert own["test"].to_dict() == dict(Counter(digits.test_labels.tolist()))
        for k in (1, 2, 3):
            fold = data.cell_data(digits, imbalance=factor, profile="exponential", data_seed=3, fold=(k, 3))
            assert fold.val_index is not None
            held = Counter(digits.train_labels[fold.val_index].tolist())
            assert own[f"{k}/3"].to_dict() == {label: held[label] for label in range(10)}
    assert own["group"].tolist() == ["many"] * 3 + ["medium"] * 3 + ["few"] * 2 + ["rare"] * 2


def test_the_sheet_sums_groups_and_names_classes_that_folds_miss(digits: data.Dataset, tmp_path: Path) -> None:
    study = reader.parse(TEXT, tmp_path)
    frame = dataset.classes(study, digits)
    sheet = dataset.sheet(study, frame)
    assert sheet.header == (
        "Imbalance", "Group", "Classes", "Images a class", "Available", "Training", "Fold 1/3", "Fold 2/3", "Fold 3/3",
        "Test",
    )  # fmt: skip
    lines = {line[:2]: line[2:] for line in sheet.lines}
    many = frame[(frame["imbalance"] == 100) & (frame["group"] == "many")]
    assert lines["100", "many"][:2] == ("3", f"{many['train'].max()} to {many['train'].min()}")
    assert int(lines["5", "all"][3]) == sum(int(lines["5", group][3]) for group in ("many", "medium", "few", "rare"))
    assert lines["5", "all"][-1] == str(len(digits.test_labels))
    smallest = frame[frame["imbalance"] == 100].iloc[-1]  # one image: it is in no fold
    assert smallest["train"] == 1
    assert [smallest[fold] for fold in ("1/3", "2/3", "3/3")] == [0, 0, 0]
    assert any(note.startswith("1/3: ") and "without an image" in note for note in sheet.notes)


def test_a_class_called_like_a_formula_is_shown_as_it_is(digits: data.Dataset, tmp_path: Path) -> None:
    study, names = reader.parse(TEXT, tmp_path), ("price_$5_$", "$10-$20", r"\$", *map(str, range(3, 10)))
    frame = dataset.classes(study, replace(digits, class_names=names))
    for figure in (dataset.profile(study, frame), dataset.samples(study, digits, frame)):
        assert set(names) <= set(texts(figure))


def test_the_command_writes_a_table_and_two_pictures(tmp_path: Path, cli: Any) -> None:
    (tmp_path / "looked.yaml").write_text(TEXT)
    code, out, err = cli("data", "looked.yaml", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "looked: digits, profile exponential" in out
    folder = tmp_path / "reports" / "looked" / "data"
    assert sorted(file.name for file in folder.iterdir()) == ["classes.csv", "profile.png", "samples.png"]
    assert len(pd.read_csv(folder / "classes.csv")) == 20
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("profile.png", "samples.png"))


def test_a_damaged_data_set_is_one_line(tmp_path: Path, cli: Any) -> None:
    text = TEXT.replace("name: digits,", "name: cifar10, root: nothing,")
    (tmp_path / "looked.yaml").write_text(text)
    code, out, err = cli("data", "looked.yaml", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "cifar-10" in err
