"""Cells trained where neither Ray nor MLflow is give what a study gives, whatever stops them, and are recorded once."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from ran import PLUGIN, Ran
from stand_in import OTHERS

from tune_lt import data, training
from tune_lt.config import RESULT_VERSION
from tune_lt.errors import InputError
from tune_lt.run import elsewhere
from tune_lt.store import CellRecord, Store
from tune_lt.study import Study, reader
from tune_lt.training import cells, checkpoint, exchange, results
from tune_lt.training.exchange import ListedCell, Listing, TrainedCell

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]  # for ``ran``

Call = Callable[..., tuple[int, str, str]]
STUDY = """\
name: few
data: {name: digits, imbalance: 20}
model: {name: resnet8, width: 4}
recipe: {epochs: 5, batch_size: 64, augment: {crop: 1, flip: false}, clip_norm: 2.0}
loss: {name: ghm_cwap}
rows: {own: {}}
seeds: [0, 1]
resources: {cpus: 1}
"""
WITHOUT = ("ray", "mlflow", "pydantic", "optuna", "typer", "pandas", "yaml", "rich", "plotly", "matplotlib")
ABOUT_THE_MACHINE = {"git", "versions", "device", "workers", "memory", "epoch_seconds", "elsewhere"}


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.build("digits")


@pytest.fixture
def few(tmp_path: Path, digits: data.Dataset) -> Listing:
    return _listing(reader.parse(STUDY, tmp_path), digits)


def _listing(study: Study, digits: data.Dataset) -> Listing:
    return elsewhere.listing(study, digits.hashes, None, missing=False)


def _command(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tune_lt.training.cells", *arguments],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def taken_along(ran: Ran, tmp_path_factory: pytest.TempPathFactory, cli: Call) -> SimpleNamespace:
    """The study ``ran``, its list written here and trained in processes that cannot import what GPU machines lack."""
    folder = tmp_path_factory.mktemp("elsewhere")
    code, out, err = cli("cells", str(ran.file), "--store", f"sqlite:///{folder / 'none.db'}", cwd=folder)
    assert code == 0, err
    (folder / "cells.json").write_text(out)
    (folder / "half.py").write_text(PLUGIN)
    blocked = tmp_path_factory.mktemp("blocked")
    (blocked / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({WITHOUT})\n")
    paths = os.pathsep.join([str(blocked), str(Path(training.__file__).parents[2])])
    arguments = ("cells.json", "--results", "results", "--device", "cpu", "--at-once", "2")
    done = _command(*arguments, folder=folder, PYTHONPATH=paths)
    again = _command(*arguments, folder=folder)
    return SimpleNamespace(folder=folder, listed=err, done=done, again=again, results=folder / "results")


@pytest.fixture
def imported(taken_along: SimpleNamespace, tmp_path: Path, empty_store: Path, cli: Call) -> tuple[Store, str]:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code, out, err = cli("import", str(taken_along.results), "--store", uri, cwd=tmp_path)
    assert code == 0, err
    return Store(uri), out


def test_rows_that_take_what_a_search_finds_wait_for_it(taken_along: SimpleNamespace, ran: Ran, tmp_path: Path) -> None:
    assert "they wait for a search to end: margin+weight_aura, other" in taken_along.listed
    listing = Listing.read(taken_along.folder / "cells.json")
    assert [one.name.split(" · ")[0] for one in listing.cells[:4]] == ["softmax", "half", "diverges", "ldam+drw"]
    study = reader.read(ran.file)
    every = elsewhere.listing(study, listing.images, ran.store, missing=False)
    assert len(every.cells) == 12
    assert not every.waiting
    left = elsewhere.listing(study, listing.images, ran.store, missing=True)
    assert not left.cells  # what diverges is known to


def test_seeds_come_one_after_the_other(taken_along: SimpleNamespace) -> None:
    listing = Listing.read(taken_along.folder / "cells.json")
    assert [one.cell.init_seed for one in listing.cells] == [0] * 4 + [1] * 4


def test_what_diverges_is_a_result_and_an_exit_code(taken_along: SimpleNamespace) -> None:
    done = taken_along.done
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("the training loss became nan") == 2
    assert len(list(taken_along.results.glob("*.json"))) == 9  # and the list itself


def test_nothing_is_trained_twice(taken_along: SimpleNamespace) -> None:
    assert taken_along.again.returncode == 1  # two of them diverged
    assert "8 cells, 8 have a result" in taken_along.again.stdout
    assert "1/" not in taken_along.again.stdout


def test_what_is_imported_is_what_a_study_records(imported: tuple[Store, str], ran: Ran) -> None:
    """Parameters, metrics to the last digit, tags and files of every cell that ran here as well, on one machine."""

    def content(store: Store, record: CellRecord) -> tuple[object, ...]:
        tags = {name: text for name, text in record.tags.items() if name not in ABOUT_THE_MACHINE}
        files = [store.read_json(record.run_id, name) for name in ("per_class.json", "norms.json", "by_image.json")]
        return record.status, record.params, record.metrics, tags, files, store.history(record.run_id, "train/loss")

    store, out = imported
    theirs = {record.fingerprint: record for record in store.cells("tiny")}
    ours = {
        record.fingerprint: record for record in ran.cells() if record.tags["row"] in ("softmax", "half", "ldam+drw")
    }
    assert "tiny: 8 cells imported, 0 were there already" in out
    assert len(theirs) == 8
    assert len(ours) == 6
    for fingerprint, record in ours.items():
        assert content(store, theirs[fingerprint]) == content(ran.store, record)
        assert theirs[fingerprint].tags.keys() == record.tags.keys() | {"elsewhere"}


def test_what_is_imported_can_be_reported_at_once(imported: tuple[Store, str], cli: Call, tmp_path: Path) -> None:
    """The study was never run on this store; the rows that wait for its search are not there yet."""
    code, out, err = cli("report", "tiny", "--store", imported[0].uri, "--reports", str(tmp_path))
    assert code == 0, err
    assert "other" not in out
    lines = {line.split()[0]: line.split()[-1] for line in out.splitlines() if line.strip()}
    assert [lines[row] for row in ("softmax", "half", "ldam+drw")] == ["2", "2", "2"]
    assert f"Trained elsewhere: cpu, torch {torch.__version__}." in " ".join(out.split())
    parent = imported[0].parent("tiny")
    assert parent is not None
    assert parent.info.status == "KILLED"  # cells are missing
    assert imported[0].read_text(parent.info.run_id, "study.yaml").startswith("plugins: [half]")


def test_a_cell_that_diverged_is_known_to_diverge(imported: tuple[Store, str]) -> None:
    reasons = imported[0].cells("tiny").failing().values()
    assert len(reasons) == 2
    assert all("the training loss became nan in epoch 1" in reason for reason in reasons)


def test_imported_twice_a_cell_is_there_once(
    imported: tuple[Store, str], taken_along: SimpleNamespace, cli: Call
) -> None:
    store = imported[0]
    before = [(record.run_id, record.metrics) for record in store.cells("tiny")]
    _, out, _ = cli("import", str(taken_along.results), "--store", store.uri)
    assert "0 cells imported, 8 were there already" in out
    assert [(record.run_id, record.metrics) for record in store.cells("tiny")] == before


def test_a_grids_cells_are_listed_before_the_tables(tmp_path: Path, digits: data.Dataset) -> None:
    text = STUDY.replace("imbalance: 20}", "imbalance: 20, validation: {folds: 2}}")
    text = text.replace("{name: ghm_cwap}", "{name: ghm_cwap, alpha: {choice: [0.5, 0.9]}}\nsearch: {sampler: grid}")
    study = reader.parse(text, tmp_path)
    listing = elsewhere.listing(study, digits.hashes, None, missing=False)
    units = [(one.cell.fold, one.cell.loss["alpha"]) for one in listing.cells]
    assert units == [("1/2", 0.5), ("1/2", 0.9), ("2/2", 0.5), ("2/2", 0.9)]
    assert listing.waiting == ("own",)


# --- in this process: `_train` as a process of the pool has it ---


@pytest.fixture
def here(
    few: Listing, digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Path]]:
    """Sets this process up as one of the pool; the folder of the results."""
    folder = tmp_path / "results"
    (folder / "states").mkdir(parents=True)

    def prepare(until: float | None = None) -> Path:
        monkeypatch.setattr(cells.signal, "signal", lambda *_: None)  # Ctrl-C still ends the tests
        cells._prepare(cells._Setting(few, digits, folder, tmp_path, "cpu", until))
        return folder

    cells._seconds.clear()
    yield prepare
    cells._seconds.clear()


def _records(folder: Path, listed: ListedCell) -> list[tuple[object, ...]]:
    trained = TrainedCell.read(folder / f"{listed.fingerprint}.json")
    return [(r["op"], r.get("epoch"), r.get("metrics")) for r in trained.records]


def _taken_away(folder: Path, listed: ListedCell) -> list[tuple[object, ...]]:
    """The records of a training that nothing stopped; its result is removed, so that it can be trained again."""
    cells._train(listed)
    whole = _records(folder, listed)
    (folder / f"{listed.fingerprint}.json").unlink()
    return whole


def test_a_training_that_was_stopped_goes_on_from_its_state(
    here: Callable[..., Path], few: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, listed = here(), few.cells[0]
    whole = _taken_away(folder, listed)
    monkeypatch.setattr(cells, "SAVE_SECONDS", 0.0)
    begun = []

    def stop(result: training.EpochResult) -> dict[str, object]:
        begun.append(result.epoch)
        if begun == [1, 2, 3]:
            raise KeyboardInterrupt
        return content(result)

    content = results.content
    monkeypatch.setattr(results, "content", stop)
    with pytest.raises(KeyboardInterrupt):
        cells._train(listed)
    assert not (folder / f"{listed.fingerprint}.json").exists()
    cells._train(listed)
    assert begun == [1, 2, 3, 3, 4, 5]
    assert _records(folder, listed) == whole
    assert [op for op, *_ in whole] == ["start", *["epoch"] * 5, "end"]
    assert not list((folder / "states").iterdir())


def test_the_study_goes_on_with_what_was_imported(
    here: Callable[..., Path], few: Listing, digits: data.Dataset, tmp_path: Path, empty_store: Path, on_ray: Call
) -> None:
    """Only what was not trained elsewhere is trained, and the table says where the rest comes from."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    folder, study = here(), tmp_path / "few.yaml"
    study.write_text(STUDY)
    cells._train(few.cells[0])
    (folder / exchange.LISTED).write_text(few.json())
    store = ("--store", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert on_ray("import", str(folder), *store)[0] == 0
    left = elsewhere.listing(reader.read(study), digits.hashes, Store(store[1]), missing=True)
    assert left.cells == few.cells[1:]
    code, out, err = on_ray("run", str(study), *store, "--reports", str(tmp_path / "reports"))
    assert code == 0, err
    assert "tables: 2 cells, 1 reused, 1 to train" in out
    assert f"Trained elsewhere (1 of 2): cpu, torch {torch.__version__}." in " ".join(out.split())


def test_a_damaged_state_is_left_and_the_training_begins_anew(here: Callable[..., Path], few: Listing) -> None:
    folder, listed = here(), few.cells[0]
    state = folder / "states" / f"{listed.fingerprint}.pt"
    state.write_bytes(b"torn")
    assert cells._train(listed).startswith("test/balanced")
    assert not state.exists()


def test_a_training_that_raises_is_no_result_and_does_not_stop_the_others(
    here: Callable[..., Path], few: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = here()
    with monkeypatch.context() as broken:
        broken.setattr(torch.optim.SGD, "step", lambda *_: 1 / 0)
        assert cells._train(few.cells[0]) == "ZeroDivisionError: division by zero"
    assert not list(folder.glob("*.json"))
    assert cells._train(few.cells[0]).startswith("test/balanced")


def test_what_would_not_end_in_time_is_given_up_or_not_begun(here: Callable[..., Path], few: Listing) -> None:
    """Epochs take some milliseconds, so that a million of them do not fit into a minute."""
    folder = here(until=time.time() + 60)
    long = dataclasses.replace(few.cells[0].cell.recipe, epochs=1_000_000)
    one, other = (
        dataclasses.replace(listed, cell=dataclasses.replace(listed.cell, recipe=long)) for listed in few.cells
    )
    assert cells._train(one).startswith("not enough time: it needs ")
    assert checkpoint.epoch(folder / "states" / f"{one.fingerprint}.pt") == 2
    assert cells._train(other) == ""
    assert not list(folder.glob("*.json"))


def test_nothing_begins_once_the_time_is_over(here: Callable[..., Path], few: Listing) -> None:
    here(until=time.time() - 1)
    assert cells._train(few.cells[0]) == ""


def test_a_training_that_the_end_of_the_time_stops_goes_on_there(
    here: Callable[..., Path], few: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped after its third epoch; what it gives in the end is what one gives that nothing stopped."""
    folder, listed = here(), few.cells[0]
    whole = _taken_away(folder, listed)
    here(until=time.time() + 1000)

    def content(result: training.EpochResult) -> dict[str, Any]:
        if result.epoch == 3:
            object.__setattr__(cells._setting, "until", 0.0)
        return real(result)

    real = results.content
    with monkeypatch.context() as late:
        late.setattr(results, "content", content)
        assert cells._train(listed).startswith("the time is over, 2 epochs are left")
    here()
    seen = []
    monkeypatch.setattr(results, "content", lambda result: seen.append(result.epoch) or real(result))
    cells._train(listed)
    assert seen == [4, 5]
    assert _records(folder, listed) == whole


def test_a_training_whose_records_a_crash_took_begins_anew(
    here: Callable[..., Path], few: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, listed = here(), few.cells[0]
    whole = _taken_away(folder, listed)
    monkeypatch.setattr(cells, "SAVE_SECONDS", 0.0)
    real = results.content
    with monkeypatch.context() as stopped:
        stopped.setattr(results, "content", lambda result: 1 / 0 if result.epoch == 4 else real(result))
        assert cells._train(listed) == "ZeroDivisionError: division by zero"
    notes = folder / "states" / f"{listed.fingerprint}.jsonl"
    first, second, _ = notes.read_text().splitlines()
    notes.write_text(f"{first}\n{second[:20]}")
    cells._train(listed)
    assert _records(folder, listed) == whole


def test_a_cell_that_another_command_trains_is_left_to_it(here: Callable[..., Path], few: Listing) -> None:
    folder = here()
    with cells._locked(folder / "states" / f"{few.cells[0].fingerprint}.lock") as ours:
        assert ours
        assert cells._train(few.cells[0]) == ""
    assert cells._train(few.cells[0]).startswith("test/balanced")
    assert cells._train(few.cells[0]) == ""  # it has a result
    assert not list((folder / "states").iterdir())


def test_a_lock_stays_that_of_its_cell_until_there_is_a_result(here: Callable[..., Path], few: Listing) -> None:
    """A command that opened the lock before another one gave the cell up keeps a third from training it, too."""
    folder = here(until=time.time() - 1)
    with open(folder / "states" / f"{few.cells[0].fingerprint}.lock", "w") as opened:
        assert cells._train(few.cells[0]) == ""  # no time is left
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        here()
        assert cells._train(few.cells[0]) == ""
    assert cells._train(few.cells[0]).startswith("test/balanced")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_every_process_of_it(
    few: Listing, digits: data.Dataset, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C, which the whole group hears, and a kill of the command alone; one training runs, another waits."""
    long = STUDY.replace("epochs: 5", "epochs: 1000000")
    (tmp_path / "cells.json").write_text(_listing(reader.parse(long, tmp_path), digits).json())
    command = [sys.executable, "-m", "tune_lt.training.cells", "cells.json", "--results", "results", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while not list((tmp_path / "results").glob("states/*.jsonl")):
            assert process.poll() is None
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=60)
        _, alive = psutil.wait_procs(children, timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert not alive
    assert process.returncode == 128 + number
    assert said == "stopped; what has ended is kept, the same command goes on\n"


def test_a_full_disk_is_said_in_a_sentence(few: Listing, tmp_path: Path) -> None:
    """A limit on the size of files stands for it: such an error names no file either."""
    (tmp_path / "cells.json").write_text(few.json())
    command = [sys.executable, "-m", "tune_lt.training.cells", "cells.json", "--results", "results", "--device", "cpu"]
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert done.stderr == "error: results: File too large\n"


def test_a_process_that_dies_is_told(tmp_path: Path, digits: data.Dataset) -> None:
    (tmp_path / "dies.py").write_text(
        "import os\nimport torch\nfrom tune_lt import losses\n\n"
        "@losses.register('dies')\nclass Dies(losses.Loss):\n"
        "    def terms(self, logits, targets):\n        os._exit(9)\n"
    )
    study = reader.parse(f"plugins: [dies]\n{STUDY}".replace("{own: {}}", "{own: {loss: {name: dies}}}"), tmp_path)
    (tmp_path / "cells.json").write_text(_listing(study, digits).json())
    done = _command("cells.json", "--results", "results", "--device", "cpu", folder=tmp_path)
    assert done.returncode == 1
    assert "training failed: a training's process died" in done.stderr
    assert "Traceback" not in done.stderr


# --- refusals ---


def _altered(listing: Listing, **changes: object) -> dict[str, object]:
    return json.loads(listing.json()) | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listing: "no json", "not readable (JSONDecodeError"),
        (lambda listing: "[1]", "not readable (TypeError"),
        (lambda listing: json.dumps(_altered(listing, format=0)), "another format); valid: a file written by"),
        (lambda listing: json.dumps(_altered(listing, cells=[{}])), "not readable (KeyError"),
        (lambda listing: json.dumps(_altered(listing, result_version=RESULT_VERSION - 1)), "found version"),
        (lambda listing: json.dumps(_altered(listing, study="../up")), "found a study called '../up'"),
        (
            lambda listing: json.dumps(_altered(listing, images=dataclasses.asdict(OTHERS))),
            "for a cell whose fingerprint is",
        ),
        (lambda listing: listing.json().replace('"epochs": 5', '"epochs": 6'), "for a cell whose fingerprint is"),
    ],
)
def test_a_list_that_is_not_ours_is_refused(
    few: Listing, tmp_path: Path, change: Callable[[Listing], str], message: str
) -> None:
    file = tmp_path / "cells.json"
    file.write_text(change(few))
    with pytest.raises(InputError, match=f"{re.escape(str(file))}: ") as refused:
        cells.main([str(file), "--results", str(tmp_path / "results")])
    assert message in str(refused.value)
    assert not (tmp_path / "results").exists()


def test_other_images_are_refused(few: Listing, tmp_path: Path) -> None:
    other = dataclasses.replace(few, images=OTHERS)
    with pytest.raises(InputError, match="digits: found other images than those of the list of cells"):
        cells.train(other, tmp_path / "results", device="cpu")


def test_other_plugins_are_refused(few: Listing, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="plugins: half: found other code or weights than the list"):
        cells.train(dataclasses.replace(few, sources={"half": "0"}), tmp_path / "results", device="cpu")


def test_results_that_were_altered_are_not_imported(
    here: Callable[..., Path], few: Listing, cli: Call, tmp_path: Path
) -> None:
    folder, listed = here(), few.cells[0]
    cells._train(listed)
    (folder / exchange.LISTED).write_text(few.json())
    file = folder / f"{listed.fingerprint}.json"
    file.write_text(file.read_text().replace('"epochs": 5', '"epochs": 6'))
    code, _, err = cli("import", str(folder), "--store", f"sqlite:///{tmp_path / 'new.db'}", cwd=tmp_path)
    assert code == 2
    assert f"error: {file}: found the fingerprint {listed.fingerprint} for a cell whose fingerprint is" in err
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records.pop(),
        lambda records: records.pop(0),
        lambda records: records.append(records[0]),
        lambda records: records[1].pop("op"),
        lambda records: records[1].update(key="another"),
        lambda records: records.pop(2),
        lambda records: records[1].update(epoch=2),
        lambda records: records[-1].pop("at"),
        lambda records: records[-1]["artifacts"].update({"../../elsewhere.json": {}}),
        lambda records: records.__setitem__(2, "text"),
    ],
)
def test_records_that_are_not_a_whole_training_are_refused(
    here: Callable[..., Path], few: Listing, change: Callable[[list[dict[str, Any]]], object]
) -> None:
    file = here() / f"{few.cells[0].fingerprint}.json"
    cells._train(few.cells[0])
    TrainedCell.read(file)
    content = json.loads(file.read_text())
    change(content["records"])
    file.write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=rf"{file}: (found records that are not those of one whole|not readable \(.*\); valid: a file)"
    ):
        TrainedCell.read(file)


def test_results_of_another_study_are_not_imported(here: Callable[..., Path], few: Listing) -> None:
    folder = here()
    cells._train(few.cells[0])
    (folder / exchange.LISTED).write_text(dataclasses.replace(few, study="another").json())
    with pytest.raises(InputError, match="found a cell of few; valid: of another"):
        elsewhere.read(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [("none", "no such folder"), ("empty", "study.json: cannot be read"), ("begun", "no results yet")],
)
def test_a_folder_without_results_is_no_import(
    name: str, message: str, few: Listing, cli: Call, tmp_path: Path
) -> None:
    for folder in ("empty", "begun"):
        (tmp_path / folder).mkdir()
    (tmp_path / "begun" / exchange.LISTED).write_text(few.json())
    code, _, err = cli("import", str(tmp_path / name), "--store", f"sqlite:///{tmp_path / 'new.db'}", cwd=tmp_path)
    assert code == 2
    assert message in err
