"""Smaller forms of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tune_lt.run.planner import planned_cells
from tune_lt.study import command_line, reader, scaled_name, smaller, unscaled_name
from tune_lt.study.checks import Problems

SCALES = """\
scales:
  small: {data: {head: 30}, recipe: {epochs: 2}, seeds: [7], rows: {more: {loss: {name: focal}}}}
  other: {seeds: [1]}
"""


def test_a_scale_is_laid_over_the_file(tiny_text: str, tmp_path: Path) -> None:
    full, small = (reader.parse(tiny_text + SCALES, tmp_path, scale) for scale in ("full", "small"))
    assert (full.name, full.scale, small.name, small.scale) == ("tiny", "full", "tiny-small", "small")
    assert full == reader.parse(tiny_text + SCALES, tmp_path)
    assert (small.data["head"], small.data["imbalance"]) == (30, 20)
    assert (small.recipe.epochs, small.recipe.batch_size) == (2, full.recipe.batch_size)
    assert small.seeds == ((7, 7),)
    assert list(small.rows) == [*full.rows, "more"]
    assert small.text == full.text == tiny_text + SCALES  # the whole file is what is recorded


def test_another_loss_or_network_comes_without_the_old_ones_parameters(tmp_path: Path) -> None:
    text = """\
name: one
data: {name: digits}
model: {name: resnet8, width: 4}
loss: {name: ghm_cwap, alpha: 0.4}
rows: {own: {}}
scales: {other: {model: {name: resnet32}, loss: {name: focal, gamma: 2.0}}, same: {model: {head: cosine}}}
"""
    other = reader.parse(text, tmp_path, "other")
    assert other.loss == {"name": "focal", "gamma": 2.0, "drw": None}
    assert other.model == {"name": "resnet32", "width": 16, "head": "linear"}
    assert reader.parse(text, tmp_path, "same").model == {"name": "resnet8", "width": 4, "head": "cosine"}


def test_ranges_and_validations_are_replaced_and_sections_taken_away(tiny_text: str, tmp_path: Path) -> None:
    text = (
        tiny_text
        + """\
scales:
  choice: {loss: {alpha: {choice: [0.5, 0.9]}}, data: {validation: {folds: 2}}}
  fixed:
    loss: {alpha: 0.9, gamma: 0.4, regions: 10, aura: true}
    search: null
    rows: {margin+weight_aura: {loss: {best: false}}}
"""
    )
    choice = reader.parse(text, tmp_path, "choice")
    assert choice.searches["ghm_cwap"].space["loss/alpha"].values == (0.5, 0.9)
    assert (choice.validation.folds, choice.validation.holdout) == (2, None)
    fixed = reader.parse(text, tmp_path, "fixed")
    assert (fixed.searches, fixed.loss["alpha"]) == ({}, 0.9)


def test_a_cell_of_a_scale_is_another_one_unless_nothing_in_it_changed(tiny_text: str, tmp_path: Path) -> None:
    text = tiny_text + "scales: {same: {resources: {concurrent: 1}}, small: {recipe: {epochs: 2}}}\n"
    names = {
        scale: {cell.fingerprint for cell in planned_cells(reader.parse(text, tmp_path, scale), {}, "images")}
        for scale in ("full", "same", "small")
    }
    assert names["full"] == names["same"]
    assert not names["full"] & names["small"]


def test_a_command_can_be_typed_as_it_is_shown() -> None:
    assert command_line("run", "digits", "full") == "tune-lt run digits"
    assert command_line("plan", "my study.yaml", "a; b") == "tune-lt plan 'my study.yaml' --scale 'a; b'"


@pytest.mark.parametrize("scale", ["full", "small"])
def test_a_name_at_a_scale_leads_back_to_the_files_name(scale: str) -> None:
    assert unscaled_name(scaled_name("tiny", scale), scale) == "tiny"
    assert (scaled_name("tiny", scale) == "tiny") == (smaller(scale) == "") == (scale == "full")


@pytest.mark.parametrize(
    ("text", "scale", "found"),
    [
        ("", "small", "the study has no scale 'small'; valid: full"),
        (SCALES, "tiny", "the study has no scale 'tiny'; valid: full, small, other"),
        ("scales: [small]\n", "full", "scales: found list"),
        ("scales: {full: {}}\n", "full", "scales.full: is the study without changes"),
        ("scales: {small: {name: x}}\n", "full", "scales.small"),
        ("scales: {small: 3}\n", "full", "scales.small"),
        ("scales: {small: {recipe: {epoch: 3}}}\n", "small", "recipe.epoch"),
    ],
)
def test_a_mistake_in_scales_names_the_field(tiny_text: str, tmp_path: Path, text: str, scale: str, found: str) -> None:
    with pytest.raises(Problems, match=found):
        reader.parse(tiny_text + text, tmp_path, scale)


def test_the_command_line_takes_a_scale(tiny_text: str, tmp_path: Path, cli: Any) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_text + SCALES)
    code, out, err = cli("plan", "tiny.yaml", "--scale", "small", "--json", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert (json.loads(out)["name"], json.loads(out)["scale"]) == ("tiny-small", "small")
    code, out, err = cli("plan", "tiny.yaml", "--scale", "none", cwd=tmp_path)
    assert (code, err) == (2, "error: tiny.yaml: scales: the study has no scale 'none'; valid: full, small, other\n")
