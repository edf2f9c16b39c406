"""What a cell's fingerprint and a search's signature depend on: all that decides a result, and nothing else."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tune_lt.config import ImageHashes
from tune_lt.losses import LOSSES
from tune_lt.run.planner import Plan
from tune_lt.study import FULL, Study, reader
from tune_lt.study import study as study_module
from tune_lt.training import identity
from tune_lt.training.identity import fingerprint

HERE = Path(__file__).parent
SPACES = HERE.parents[1] / "search_spaces"
RECORDED = HERE / "fingerprints.json"
OWN = "ghm_cwap"
IMAGES, OTHERS = (ImageHashes(text, text) for text in ("images", "other images"))  # this file is a script, too


def _print(
    text: str,
    folder: Path,
    *,
    seed: int = 0,
    fold: str = FULL,
    images: ImageHashes = IMAGES,
) -> str:
    study = reader.parse(text, folder)
    config = reader.row_config(study, "margin+weight_aura", {})
    return fingerprint(reader.cell(config, data_seed=seed, init_seed=seed, fold=fold), images, study.sources)


def _signature(text: str, folder: Path, *, images: ImageHashes = IMAGES) -> str:
    study = reader.parse(text, folder)
    return study.search_signature(study.searches[OWN], images)


LONG_TAIL = [  # which images a network is trained on, and how many
    ("imbalance: 20", "imbalance: 10"),
    ("imbalance: 20", "imbalance: 20, profile: step"),
    ("imbalance: 20", "imbalance: 20, largest: 60"),
]
TRAINING = [
    ("epochs: 4", "epochs: 5"),
    ("width: 4", "width: 8"),
    ("clip_norm: 2.0", "clip_norm: 2.0, posthoc_tau: 1.0"),
    ("clip_norm: 2.0", "clip_norm: 2.0, optimizer: {lr: 0.2}"),
]
SEARCH = [
    ("uniform: [0.0, 1.5]", "uniform: [0.0, 1.0]"),
    ("gamma: {uniform: [0.0, 1.5]}", "gamma: {uniform: [0.0, 1.5], when: {loss.aura: true}}"),
    ("sampler: tpe", "sampler: random"),
    ("seed: 0", "seed: 1"),
    ("trials: 5", "trials: 5, metric: val/top1"),
    ("trials: 5", "trials: 5, constraints: {val/many: 0.01}"),
    ("holdout: 0.3", "holdout: 0.4"),
    ("holdout: 0.3", "folds: 3"),
    ("holdout: 0.3", "holdout: 0.3, seeds: [1]"),
]


@pytest.mark.parametrize(("old", "new"), [*LONG_TAIL, *TRAINING, ("gamma: {uniform: [0.0, 1.5]}", "gamma: 0.7")])
def test_what_determines_a_result_changes_the_fingerprint(tmp_path: Path, tiny_text: str, old: str, new: str) -> None:
    assert old in tiny_text
    assert _print(tiny_text.replace(old, new, 1), tmp_path) != _print(tiny_text, tmp_path)


@pytest.mark.parametrize(("old", "new"), [*LONG_TAIL, *TRAINING, *SEARCH])
def test_what_determines_a_trial_changes_the_signature(tmp_path: Path, tiny_text: str, old: str, new: str) -> None:
    assert old in tiny_text
    assert _signature(tiny_text.replace(old, new, 1), tmp_path) != _signature(tiny_text, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: tiny", "name: another"),
        ("concurrent: 2", "concurrent: 1"),
        ("seeds: [0, 1]", "seeds: [0, 1]  # a comment"),
        ("epochs: 4", "epochs: 4, optimizer: {lr: 0.1}"),
        ("trials: 5", "trials: 50"),
        ("imbalance: 20", "imbalance: 20, profile: exponential, largest: null"),
        ("softmax: {loss: {name: softmax}}", "other: {loss: {name: softmax}}"),
    ],
)
def test_what_does_not_leaves_both(tmp_path: Path, tiny_text: str, old: str, new: str) -> None:
    assert old in tiny_text
    changed = tiny_text.replace(old, new, 1)
    assert _print(changed, tmp_path) == _print(tiny_text, tmp_path)
    assert _signature(changed, tmp_path) == _signature(tiny_text, tmp_path)


def test_how_many_test_images_are_scored_counts_only_where_any_are(tmp_path: Path, tiny_text: str) -> None:
    """``sealed`` caps the test images of each class: a full cell scores them, a fold and a search never do."""
    fewer = tiny_text.replace("imbalance: 20", "imbalance: 20, sealed: 5", 1)
    assert _print(fewer, tmp_path) != _print(tiny_text, tmp_path)
    for fold in ("holdout", "1/3"):
        assert _print(fewer, tmp_path, fold=fold) == _print(tiny_text, tmp_path, fold=fold)
    assert _signature(fewer, tmp_path) == _signature(tiny_text, tmp_path)


def test_seeds_folds_and_images_change_the_fingerprint(tmp_path: Path, tiny_text: str) -> None:
    prints = {
        _print(tiny_text, tmp_path),
        _print(tiny_text, tmp_path, seed=1),
        _print(tiny_text, tmp_path, fold="1/3"),
        _print(tiny_text, tmp_path, fold="1/2"),
        _print(tiny_text, tmp_path, images=OTHERS),
    }
    assert len(prints) == 5


def test_the_sealed_test_counts_only_where_it_is_scored(tmp_path: Path, tiny_text: str) -> None:
    more = ImageHashes(IMAGES.training, "with one more test image")
    assert _print(tiny_text, tmp_path, images=more) != _print(tiny_text, tmp_path)
    for fold in ("holdout", "1/3"):
        assert _print(tiny_text, tmp_path, images=more, fold=fold) == _print(tiny_text, tmp_path, fold=fold)
    assert _signature(tiny_text, tmp_path, images=more) == _signature(tiny_text, tmp_path)


def test_images_change_the_signature_and_plugins_that_of_a_search_that_uses_them(
    tmp_path: Path, tiny_text: str, plugin: Callable[[str, str], None]
) -> None:
    assert _signature(tiny_text, tmp_path) != _signature(tiny_text, tmp_path, images=OTHERS)
    data, model = tiny_text.splitlines()[1:3]
    signatures = set()
    for scale in ("1.0", "2.0"):
        plugin("signed", scale)
        assert _signature(f"plugins: [signed]\n{tiny_text}", tmp_path) == _signature(tiny_text, tmp_path)
        loss = "loss: {name: plain_signed, scale: {uniform: [0.5, 1]}}\nsearch: {trials: 2}"
        study = reader.parse(f"name: x\nplugins: [signed]\n{data}\n{model}\n{loss}\n", tmp_path)
        signatures.add(study.search_signature(study.searches["plain_signed"], IMAGES))
    assert len(signatures) == 2


def test_another_version_of_the_results_changes_both(
    tmp_path: Path, tiny_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _print(tiny_text, tmp_path), _signature(tiny_text, tmp_path)
    later = identity.RESULT_VERSION + 1
    for module in (identity, study_module):
        monkeypatch.setattr(module, "RESULT_VERSION", later)
    after = _print(tiny_text, tmp_path), _signature(tiny_text, tmp_path)
    assert not set(before) & set(after)


def test_where_the_images_lie_does_not_change_the_fingerprint(tiny: Study) -> None:
    config = reader.row_config(tiny, "softmax", {})
    cells = [
        reader.cell({**config, "data": {**config["data"], "root": root}}, data_seed=0, init_seed=0)
        for root in ("/here", "/there")
    ]
    assert fingerprint(cells[0], IMAGES, {}) == fingerprint(cells[1], IMAGES, {})


PLUGIN = """\
import torch.nn.functional as F
from tune_lt import losses
from helper_of_{n} import SCALE

