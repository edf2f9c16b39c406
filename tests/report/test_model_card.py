"""From a folder's study to a recommendation and a network that other programs can use, by the command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from ran import Ran

from tune_lt import data
from tune_lt.store import Store, model_registry
from tune_lt.training import classifier

Call = Callable[..., tuple[int, str, str]]
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]


def _model(ran: Ran) -> Path:
    return ran.folder / "reports" / "tiny" / "model"


def _top1(ran: Ran) -> float:
    """What the recommended row's run of the first seed scored on the sealed test."""
    rows = [cell for cell in ran.cells() if (cell.tags["row"], cell.tags["init_seed"]) == ("margin+weight_aura", "0")]
    return rows[0].metrics["test/top1"]


def test_the_network_handed_out_scores_what_its_run_recorded(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    top1 = _top1(ran)
    digits = data.build("digits")
    images, labels = torch.as_tensor(digits.test_images), digits.test_labels
    model = classifier.load(_model(ran) / "model.pt")
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).float().mean().item() == pytest.approx(top1)
    assert "models:/tiny@recommended (version 1)" in ran.printed
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ran.store.uri)
    served = mlflow.pyfunc.load_model("models:/tiny@recommended")
    logits = served.predict({"images": images.numpy()})["logits"]
    assert (np.asarray(logits).argmax(1) == labels.numpy()).mean() == pytest.approx(top1)


def test_the_card_says_what_was_measured_and_how_to_use_it(ran: Ran) -> None:
    card = (_model(ran) / "README.md").read_text()
    assert f"{100 * _top1(ran):.2f} % of the sealed images" in card
    assert "| 9     | 9     |               6 |" in card
    assert "Recommendation: margin+weight_aura" in card
    assert "Recommendation: margin+weight_aura" in ran.printed
    code = card.split("```python\n")[1].split("```")[0].replace('"model.pt"', f'"{_model(ran)}/model.pt"')
    exec(code.replace("images = ...", "import torch; images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)"), {})


def test_a_network_that_was_not_kept_is_trained_again_and_is_the_same(ran: Ran, on_ray: Call, tmp_path: Path) -> None:
    copy = ran.copy(tmp_path)
    before = classifier.load(_model(copy) / "model.pt").state_dict()
    kept = list((copy.folder / ".tune_lt" / "tiny" / "checkpoints").glob("*.pt"))
    assert len(kept) == 1  # of all cells the recommended one alone
    kept[0].unlink()
    runs = len(copy.cells())
    code, out, err = on_ray("run", str(ran.file), cwd=copy.folder)
    assert code == 1, err  # a row diverges
    assert "model: margin+weight_aura is trained once more, its network was not kept" in out
    assert "(version 1)" in out
    assert len(copy.cells()) == runs
    after = classifier.load(_model(copy) / "model.pt").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_choice_is_another_version_and_leaves_the_first_as_it_was(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    store.folder = tmp_path
    run = store.client.create_run(store.experiment("twice"), tags={}).info.run_id

    def published(name: str, card: str) -> str:
        folder = tmp_path / card
        folder.mkdir(exist_ok=True)
        (folder / "README.md").write_text(card)
        return model_registry.register(store, run, "twice", folder, name, card * 6000)

    assert [published("a", "x"), published("b", "y"), published("a", "x")] == ["1", "2", "1"]
    versions = {str(one.version): one for one in store.client.search_model_versions("name = 'twice'")}
    for version, card in (("1", "x"), ("2", "y")):
        source = versions[version].source
        assert (Path(source.removeprefix("file://")) / "README.md").read_text() == card
    assert str(store.client.get_model_version_by_alias("twice", "recommended").version) == "1"
    assert len(store.client.get_model_version("twice", "1").description) == model_registry.CHARACTERS


REFUSED = """
import re, sys
from importlib import metadata
from importlib.machinery import PathFinder

def named(lines):
    return {re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in lines}

def closure(names):
    found, left = set(), list(names)
    while left:
        name = left.pop()
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        left += named(one for one in needed if "extra ==" not in one) - found
    return found

class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if {one.lower().replace("_", "-") for one in owners.get(name, ())} & refused:
            return None
        return super().find_spec(name, path, target)

wanted = metadata.requires("tune-lt")
extra = named(one for one in wanted if "extra ==" in one)
refused = extra - closure(named(one for one in wanted if "extra ==" not in one))
owners = metadata.packages_distributions()
sys.meta_path = [Others if finder is PathFinder else finder for finder in sys.meta_path]
"""
WITHOUT = (
    REFUSED
    + """
from pathlib import Path
from tune_lt import classifier
from tune_lt.store import model_registry
trained = classifier.load(Path(sys.argv[1]))
classifier.to_onnx(trained, Path(sys.argv[2], "model.onnx"))
folder = Path(sys.argv[2])
model_registry.as_model(folder / "model.onnx", folder / "model", trained.described.shape, len(trained.class_names))
print("written")
"""
)


@pytest.mark.slow  # `.ci/run` begins with the demo, which sees the same
def test_a_network_is_handed_out_with_nothing_but_the_packages_dependencies(ran: Ran, tmp_path: Path) -> None:
    """As `make demo` has it; the environment of the tests has more, which is refused here."""
    state = _model(ran) / "model.pt"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(state), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "written"
    refused = [sys.executable, "-c", REFUSED + "import pytest"]
    assert "No module named 'pytest'" in subprocess.run(refused, capture_output=True, text=True).stderr
