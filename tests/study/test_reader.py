"""A study file is read strictly: each mistake is one line with the field, what was found and what is valid."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from torch import Tensor

from tune_lt import registry
from tune_lt.config import Augment, Recipe, cell_of
from tune_lt.errors import InputError
from tune_lt.losses import LOSSES
from tune_lt.study import Dimension, Study, flattened, nested, overlay, reader
from tune_lt.study.schema import schema

OWN = "ghm_cwap"

SPACES = Path(__file__).parents[2] / "search_spaces"

MISTAKES = [  # (text of the tiny study, what replaces it, field in the message, part of the rest)
    ("alpha: {", "alhpa: {", "loss.alhpa", "did you mean 'alpha'"),
    ("name: ghm_cwap", "name: ghm_cwep", "loss.name", "did you mean 'ghm_cwap'"),
    ("name: ghm_cwap", "names: ghm_cwap", "loss.name", "missing"),
    ("uniform: [0.3, 1.0]", "uniform: [0.3, 7.0]", "loss.alpha", "found 7.0"),
    ("uniform: [0.3, 1.0]", "uniform: [-0.3, 1.0]", "loss.alpha", "found -0.3"),
    ("uniform: [0.3, 1.0]", "uniform: [1.0, 0.3]", "loss.alpha", "low < high"),
    ("uniform: [0.3, 1.0]", "uniform: 3", "loss.alpha.uniform", "found 3; valid: [low, high]"),
    ("uniform: [0.3, 1.0]", "loguniform: [0, 1.0]", "loss.alpha.loguniform", "found 0; input should be greater than 0"),
    ("uniform: [0.3, 1.0]", "unifrom: [0.3, 1.0]", "loss.alpha", "uniform, loguniform, int, choice"),
    ("choice: [10, 20]", "choice: [10, 20.5]", "loss.regions", "found 20.5"),
    ("choice: [10, 20]", "int: [10, 20.5]", "loss.regions.int", "found 20.5; input should be a valid integer"),
    ("choice: [10, 20]", "choice: []", "loss.regions.choice", "found []; tuple should have at least 1 item"),
    ("choice: [true, false]", "choice: [true, true]", "loss.aura", "different"),
    ("choice: [true, false]", "choice: [1, 0]", "loss.aura", "found 1"),
    ("epochs: 4", "epochs: {choice: [1, 2]}", "recipe.epochs", "cannot be searched"),
    ("name: resnet8, width: 4", "name: resnet8, width: {choice: [4, 8]}", "model.width", "cannot be searched"),
    ("epochs: 4", "epochs: 0", "recipe.epochs", "found 0"),
    ("epochs: 4", "epochs: 4.5", "recipe.epochs", "found 4.5"),
    ("epochs: 4", "epohcs: 4", "recipe.epohcs", "did you mean 'epochs'"),
    ("epochs: 4", "epochs: 4, optimizer: {lr: -1}", "recipe.optimizer.lr", "found -1"),
    ("epochs: 4", "epochs: 4, optimizer: {lr: .nan}", "recipe.optimizer.lr", "finite"),
    ("epochs: 4", "epochs: 4, optimizer: {lr: 2026-01-01}", "recipe.optimizer.lr", "date"),
    ("epochs: 4", "epochs: 4, optimizer: {momentun: 0.9}", "recipe.optimizer.momentun", "did you mean 'momentum'"),
    ("epochs: 4", "epochs: 4, schedule: {milestones: [0.5]}", "recipe.schedule", "one factor for each"),
    ("clip_norm: 2.0", "clip_norm: hello", "recipe.clip_norm", '"hello"'),
    ("sampler: tpe", "sampler: tbe", "search.sampler", "'tpe', 'random'"),
    ("trials: 5", "trials: 0", "search.trials", "found 0"),
    ("name: resnet8", "name: resnet9", "model.name", "did you mean 'resnet8'"),
    ("width: 4", "width: 2", "model.width", "found 2"),
    ("{name: resnet8, width: 4}", "resnet8", "model.name", "resnet32, resnet8"),
    ("name: resnet8, width: 4", "name: resnet50", "model.name", "write {name: torchvision, architecture: resnet50}"),
    ("holdout: 0.3", "holdout: 1.5", "data.validation.holdout", "found 1.5"),
    ("imbalance: 20", "imbalance: 0.5", "data.imbalance", "found 0.5"),
    ("imbalance: 20", "imbalance: .inf", "data.imbalance", "finite number"),
    ("imbalance: 20", "imbalance: 20, largest: 0", "data.largest", "found 0"),
    ("name: digits", "name: digitz", "data.name", "did you mean 'digits'"),
    ("imbalance: 20", "imbalence: 20", "data.imbalence", "did you mean 'imbalance'"),
    ("softmax: {loss: {name: softmax}}", "focal: {loss: {name: focal, alpha: 3}}", "rows.focal.loss.alpha", "gamma"),
    ("softmax: {loss: {name: softmax}}", "focal: {los: {name: focal}}", "rows.focal.los", "did you mean 'loss'"),
    (
        "softmax: {loss: {name: softmax}}",
        "focal: {loss: {best: ldam}}",
        "rows.focal.loss.best",
        "valid: true, one_standard_error",
    ),
    ("softmax: {loss: {name: softmax}}", "x: {loss: {name: focal, best: true}}", "rows.x.loss", "one of the two"),
    ("drw: {start: 0.5}", "drw: {start: 1.5}", "rows.ldam+drw.loss.drw.start", "found 1.5"),
    ("drw: {start: 0.5}", "drw: {stort: 0.5}", "rows.ldam+drw.loss.drw.stort", "did you mean 'start'"),
    ("seeds: [0, 1]", "seeds: [0, 0]", "seeds", "none twice"),
    ("seeds: [0, 1]", "seeds: []", "seeds", "at least one"),
    ("seeds: [0, 1]", "seeds: {resample: [0, 0]}", "seeds.resample", "none twice"),
    ("seeds: [0, 1]", "seeds: {resample: [0], init: [1]}", "seeds", "resample alone, or data and init"),
    ("seeds: [0, 1]", "seeds: {resample: [0, 1]}", "seeds.resample", "found with imbalance 20"),
    ("cpus: 1", "cpus: 0", "resources.cpus", "found 0"),
    ("cpus: 1", "cpus: 1e-9", "resources.cpus", "found 1e-09; input should be greater than or equal to 0.001"),
    ("cpus: 1", "cpus: 1e9", "resources.cpus", "found 1000000000.0; input should be less than or equal to 10000"),
    ("cpus: 1", "gpus: 1.5", "resources.gpus", "found 1.5; valid: a whole number, or a part of one"),
    ("cpus: 1", "gpus: 0.5, workers: 2", "resources.gpus", "found 0.5; valid: a whole number"),
    ("regions: {choice: [10, 20]}", "regions: 1_000_000_000", "loss.regions", "less than or equal to 10000"),
    ("epochs: 4", "epochs: 4, optimizer: {lr: 1e39}", "recipe.optimizer.lr", "found '1e39'; valid: a finite number"),
    ("epochs: 4", 'epochs: 4, optimizer: {lr: "0.1"}', "recipe.optimizer.lr", 'found "0.1"; input should be a valid n'),
    ("name: tiny", "name: a/b", "name", "letters, digits"),
    ("name: tiny", "name: 3", "name", "found 3"),
    ("name: tiny", "nane: tiny", "nane", "did you mean 'name'"),
    ("name: tiny", "name: tiny\nplugins: [no_such_module]", "plugins", "no_such_module"),
    ("seeds: [0, 1]", "name: again", "line 16", "written twice"),
    ("seeds: [0, 1]", "~: again", "line 16", "the key '~'; valid: a string"),
    ("seeds: [0, 1]", "seeds: [0, 1", "line 17", "not YAML"),
    ("search: {sampler: tpe, trials: 5, seed: 0}\n", "", "search", "missing, but loss.alpha"),
]


@pytest.mark.parametrize(("old", "new", "field", "rest"), MISTAKES)
def test_a_mistake_names_file_field_and_valid_values(
    tmp_path: Path, tiny_text: str, old: str, new: str, field: str, rest: str
) -> None:
    assert old in tiny_text
    file = tmp_path / "study.yaml"
    file.write_text(tiny_text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        reader.read(file)
    line = str(caught.value).splitlines()[0]
    assert line.startswith(f"{file}: {field}")
    assert rest in line


def test_resampled_seeds_are_pairs_of_equal_seeds(tmp_path: Path, tiny_text: str) -> None:
    whole = tiny_text.replace("imbalance: 20, ", "").replace("seeds: [0, 1]", "seeds: {resample: [0, 1]}")
    drawn = reader.parse(whole, tmp_path)
    assert (drawn.seeds, drawn.resample) == (((0, 0), (1, 1)), True)
    with pytest.raises(reader.Problems, match=r"seeds.resample: found with imbalance None and largest 20"):
        reader.parse(whole.replace("name: digits", "name: digits, largest: 20"), tmp_path)


def test_every_mistake_of_a_section_is_told_at_once(tmp_path: Path, tiny_text: str) -> None:
    mistakes = "name: ghm_cwap\n  normalization: x\n  drw: {start: 2, stop: 3}\n  tau: -1\n  alhpa: 1"
    text = tiny_text.replace("name: ghm_cwap", mistakes, 1)
    with pytest.raises(reader.Problems) as problems:
        reader.parse(text, tmp_path)
    fields = [problem.partition(":")[0] for problem in problems.value.args]
    assert sorted(fields) == ["loss.alhpa", "loss.drw.start", "loss.drw.stop", "loss.normalization", "loss.tau"]


def test_a_plugins_parameters_may_be_called_and_annotated_as_it_likes(
    tmp_path: Path, tiny_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(counts: Any, *, copy: int, model_x: list[float] = [1.0], weight: Tensor | None = None, **_: Any) -> None:  # noqa: B006
        raise AssertionError("reading a file builds nothing")

    monkeypatch.setitem(LOSSES, "odd one", odd)
    text = tiny_text.replace("softmax: {loss: {name: softmax}}", "x: {loss: {name: odd one, copy: 3}}")
    config = reader.row_config(reader.parse(text, tmp_path), "x", {})
    assert config["loss"] == {"name": "odd one", "copy": 3, "model_x": [1.0], "weight": None, "drw": None}
    for wrong, message in (("", "loss.copy: missing"), (", copy: x", 'loss.copy: found "x"')):
        with pytest.raises(reader.Problems, match=message):
            reader.parse(text.replace(", copy: 3", wrong), tmp_path)


def test_a_search_without_a_range_is_a_mistake(tmp_path: Path) -> None:
    text = "name: x\ndata: {name: digits}\nmodel: {name: resnet8}\nloss: {name: softmax}\nsearch: {trials: 3}\n"
    with pytest.raises(reader.Problems, match="searches nothing"):
        reader.parse(text, tmp_path)


def test_best_without_a_search_is_a_mistake(tmp_path: Path) -> None:
    text = (
        "name: x\ndata: {name: digits}\nmodel: {name: resnet8}\nloss: {name: focal}\nrows: {a: {loss: {best: true}}}\n"
    )
    with pytest.raises(
        reader.Problems, match=r"rows\.a\.loss\.best: found True; valid: nothing, since there is no search"
    ):
        reader.parse(text, tmp_path)


@pytest.mark.parametrize(
    "text", ["", "- a list", "just text", "!!python/object/apply:os.system ['true']", "a: &a [*a]"]
)
def test_what_is_no_study_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"study\.yaml: "):
        reader.read(file)


def test_a_pipe_is_refused_before_anything_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "study.yaml")
    with pytest.raises(InputError, match=r"study\.yaml: found a pipe"):
        reader.read(tmp_path / "study.yaml")
    reading, writing = os.pipe()  # as the shell has it for <(command)
    os.write(writing, b"- a list")
    os.close(writing)
    with pytest.raises(InputError, match="found a list; valid: a mapping"):
        reader.read(Path(f"/dev/fd/{reading}"))
    os.close(reading)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        reader.read(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="cannot be read"):
        reader.read(tmp_path / "binary.yaml")


def test_defaults_are_those_of_the_signatures(tiny: Study) -> None:
    for name, (_, default) in registry.parameters(LOSSES["ghm_cwap"]).items():
        if f"loss/{name}" not in tiny.searches[OWN].space:
            assert tiny.loss[name] == default
    assert tiny.recipe == dataclasses.replace(
        Recipe(),
        epochs=4,
        batch_size=64,
        clip_norm=2.0,
        augment=dataclasses.replace(Recipe().augment, crop=1, flip=False),
    )


def test_ranges_become_dimensions(tiny: Study) -> None:
    assert tiny.searches[OWN].space == {
        "loss/alpha": Dimension("uniform", (0.3, 1.0)),
        "loss/gamma": Dimension("uniform", (0.0, 1.5)),
        "loss/regions": Dimension("choice", (10, 20)),
        "loss/aura": Dimension("choice", (True, False)),
    }


def test_a_row_takes_what_was_found_and_its_own_values(tiny: Study) -> None:
    found = {"loss/alpha": 0.5, "loss/gamma": 1.0, "loss/regions": 20, "loss/aura": False}
    row = reader.row_config(tiny, "margin+weight_aura", {OWN: found})
    assert (row["loss"]["alpha"], row["loss"]["regions"], row["loss"]["aura"]) == (0.5, 20, True)
    other = reader.row_config(tiny, "ldam+drw", {OWN: found})
    assert other["loss"] == {"name": "ldam", "max_m": 0.5, "s": 30.0, "drw": {"start": 0.5, "beta": 0.9999}}
    assert other["model"] == {"name": "resnet8", "width": 4, "head": "cosine"}


def test_a_row_with_another_model_does_not_inherit_parameters(tmp_path: Path, tiny_text: str) -> None:
    text = tiny_text.replace("model: {head: cosine}", "model: {name: resnet32}")
    study = reader.parse(text, tmp_path)
    assert reader.row_config(study, "ldam+drw", {})["model"] == {"name": "resnet32", "width": 16, "head": "linear"}


def test_a_study_is_immutable(tiny: Study) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny.name = "other"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny.recipe.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("scale", [None, (0.2, 1.0)])
def test_a_cell_survives_being_a_dictionary(tiny: Study, scale: tuple[float, float] | None) -> None:
    config = reader.row_config(tiny, "ldam+drw", {})
    config["recipe"] = dataclasses.replace(config["recipe"], augment=Augment(scale=scale), posthoc_tau=0.5)
    cell = reader.cell(config, data_seed=1, init_seed=2, holdout=0.3)
    through_json = json.loads(json.dumps(dataclasses.asdict(cell)))
    assert cell_of(dataclasses.asdict(cell)) == cell
    assert cell_of(through_json) == cell


def test_a_cell_listed_by_an_older_version_is_the_same_cell(tiny_text: str, tmp_path: Path) -> None:
    """Which wrote ``head`` for ``largest``, in its list of cells and in their results."""
    study = reader.parse(tiny_text.replace("imbalance: 20", "imbalance: 20, largest: 60", 1), tmp_path)
    cell = reader.cell(reader.row_config(study, "ldam+drw", {}), data_seed=1, init_seed=2)
    listed = json.loads(json.dumps(dataclasses.asdict(cell)).replace('"largest"', '"head"'))
    assert (listed["data"]["head"], listed["model"]["head"]) == (60, "cosine")
    assert cell_of(listed) == cell
    listed["data"]["largest"] = 60  # ``head`` is now a plugin's own
    assert cell_of(listed).data["head"] == 60


def test_every_bundled_study_is_valid_and_matches_the_schema() -> None:
    files, validator = sorted(SPACES.glob("*.yaml")), jsonschema.Draft202012Validator(schema())
    assert files
    for file in files:
        reader.read(file)
        validator.validate(yaml.safe_load(file.read_text()))


@pytest.mark.long
def test_the_schema_for_editors_is_current() -> None:
    command = [sys.executable, "-m", "tune_lt.study.schema"]  # in a process where no test has registered a plugin
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads((SPACES / "schema.json").read_text()) == json.loads(printed), "run `make schema`"


@pytest.mark.parametrize(
    ("section", "key"), [("loss", "alhpa"), ("recipe", "epohcs"), ("search", "trails"), ("model", "w")]
)
def test_the_schema_refuses_a_typo(tiny_text: str, section: str, key: str) -> None:
    study = yaml.safe_load(tiny_text)
    jsonschema.validate(study, schema())
    study[section][key] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(study, schema())


def test_the_schema_takes_what_the_reader_does_and_nothing_else(tiny_text: str, tmp_path: Path) -> None:
    wide = {"uniform": [0.2, 0.8]}
    for change, valid in (
        ({"loss": {"drw": {"start": wide}}}, True),
        ({"recipe": {"optimizer": {"weight_decay": wide}, "clip_norm": wide}}, True),
        ({"loss": {"drw": wide}}, False),
        ({"recipe": {"posthoc_tau": wide}}, False),
        ({"model": {"width": wide}}, False),
        ({"compare": {"losses": ["focal"], "trials": 5}}, False),
        ({"compare": {"losses": [{"name": "focal"}]}}, False),
        ({"compare": {"losses": []}}, False),
        ({"compare": {}}, False),
        ({"compare": None, "ablation": None, "table": None}, True),
        ({"rows": None}, False),
        ({"cross": {"imbalance": []}}, False),
        ({"cross": {"imbalance": [5]}}, True),
    ):
        study = overlay(yaml.safe_load(tiny_text), change)
        assert jsonschema.Draft202012Validator(schema()).is_valid(study) is valid, change
        with contextlib.nullcontext() if valid else pytest.raises(reader.Problems):
            reader.parse(json.dumps(study), tmp_path)


def test_overlay_nested_and_flattened() -> None:
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    assert overlay(tree, {"a": {"b": 5}}) == {"a": {"b": 5, "c": 2}, "d": 3}
    assert tree["a"] == {"b": 1, "c": 2}
    assert nested(flattened(tree)) == tree


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: tiny", 'name: tiny\n"[key]": 1', "[key]: unknown"),
        ("name: tiny", "name: tiny\nint: 3", "int: unknown"),
        ("width: 4}", "width: 4, int: 3}", "model.int: unknown"),
        ("trials: 5,", "trials: 5, mode: max,", "search.mode: unknown; leave it out"),
        ("search:", "compare: {losses: [ldam], trials: 5}\nsearch:", "compare.trials: unknown; write search.trials"),
        ("uniform: [0.3, 1.0]", "uniform: [0.3]", "loss.alpha.uniform: found [0.3]; valid: [low, high]"),
    ],
)
def test_one_wrong_field_is_one_mistake_that_names_it(
    tmp_path: Path, tiny_text: str, old: str, new: str, told: str
) -> None:
    assert old in tiny_text
    with pytest.raises(InputError) as mistakes:
        reader.parse(tiny_text.replace(old, new, 1), tmp_path)
    (mistake,) = mistakes.value.args
    assert mistake.startswith(told)