@losses.register("plain_{n}")
class Plain(losses.Loss):
    def __init__(self, class_counts, *, scale: float = SCALE):
        super().__init__(class_counts)
        self.scale = scale

    def terms(self, logits, targets):
        return self.scale * F.cross_entropy(logits, targets, reduction="none"), None
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write the plugin of a name, whose default for ``scale`` a module beside it holds; it is gone after the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(name: str, scale: str) -> None:
        monkeypatch.setitem(LOSSES, f"plain_{name}", None)  # so that it is taken away again
        del LOSSES[f"plain_{name}"]
        for module in (name, f"helper_of_{name}"):
            monkeypatch.setitem(sys.modules, module, None)
            del sys.modules[module]
        (tmp_path / f"{name}.py").write_text(PLUGIN.format(n=name))
        (tmp_path / f"helper_of_{name}.py").write_text(f"SCALE = {scale}\n")

    return write


def test_a_plugins_loss_is_usable_and_hashed_with_its_helpers(
    tmp_path: Path, tiny_text: str, plugin: Callable[[str, str], None]
) -> None:
    plugin("mine", "1.0")
    text = f"plugins: [mine]\n{tiny_text}".replace("softmax: {loss: {name: softmax}}", "x: {loss: {name: plain_mine}}")
    study = reader.parse(text, tmp_path)
    assert reader.row_config(study, "x", {})["loss"] == {"name": "plain_mine", "scale": 1.0, "drw": None}
    before = dict(study.sources)
    assert set(before) == {"mine", "helper_of_mine"}
    (tmp_path / "mine.py").write_text(PLUGIN.format(n="mine") + "# a change\n")
    after = dict(reader.parse(text, tmp_path).sources)
    assert after["mine"] != before["mine"]
    assert after["helper_of_mine"] == before["helper_of_mine"]
    (tmp_path / "helper_of_mine.py").write_text("SCALE = 1.0  # a change\n")
    assert dict(reader.parse(text, tmp_path).sources)["helper_of_mine"] != before["helper_of_mine"]


def bundled() -> dict[str, dict[str, object]]:
    """Of every bundled study and its small form: its searches' signatures, and a hash of its cells' fingerprints.

    The images stand for themselves by a fixed text, so that no data set is needed.
    """
    found: dict[str, dict[str, object]] = {}
    for file in sorted(SPACES.glob("*.yaml")):
        for small in (False, True) if "\nsmall:" in file.read_text() else (False,):
            study = reader.read(file, small)
            prints = [cell.fingerprint for cell in Plan(study, IMAGES).cells({})]
            found[study.name] = {
                "searches": {name: study.search_signature(one, IMAGES) for name, one in study.searches.items()},
                "cells": f"{len(prints)} {hashlib.sha256(' '.join(prints).encode()).hexdigest()[:24]}",
            }
    return found


def test_the_bundled_studies_find_what_earlier_versions_trained() -> None:
    """A change here means that people's stores are trained anew: raise RESULT_VERSION, say so in the changelog, and
    write the table again with ``python tests/study/test_fingerprints.py``."""
    assert bundled() == json.loads(RECORDED.read_text())


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(bundled(), indent=1) + "\n")
