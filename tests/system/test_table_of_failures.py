"""Whatever fails, wherever: the study ends, says what failed and why, keeps the rest, and trains nothing in vain again.

Every case runs a whole study by the command line, on one Ray. The failures are real: a loss that overflows, half a
JPEG, a plugin that raises, kills its process, or asks PyTorch for more memory than there is. What Ray's memory monitor
kills is in `test_failures`.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from tune_lt import training
from tune_lt.store import Store
from tune_lt.study import reader
from tune_lt.study.cells import base_cell, trial_cells

pytestmark = pytest.mark.smoke
Call = Callable[..., tuple[int, str, str]]

PLUGIN = """\
import os
import signal
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from tune_lt import losses, models

How = Literal["none", "exception", "killed", "memory"]

def trouble(how):
    if os.environ.get("NO_TROUBLE_IN") == str(os.getpid()) or Path(__file__).with_name("mended").exists():
        return  # in the driver, which only rehearses; or the machine is better now
    if how == "exception":
        raise ValueError("nobody thought of this")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        torch.empty(2**60, dtype=torch.uint8)

@losses.register("shaped")
class Shaped(losses.Loss):
    def __init__(self, class_counts, *, factor: float = 1.0, scale: float = 1.0, how: How = "none"):
        super().__init__(class_counts)
        self.factor, self.scale, self.how = factor, scale, how

    def terms(self, logits, targets):
        trouble(self.how)
        return self.factor * F.cross_entropy(self.scale * logits, targets, reduction="none"), None

class Plain(nn.Sequential):
    def forward(self, x):
        trouble(self.how)
        return super().forward(x)

@models.register("plain")
def plain(classes: int, channels: int, *, how: How = "none"):
    net = Plain(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 8), nn.ReLU(), nn.Linear(8, classes))
    net.how = how
    return net
"""
REASON = {
    "diverges": "TrainingFailed: the training loss became nan in epoch 1 of 2",
    "damaged image": r"DamagedImage: \S+\.jpg: damaged: image file is truncated",
    "exception": "ValueError: nobody thought of this",
    "killed": r"\w+: the worker process died",
    "memory": "out of memory: RuntimeError: .*you tried to allocate 1152921504606846976 bytes",
}
KNOWN = ("diverges", "damaged image", "exception")  # what fails again; what a machine did may pass


class Case(NamedTuple):
    """``way`` to fail, ``place`` of the failure, and the search beside it."""

    way: str
    place: str
    validation: str
    scheduler: str
    sampler: str

    @property
    def possible(self) -> bool:
        return self.place != "reference" or self.scheduler == "none"  # schedulers compare by one metric alone


AXES = (
    tuple(REASON),
    ("search trial", "row", "reference"),
    ("holdout", "folds"),
    ("asha", "racing", "none"),
    ("tpe", "random", "grid"),
)
CASES = (
    Case("diverges", "search trial", "folds", "asha", "random"),
    Case("diverges", "row", "folds", "racing", "grid"),
    Case("diverges", "row", "holdout", "none", "tpe"),
    Case("diverges", "reference", "holdout", "none", "tpe"),
    Case("damaged image", "search trial", "holdout", "racing", "grid"),
    Case("damaged image", "row", "holdout", "asha", "tpe"),
    Case("damaged image", "reference", "folds", "none", "random"),
    Case("exception", "search trial", "folds", "racing", "tpe"),
    Case("exception", "search trial", "holdout", "none", "random"),
    Case("exception", "row", "holdout", "asha", "random"),
    Case("exception", "reference", "holdout", "none", "grid"),
    Case("killed", "search trial", "holdout", "asha", "grid"),
    Case("killed", "row", "folds", "racing", "random"),
    Case("killed", "reference", "folds", "none", "tpe"),
    Case("memory", "search trial", "holdout", "racing", "tpe"),
    Case("memory", "row", "folds", "asha", "grid"),
    Case("memory", "reference", "holdout", "none", "random"),
)
ROW_SEED = 5  # of the rows; the trials of the search have the data seeds 0 and 1


def test_every_two_values_that_can_meet_meet_in_a_case() -> None:
    assert all(case.possible for case in CASES)
    pairs = set()
    for values in itertools.product(*AXES):
        if Case(*values).possible:
            pairs |= set(itertools.combinations(enumerate(values), 2))
    missing = pairs - {pair for case in CASES for pair in itertools.combinations(enumerate(case), 2)}
    assert len(pairs) == 100 - 2  # all but a reference with asha and with racing
    assert not missing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A store, the plugin, and 120 images of four classes."""
    folder = tmp_path_factory.mktemp("failures")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "trouble.py").write_text(PLUGIN)
    generator = np.random.default_rng(0)
    for label, name in itertools.product(range(4), range(30)):
        file = folder / "images" / f"class{label}" / f"{name:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40, 40, 3)) // 2 + 30 * label
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    return folder


