"""A run says why cells are new where its file is the same: other images, or other plugins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tune_lt import data
from tune_lt.documents import BASIS, Basis
from tune_lt.run.basis import basis_of, changes, recorded_basis
from tune_lt.run.rehearsal import load_data
from tune_lt.store import Store
from tune_lt.study import reader

Call = Callable[..., tuple[int, str, str]]
BEFORE = Basis(26, 6, "training", "whole", {"mine": "1", "helper": "1"})
NOT_THE_SAME = (
    "data: as many images as the recorded runs had (26 for training), but not the same; no cell of those is reused"
)


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        ({}, []),
        (
            {"training_images": 27, "training": "a", "whole": "b"},
            ["data: 27 training images, the recorded runs had 26; no cell of those is reused"],
        ),
        ({"training": "a", "whole": "b"}, [NOT_THE_SAME]),
        (
            {"test_images": 1007, "whole": "b"},
            [
                "data: 1,007 test images, the recorded runs had 6; the training images are the same, so only the "
                "tables' cells are not reused"
            ],
        ),
        (
            {"sources": {"mine": "2", "file:x": "1", "helper": "1"}},
            ["plugins: file:x, mine: not as in the recorded runs; no cell that used them is reused"],
        ),
    ],
)
def test_what_has_changed_is_said(now: dict[str, object], lines: list[str]) -> None:
    assert changes(BEFORE, replace(BEFORE, **now)) == lines  # type: ignore[arg-type]
    assert changes(None, BEFORE) == []


STUDY = """\
name: few
data: {name: image_folder, root: images, size: 8}
model: {name: resnet8, width: 4}
recipe: {epochs: 1, batch_size: 8, augment: {crop: 1, flip: false}}
loss: {name: softmax}
rows: {own: {}}
seeds: [0]
resources: {cpus: 1, gpus: 0}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two classes of 13 training and 3 test images."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 13), ("test", 3)):
        for name in "ab":
            for number in range(count):
                file = tmp_path / "images" / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    (tmp_path / "few.yaml").write_text(STUDY)
    return tmp_path / "few.yaml"


def test_plugins_belong_to_it_where_a_cell_uses_one(study: Path, tiny_text: str) -> None:
    from ran import PLUGIN

    (study.parent / "quartered.py").write_text(PLUGIN.replace("half_softmax", "quarter_softmax"))
    digits = data.build("digits")
    unused = reader.parse(f"plugins: [quartered]\n{tiny_text}", study.parent)
    assert basis_of(unused, digits) == Basis(1297, 500, digits.hashes.training, digits.hashes.whole, {})
    own = tiny_text.replace("  softmax: {loss: {name: softmax}}", "  own: {loss: {name: quarter_softmax}}")
    assert set(basis_of(reader.parse(f"plugins: [quartered]\n{own}", study.parent), digits).sources) == {"quartered"}


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_one_more_image_is_said_by_plan_and_run(study: Path, on_ray: Call, cli: Call, empty_store: Path) -> None:
    folder = study.parent
    shutil.copy(empty_store, folder / "mlflow.db")
    store = Store(f"sqlite:///{folder / 'mlflow.db'}")
    parsed = reader.read(study)
    parent = store.ensure_parent("few")
    store.log_json(parent, BASIS, basis_of(parsed, load_data(parsed)).content())
    Image.new("RGB", (8, 8), "red").save(folder / "images/train/a/more.png")
    for command in (cli, on_ray, cli):
        code, out, err = command("run" if command is on_ray else "plan", str(study), cwd=folder)
        assert code == 0, err
        known = "1 cells, 1 done" in out  # after the run
        said = "data: 27 training images, the recorded runs had 26; no cell of those is reused" in out.splitlines()
        assert said != known
    basis = recorded_basis(store, "few")
    assert basis is not None
    assert (basis.training_images, basis.test_images, basis.sources) == (27, 6, {})
    store.log_json(parent, BASIS, ["damaged"])  # it is only compared, so this is no reason to stop
    assert recorded_basis(store, "few") is None
