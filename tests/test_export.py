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

from tune_lt import classifier, data
from tune_lt.tracking import Store, registry

Call = Callable[..., tuple[int, str, str]]
STUDY = """\
name: pick
data: {name: digits, imbalance: 20}
model: {name: resnet8, width: 4}
recipe: {epochs: 2, batch_size: 64, clip_norm: 2.0, augment: {crop: 1, flip: false}}
loss: {name: ghm_cwap, gamma: {choice: [0.8, 1.2]}}
search: {sampler: grid}
rows:
  softmax: {loss: {name: softmax}}
  other: {loss: {best: true, aura: false}}
  found: {loss: {best: true}}
seeds: [3, 4]
resources: {cpus: 1, gpus: 0, concurrent: 2}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, cli: Call) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("pick")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "pick.yaml").write_text(STUDY)
    code, out, err = cli("run", "pick.yaml", cwd=folder)
    assert code == 0, err
    return folder, out


def _recorded(folder: Path) -> tuple[Store, float]:
    """The store, and what the row's run of the first seed scored on the sealed test."""
    store = Store(f"sqlite:///{folder / 'mlflow.db'}")
    finished = store.finished_cells().values()
    cell = next(c for c in finished if c.tags["row"] == "found" and c.tags["init_seed"] == "3")
    return store, cell.metrics["test/top1"]


def test_the_network_handed_out_scores_what_its_run_recorded(
    ran: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = ran
    store, top1 = _recorded(folder)
    digits = data.build("digits")
    images, labels = torch.as_tensor(digits.test_images), digits.test_labels
    model = classifier.load(folder / "reports" / "pick" / "model" / "model.pt")
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).float().mean().item() == pytest.approx(top1)
    assert "models:/pick@recommended (version 1)" in out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    served = mlflow.pyfunc.load_model("models:/pick@recommended")
    logits = served.predict({"images": images.numpy()})["logits"]
    assert (np.asarray(logits).argmax(1) == labels.numpy()).mean() == pytest.approx(top1)


def test_the_card_says_what_was_measured_and_how_to_use_it(ran: tuple[Path, str]) -> None:
    folder, out = ran
    card = (folder / "reports" / "pick" / "model" / "README.md").read_text()
    _, top1 = _recorded(folder)
    assert f"{100 * top1:.2f} % of the sealed images" in card
    assert "| 9     | 9     |               6 |" in card
    assert "Recommendation: found" in card
    assert "Recommendation: found" in out
    code = card.split("```python\n")[1].split("```")[0].replace('"model.pt"', f'"{folder}/reports/pick/model/model.pt"')
    exec(code.replace("images = ...", "import torch; images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)"), {})


def test_a_network_that_was_not_kept_is_trained_again_and_is_the_same(ran: tuple[Path, str], cli: Call) -> None:
    folder, _ = ran
    file = folder / "reports" / "pick" / "model" / "model.pt"
    before = classifier.load(file).state_dict()
    kept = list((folder / ".tune_lt" / "pick" / "checkpoints").glob("*.pt"))
    assert len(kept) == 1  # of all cells the recommended one alone
    code, out, err = cli("run", "pick.yaml", cwd=folder)
    assert code == 0, err
    assert "once more" not in out
    kept[0].unlink()
    runs = len(_recorded(folder)[0].finished_cells())
    code, out, err = cli("run", "pick.yaml", cwd=folder)
    assert code == 0, err
    assert "model: found is trained once more, its network was not kept" in out
    assert "(version 1)" in out
    assert len(_recorded(folder)[0].finished_cells()) == runs
    after = classifier.load(file).state_dict()
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
        return registry.register(store, run, "twice", folder, name, card * 6000)

    assert [published("a", "x"), published("b", "y"), published("a", "x")] == ["1", "2", "1"]
    versions = {str(one.version): one for one in store.client.search_model_versions("name = 'twice'")}
    for version, card in (("1", "x"), ("2", "y")):
        source = versions[version].source
        assert (Path(source.removeprefix("file://")) / "README.md").read_text() == card
    assert str(store.client.get_model_version_by_alias("twice", "recommended").version) == "1"
    assert len(store.client.get_model_version("twice", "1").description) == registry.CHARACTERS


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
from tune_lt.tracking import registry
trained = classifier.load(Path(sys.argv[1]))
classifier.to_onnx(trained, Path(sys.argv[2], "model.onnx"))
registry.as_model(Path(sys.argv[2], "model.onnx"), Path(sys.argv[2], "model"), trained.shape, len(trained.class_names))
print("written")
"""
)


def test_a_network_is_handed_out_with_nothing_but_the_packages_dependencies(
    ran: tuple[Path, str], tmp_path: Path
) -> None:
    """As `make demo` has it; the environment of the tests has more, which is refused here."""
    state = ran[0] / "reports" / "pick" / "model" / "model.pt"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(state), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "written"
    refused = [sys.executable, "-c", REFUSED + "import pytest"]
    assert "No module named 'pytest'" in subprocess.run(refused, capture_output=True, text=True).stderr
