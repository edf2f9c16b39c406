"""The small form of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stand_in import IMAGES

from tune_lt.errors import InputError
from tune_lt.run.planner import Plan
from tune_lt.study import command_line, reader, smaller
from tune_lt.study.checks import Problems

SMALL = "small: {data: {largest: 30}, recipe: {epochs: 2}, seeds: [7], rows: {more: {loss: {name: focal}}}}\n"


def test_the_small_form_is_laid_over_the_file(tiny_text: str, tmp_path: Path) -> None:
    full, small = (reader.parse(tiny_text + SMALL, tmp_path, small) for small in (False, True))
    assert (full.name, full.scale, small.name, small.scale) == ("tiny", "full", "tiny-small", "small")
    assert full == reader.parse(tiny_text + SMALL, tmp_path)
    assert (small.data["largest"], small.data["imbalance"]) == (30, 20)
    assert (small.recipe.epochs, small.recipe.batch_size) == (2, full.recipe.batch_size)
    assert small.seeds == ((7, 7),)
    assert list(small.rows) == [*full.rows, "more"]
    assert small.text == full.text == tiny_text + SMALL  # the whole file is what is recorded


PLAIN = """\
name: one
data: {name: digits}
model: {name: resnet8, width: 4}
loss: {name: ghm_cwap, alpha: 0.4}
rows: {own: {}}
"""


def test_another_loss_or_network_comes_without_the_old_ones_parameters(tmp_path: Path) -> None:
    changes = "small: {model: {name: resnet32}, loss: {name: focal, gamma: 2.0}}\n"
    other = reader.parse(PLAIN + changes, tmp_path, small=True)
    assert other.loss == {"name": "focal", "gamma": 2.0, "drw": None}
    assert other.model == {"name": "resnet32", "width": 16, "head": "linear"}
    same = reader.parse(f"{PLAIN}small: {{model: {{head: cosine}}}}\n", tmp_path, small=True)
    assert same.model == {"name": "resnet8", "width": 4, "head": "cosine"}


def test_ranges_and_validations_are_replaced(tiny_text: str, tmp_path: Path) -> None:
    changes = "small: {loss: {alpha: {choice: [0.5, 0.9]}}, data: {validation: {folds: 2}}}\n"
    choice = reader.parse(tiny_text + changes, tmp_path, small=True)
    assert choice.searches["ghm_cwap"].space["loss/alpha"].values == (0.5, 0.9)
    assert (choice.validation.folds, choice.validation.holdout) == (2, None)


def test_a_section_can_be_taken_away(tiny_text: str, tmp_path: Path) -> None:
    changes = """\
small:
  loss: {alpha: 0.9, gamma: 0.4, regions: 10, aura: true}
  search: null
  rows: {margin+weight_aura: {loss: {best: false}}}
"""
    fixed = reader.parse(tiny_text + changes, tmp_path, small=True)
    assert (fixed.searches, fixed.loss["alpha"]) == ({}, 0.9)


@pytest.mark.parametrize(
    ("changes", "same"), [("{resources: {concurrent: 1}}", True), ("{recipe: {epochs: 2}}", False)]
)
def test_a_cell_of_the_small_form_is_another_one_unless_nothing_in_it_changed(
    tiny_text: str, tmp_path: Path, changes: str, same: bool
) -> None:
    studies = (reader.parse(f"{tiny_text}small: {changes}\n", tmp_path, small) for small in (False, True))
    full, small = ({cell.fingerprint for cell in Plan(study, IMAGES).cells({})} for study in studies)
    assert (full == small) == bool(full & small) == same


def test_a_command_can_be_typed_as_it_is_shown() -> None:
    assert command_line("run", "digits") == "tune-lt run digits"
    assert command_line("plan", "my study.yaml", small=True) == "tune-lt plan 'my study.yaml' --small"


def test_only_the_full_form_is_not_called_smaller() -> None:
    assert smaller("full") == ""
    for scale in ("small", "smoke"):  # the second one recorded by an older version
        assert smaller(scale).startswith(f"scale {scale}: smaller than the study is meant to be")


@pytest.mark.parametrize(
    ("text", "small", "found"),
    [
        ("", True, "small: missing"),
        ("small: [seeds]\n", False, r'small: found \["seeds"\]; input should be a mapping'),
        ("small: {name: x}\n", False, r"small\.name: unknown; .*valid: compare, cross, data"),
        ("small: {small: {}}\n", False, r"small\.small: unknown"),
        ("small: {recipe: {epoch: 3}}\n", True, r"recipe\.epoch"),
        ("small: {data: {head: 3}}\n", True, r"data\.head: unknown; write data\.largest instead"),
    ],
)
def test_a_mistake_names_the_field(tiny_text: str, tmp_path: Path, text: str, small: bool, found: str) -> None:
    with pytest.raises(Problems, match=found):
        reader.parse(tiny_text + text, tmp_path, small)


@pytest.mark.parametrize("small", [False, True])
def test_the_spelling_of_older_versions_is_refused_with_the_new_one(
    tiny_text: str, tmp_path: Path, small: bool
) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(f"{tiny_text}scales:\n  small: {{seeds: [7]}}\n  smoke: {{seeds: [8]}}\n")
    with pytest.raises(InputError) as error:
        reader.read(file, small)
    assert str(error.value) == f"{file}: scales: unknown; write small: {{…}} instead"
    file.write_text(tiny_text.replace("imbalance: 20", "imbalance: 20, head: 60", 1))
    with pytest.raises(InputError) as error:
        reader.read(file)
    assert str(error.value) == f"{file}: data.head: unknown; write data.largest instead"


def test_the_command_line_takes_the_small_form(tiny_text: str, tmp_path: Path, cli: Any) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_text + SMALL)
    code, out, err = cli("plan", "tiny.yaml", "--small", "--json", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert (json.loads(out)["name"], json.loads(out)["scale"]) == ("tiny-small", "small")
    (tmp_path / "tiny.yaml").write_text(tiny_text)
    code, out, err = cli("plan", "tiny.yaml", "--small", cwd=tmp_path)
    assert (code, err.startswith("error: tiny.yaml: small: missing; valid: ")) == (2, True)
    code, _, err = cli("plan", "tiny.yaml", "--scale", "small", cwd=tmp_path)
    assert (code, "No such option: --scale" in err) == (2, True)
