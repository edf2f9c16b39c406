"""A plugin's hash is over all that it consists of, found without importing anything; and mistakes in plugins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tune_lt.errors import InputError
from tune_lt.plugins import load_plugins, members, sources

Call = Callable[..., tuple[int, str, str]]


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


FILES = {
    "mine.py": """
        import torch, os.path
        from tune_lt import losses
        import above
        def later():
            from pack.deep import inner
            import importlib
            importlib.import_module("by_name")
            __import__("by_name_too")
        """,
    "above.py": "import mine\nfrom beside import A\n",  # a circle
    "beside.py": "A = 1\n",
    "by_name.py": "",
    "by_name_too.py": "",
    "pack/__init__.py": "from . import sibling\n",
    "pack/sibling.py": "from .deep.inner import B\nfrom ...outside import C\n",
    "pack/unused.py": "",
    "pack/deep/inner.py": "from .. import uncle\nimport broken\n",  # a folder without __init__.py is a package, too
    "pack/uncle.py": "",
    "broken.py": "def",
    "unused.py": "",
    "tune_lt/losses.py": "",  # as in a checkout of this package
    "torch.txt": "",
}
FOUND = ("mine", "above", "beside", "by_name", "by_name_too", "pack", "pack.sibling", "pack.deep.inner", "pack.uncle",
         "broken")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import textwrap

    _write(tmp_path, {name: textwrap.dedent(text) for name, text in FILES.items()})
    return tmp_path


def test_all_that_can_be_imported_counts_wherever_the_import_stands(folder: Path) -> None:
    found = members(["mine"], [], folder)
    assert set(found) == set(FOUND)
    for name, file in found.items():
        path = folder / name.replace(".", "/")
        assert file == (path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
    assert sources(["mine"], [], folder) == {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in found.items()
    }


def test_files_that_a_plugin_reads_count(folder: Path) -> None:
    _write(folder, {"anchors/one.json": "[1]"})
    before = sources(["mine"], ["anchors/one.json"], folder)
    assert before.keys() - set(FOUND) == {"file:anchors/one.json"}
    _write(folder, {"anchors/one.json": "[2]"})
    assert sources(["mine"], ["anchors/one.json"], folder) != before
    for wrong in ("anchors", "none.json", "../secret", str(folder / "anchors/one.json")):
        with pytest.raises(InputError, match=r"plugin_files: found .*; valid: the path of a file in"):
            sources(["mine"], [wrong], folder)


def test_a_package_that_is_installed_counts_with_its_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "lib", {"bought/__init__.py": "from bought import loss", "bought/loss.py": "import other",
                              "other.py": ""})  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path / "lib")
    (tmp_path / "study").mkdir()
    assert set(members(["bought"], [], tmp_path / "study")) == {"bought", "bought.loss"}


def test_the_hash_is_the_same_however_often_and_after_whatever_a_plugin_was_loaded(tmp_path: Path) -> None:
    _write(tmp_path, {"one_of_two.py": "import shared_by_two", "two_of_two.py": "def f():\n  import shared_by_two",
                      "shared_by_two.py": ""})  # fmt: skip
    expected = {"two_of_two", "shared_by_two"}
    first = sources(["two_of_two"], [], tmp_path)
    assert set(first) == expected
    for names in (["two_of_two"], ["one_of_two"], ["two_of_two", "one_of_two"]):
        load_plugins(names, tmp_path)
        assert sources(["two_of_two"], [], tmp_path) == first
    assert sources(["one_of_two", "two_of_two"], [], tmp_path) == sources(["two_of_two", "one_of_two"], [], tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit(3)", "plugins: importing 'bad_plugin' failed: SystemExit: 3"),
        ("raise SystemExit('no data')", "SystemExit: no data"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_message(tmp_path: Path, text: str, message: str) -> None:
    _write(tmp_path, {"bad_plugin.py": text})
    with pytest.raises(InputError) as caught:
        load_plugins(["bad_plugin"], tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "module"), [("mine.py", "mine"), ("pack/deep.py", "pack.deep")])
def test_a_plugin_is_named_without_its_ending(folder: Path, name: str, module: str) -> None:
    with pytest.raises(InputError, match=rf"plugins: found '{name}'; valid: the name of a module, .*: {module}$"):
        load_plugins([name], folder)


NOISY = """
import sys
from torch.nn.functional import cross_entropy
from tune_lt import data, losses

print("imported")

@losses.register("noisy")
class Noisy(losses.Loss):
    def terms(self, logits, targets):
        print("called")
        {leave}
        return cross_entropy(logits, targets, reduction="none"), None

@data.register("noisy_digits")
def noisy():
    print("loaded")
    {no_data}
    return data.build("digits")
"""
STUDY = """\
name: noisy
plugins: [noisy_plugin]
data: {name: noisy_digits, imbalance: 20}
model: {name: resnet8, width: 4}
recipe: {epochs: 1, augment: {crop: 1, flip: false}}
loss: {name: noisy}
rows: {own: {}}
seeds: [0]
"""


@pytest.mark.long
@pytest.mark.parametrize("command", [["plan", "--json"], ["cells"]])
def test_what_a_plugin_prints_leaves_json_as_it_is(tmp_path: Path, cli: Call, command: list[str]) -> None:
    _write(tmp_path, {"noisy_plugin.py": NOISY.format(leave="", no_data=""), "noisy.yaml": STUDY})
    store = f"sqlite:///{tmp_path / 'none.db'}"
    code, out, err = cli(command[0], "noisy.yaml", *command[1:], "--store", store, cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)
    assert {"imported", "loaded", "called"} <= set(err.splitlines())


@pytest.mark.long
@pytest.mark.parametrize(
    ("leave", "no_data", "message"),
    [
        ("sys.exit(0)", "", "model 'resnet8' with loss 'noisy' cannot be trained on these images: SystemExit: 0"),
        ("", "sys.exit(0)", "data set 'noisy_digits': SystemExit: 0"),
        ("", "{}['images']", "data set 'noisy_digits': KeyError: 'images'"),
    ],
)
def test_a_plugin_that_exits_or_raises_is_a_message_before_anything_is_trained(
    tmp_path: Path, cli: Call, leave: str, no_data: str, message: str
) -> None:
    _write(tmp_path, {"noisy_plugin.py": NOISY.format(leave=leave, no_data=no_data), "noisy.yaml": STUDY})
    code, _, err = cli("plan", "noisy.yaml", "--store", f"sqlite:///{tmp_path / 'none.db'}", cwd=tmp_path)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