def _study(case: Case, number: int) -> dict[str, Any]:
    """The study of a case. The weight decay makes its cells others than those of the other cases."""
    seeds = {"seeds": [0, 1]} if case.validation == "holdout" and case.scheduler == "racing" else {}
    validation: dict[str, Any] = {"holdout": 0.3} if case.validation == "holdout" else {"folds": 2}
    study: dict[str, Any] = {
        "name": f"case{number}",
        "plugins": ["trouble"],
        "data": {"name": "image_folder", "root": "images", "stream": True, "largest": 12},
        "model": {"name": "plain"},
        "recipe": {"epochs": 2, "batch_size": 16, "clip_norm": None, "optimizer": {"lr": 0.05}},
        "loss": {"name": "shaped", "scale": {"choice": [0.5, 1.0]}},
        "search": {"sampler": case.sampler, "scheduler": case.scheduler, "seed": 1},
        "rows": {"softmax": {"loss": {"name": "softmax"}}, "found": {"loss": {"best": True, "factor": 0.7}}},
        "seeds": [ROW_SEED],
        "resources": {"cpus": 1, "gpus": 0, "concurrent": 1, "loaders": 0},
    }
    study["data"]["validation"] = validation | seeds
    study["recipe"]["optimizer"]["weight_decay"] = 1e-4 * (number + 1)
    study["search"] |= {} if case.sampler == "grid" else {"trials": 4}
    lr = study["recipe"]["optimizer"]
    if case.place == "search trial":
        if case.way == "diverges":
            lr["lr"] = {"choice": [0.05, 1e30]}
        elif case.way != "damaged image":
            study["loss"]["how"] = {"choice": ["none", case.way]}
            study["loss"] |= {"scale": 1.0} if case.sampler == "grid" else {}  # the fewer fail, the faster
    elif case.place == "row":
        if case.way == "diverges":
            study["rows"]["fails"] = {"loss": {"name": "softmax"}, "recipe": {"optimizer": {"lr": 1e30}}}
        elif case.way != "damaged image":
            study["rows"]["fails"] = {"loss": {"name": "shaped", "how": case.way}}
    else:  # plain cross-entropy as the study would train it, which is not how the row is trained
        study["search"]["constraints"] = {"val/top1": 0.1}
        if case.way == "diverges":
            lr["lr"] = 1e30
            study["rows"]["softmax"]["recipe"] = {"optimizer": {"lr": 0.05}}
        elif case.way != "damaged image":
            study["model"]["how"] = case.way
            study["rows"]["softmax"]["model"] = {"name": "plain"}
    if case.way == "damaged image":
        study["data"]["root"] = f"images{number}"
    return study


def _damage(case: Case, file: Path, folder: Path) -> Path:
    """Cut an image of a copy in half that either the search or the rows see, and not the other; the image."""
    root = file.with_name(yaml.safe_load(file.read_text())["data"]["root"])
    shutil.copytree(folder / "images", root)
    study = reader.read(file)
    space = next(iter(study.searches.values()))
    dataset = training.load_dataset(base_cell(study))

    def seen(cells: list[Any]) -> set[int]:
        splits = [training.images_of(cell, dataset) for cell in cells]
        every = [index for split in splits for index in (split.train_index, split.val_index) if index is not None]
        return {int(position) for index in every for position in index}

    found = {path: dimension.values[0] for path, dimension in space.space.items()}
    searched = seen(trial_cells(study, space, found))
    rows = seen([base_cell(study, data_seed=ROW_SEED, init_seed=ROW_SEED)])
    only = rows - searched if case.place == "row" else searched - rows
    image = dataset.train_images.path(max(only))  # type: ignore[union-attr]
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    return image


