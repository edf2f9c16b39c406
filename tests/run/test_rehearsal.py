"""What is refused, or said, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tune_lt import data
from tune_lt.data import memory
from tune_lt.errors import InputError
from tune_lt.run.rehearsal import check_memory, measured, rehearse
from tune_lt.study import Study, reader


def _dataset(counts: Sequence[int]) -> data.Dataset:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.randint(0, 256, (len(labels), 1, 8, 8), dtype=torch.uint8)
    return data.Dataset.of(images, labels, images, labels, [f"class {label}" for label in range(len(counts))])


def _study(folder: Path, search: str, validation: str = "{folds: 3}") -> Study:
    text = f"""\
name: rehearsed
data: {{name: digits, validation: {validation}}}
model: {{name: resnet8, width: 4}}
recipe: {{epochs: 4, batch_size: 8}}
loss: {{name: ghm_cwap, alpha: {{uniform: [0.3, 1.0]}}}}
search: {{trials: 4, {search}}}
"""
    return reader.parse(text, folder)


SINGLE = (9, 8, 7, 1, 1)  # rare is the last class, few the fourth; many has two classes
FEW = (9, 8, 7, 6, 2)


@pytest.mark.parametrize(
    ("counts", "search", "field", "group"),
    [
        (SINGLE, "metric: val/rare", "search.metric", "'rare' (class 4)"),
        (SINGLE, "metric: [val/top1, val/few]", "search.metric", "'few' (class 3)"),
        (SINGLE, "constraints: {val/few: 0.01}", "search.constraints.val/few", "'few' (class 3)"),
        ((9, 8, 7), "metric: val/rare", "search.metric", "of 3 classes none is in the group 'rare'"),
    ],
)
@pytest.mark.parametrize("validation", ["{folds: 3}", "{holdout: 0.3}"])
def test_a_metric_that_no_held_out_image_can_give_is_refused(
    tmp_path: Path, counts: Sequence[int], search: str, field: str, group: str, validation: str
) -> None:
    with pytest.raises(InputError) as raised:
        rehearse(_study(tmp_path, search, validation), _dataset(counts))
    assert str(raised.value).startswith(f"{field}: found val/")
    assert group in str(raised.value)
    assert "valid: another metric" in str(raised.value)


def test_a_metric_that_some_folds_give_is_said_with_what_becomes_of_racing(tmp_path: Path) -> None:
    dataset = _dataset(FEW)
    study = _study(tmp_path, "metric: val/rare")
    assert sum("val/rare" in metrics for metrics in measured(study, dataset)) == 2
    assert all("val/many" in metrics for metrics in measured(study, dataset))
    two = "search.metric: only 2 of the 3 units of a trial hold out an image that val/rare is about"
    assert rehearse(study, dataset)[-1].startswith(two)
    assert rehearse(study, dataset)[-1].endswith("racing compares trials on these alone")
    assert "racing" not in rehearse(_study(tmp_path, "metric: val/rare, scheduler: none"), dataset)[-1]
    assert "val/" not in "".join(rehearse(_study(tmp_path, "metric: val/many"), dataset))


def test_a_run_needs_room_for_two_more_copies_of_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 62 images of 64 bytes, training and test: 7,936 bytes."""
    dataset, study = _dataset((20, 11)), _study(tmp_path, "metric: val/many")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(memory, "available", lambda: 7936)
    check_memory(study, dataset)
    monkeypatch.setattr(memory, "available", lambda: 7935)
    with pytest.raises(InputError, match=r"^digits: two more copies of the images, .*data\.stream: true"):
        check_memory(study, dataset)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # the trials may run on other hosts
    check_memory(study, dataset)


def test_asha_cannot_go_by_what_the_first_fold_lacks(tmp_path: Path) -> None:
    said = []
    for seed in range(6):
        study = _study(tmp_path, f"metric: val/rare, scheduler: asha, seed: {seed}")
        first = "val/rare" in measured(study, _dataset(FEW))[0]
        try:
            rehearse(study, _dataset(FEW))
        except InputError as error:
            assert not first
            said.append(str(error))
        else:
            assert first
    assert said
    assert all(line.startswith("search.scheduler: asha compares trials on their first unit") for line in said)


@pytest.mark.parametrize(
    ("section", "seeds", "same"),
    [
        ("", "{data: [3, 7]}", "as it is"),
        (", imbalance: 1", "{data: [3, 7], init: [0, 1]}", "1.0"),
        (", largest: 100", "{data: [3, 7]}", "as it is"),
        (", largest: 5", "{data: [3, 7]}", ""),
        (", imbalance: 3", "{data: [3, 7], init: [0, 1]}", ""),
        ("", "[3, 7]", ""),
        ("", "{resample: [3, 7]}", ""),
    ],
)
def test_data_seeds_that_draw_the_same_images_would_repeat_trainings(
    tmp_path: Path, section: str, seeds: str, same: str
) -> None:
    text = f"""\
name: rehearsed
data: {{name: digits{section}}}
model: {{name: resnet8, width: 4}}
loss: {{name: softmax}}
rows: {{softmax: {{}}}}
seeds: {seeds}
"""
    study, dataset = reader.parse(text, tmp_path), _dataset((9, 9, 9))
    if not same:
        rehearse(study, dataset)
        return
    with pytest.raises(InputError, match=f"seeds.data: found 3 and 7, which draw the same images at imbalance {same}"):
        rehearse(study, dataset)