def _told(out: str) -> str:
    """What the run says in the end of all that failed."""
    found = re.search(r"^failed:\n((?:  .*\n)*)", out, re.M)
    return found[1] if found else ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case).replace(" ", "_"))
def test_a_failure_ends_nothing_but_itself(
    case: Case, folder: Path, on_ray: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_TROUBLE_IN", str(os.getpid()))
    (folder / "mended").unlink(missing_ok=True)
    content = _study(case, CASES.index(case))
    name = content["name"]
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    image = _damage(case, file, folder) if case.way == "damaged image" else None
    store = Store(f"sqlite:///{folder / 'mlflow.db'}")

    def run() -> tuple[int, str]:
        code, out, err = on_ray("run", str(file), cwd=folder)
        assert "Traceback" not in out + err
        assert not err.strip(), err
        return code, out

    def complete(kind: str) -> set[str]:
        full = [cell for cell in store.cells(name) if cell.tags["outcome"] == "complete"]
        return {cell.tags["row"] for cell in full if (cell.tags["fold"] == "full") == (kind == "rows")}

    code, out = run()
    harmless = case.way == "diverges" and case.place == "search trial"
    assert code == (0 if harmless else 1), out
    told, why = _told(out), REASON[case.way]
    everywhere = case.way == "damaged image"  # a trial is one of many that see the image, and so are rows
    if case.place == "search trial":
        text = r"no trial is left to choose from \(\d failed\)" if everywhere else r"\d of \d trials failed"
        assert re.search(rf"^  search: {text}: {why}", told, re.M), out
        assert complete("rows") == {"softmax"} | (set() if everywhere else {"found"})
    elif case.place == "row":
        assert re.search(rf"^  row {'softmax' if everywhere else 'fails'}: 1 of 1 cells failed: {why}", told, re.M), out
        assert complete("rows") == (set() if everywhere else {"softmax", "found"})
        assert "search" in complete("trials")
    else:
        reference = "search: not run, since the reference of its constraints failed"
        assert re.search(rf"^  {reference}: {why}", told, re.M), out
        assert complete("rows") == {"softmax"}
    if "found" not in complete("rows") and not (everywhere and case.place == "row"):
        assert "  row found: not trained, since the search found nothing\n" in told
        table = (folder / "reports" / name / "baselines.md").read_text()
        assert "found is missing: the search of shaped found nothing." in table
    assert ("is tried again by the same command" in told) == (case.way not in KNOWN)
    assert ("is not trained again until" in told) == (case.way in KNOWN or "row found" in told)

    before = {(cell.run_id, cell.ended) for cell in store.cells(name)}
    if case.way not in KNOWN:
        (folder / "mended").touch()
        code, out = run()
        assert (code, _told(out)) == (0, ""), out
        assert {"softmax", "found"} <= complete("rows")
        assert not [cell for cell in store.cells(name) if cell.tags["outcome"] == "failed"]
        return
    again, out = run()
    assert (again, _told(out)) == (code, told), out
    assert {(cell.run_id, cell.ended) for cell in store.cells(name)} == before
    if image is not None and case.place == "row":
        shutil.copy(folder / "images" / image.parent.name / image.name, image)
        code, out = run()
        assert (code, complete("rows")) == (0, {"softmax", "found"}), out
    elif case == CASES[2]:
        (failed,) = (cell for cell in store.cells(name) if cell.tags["outcome"] == "failed")
        store.client.delete_run(failed.run_id)
        assert run()[0] == 1
        assert sum(cell.tags["row"] == "fails" for cell in store.cells(name)) == 1
