"""States on disk: written beside the training, as they were, one at a time, and never while somebody has a result."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_lt import data, training
from tune_lt.config import Augment, CellConfig, Optimizer, Recipe
from tune_lt.training import checkpoint, loop

SOON = 20.0  # seconds: only a test that fails waits as long
CELL = CellConfig(
    data={"name": "digits", "imbalance": 20.0},
    model={"name": "resnet8", "width": 4},
    loss={"name": "ghm_cwap"},
    recipe=Recipe(
        epochs=4, batch_size=64, optimizer=Optimizer(lr=0.05), augment=Augment(crop=1, flip=False), clip_norm=2.0
    ),
    fold="holdout",
    holdout=0.3,
)
WRITE = checkpoint.save


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.build("digits")


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_a_state_is_written_as_it_was_when_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = threading.Event()

    def late(*arguments: Any) -> None:
        assert changed.wait(SOON)
        WRITE(*arguments)

    monkeypatch.setattr(checkpoint, "save", late)
    weight, moment = torch.zeros(3), torch.ones(2)
    state = {"model": OrderedDict(weight=weight), "optimizer": {"state": {0: [moment, 0.5]}, "betas": (0.9, 0.99)}}
    with checkpoint.Writer(tmp_path / "state.pt", "x") as writer:
        writer.save(state)
        weight.add_(1)
        moment.mul_(7)
        state["optimizer"]["betas"] = (0.0, 0.0)
        changed.set()
    found = checkpoint.load(tmp_path / "state.pt", "x")
    assert found is not None
    assert found["model"]["weight"].tolist() == [0, 0, 0]
    assert found["optimizer"]["state"][0][0].tolist() == [1, 1]
    assert (found["optimizer"]["state"][0][1], found["optimizer"]["betas"]) == (0.5, (0.9, 0.99))


def test_a_copy_keeps_the_layout_of_tensors_and_the_versions_of_modules() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    state = model.state_dict()
    copied = checkpoint.snapshot(state)
    assert list(copied) == list(state)
    assert copied._metadata == state._metadata  # type: ignore[attr-defined]
    for name, tensor in state.items():
        assert torch.equal(copied[name], tensor)
        assert copied[name].stride() == tensor.stride()
        assert copied[name].data_ptr() != tensor.data_ptr()


def test_states_are_written_one_at_a_time_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, written = threading.Lock(), []

    def alone(path: Path, identity: str, state: Mapping[str, Any]) -> None:
        assert busy.acquire(blocking=False)
        written.append(state["epoch"])
        busy.release()

    monkeypatch.setattr(checkpoint, "save", alone)
    with checkpoint.Writer(tmp_path / "state.pt", "x") as writer:
        for epoch in range(20):
            writer.save({"epoch": epoch})
    assert written == list(range(20))


def test_training_goes_on_while_a_state_is_written(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first state's write ends only once the second epoch has begun."""
    begun, train = threading.Event(), loop.Training.train_epoch

    def training_epoch(run: loop.Training, epoch: int) -> None:
        if epoch == 2:
            begun.set()
        train(run, epoch)

    def slow(*arguments: Any) -> None:
        assert begun.wait(SOON), "the second epoch waited for the first state"
        assert threading.current_thread().daemon  # a disk that hangs must not keep the process alive
        WRITE(*arguments)

    monkeypatch.setattr(loop.Training, "train_epoch", training_epoch)
    monkeypatch.setattr(checkpoint, "save", slow)
    results = list(training.run_epochs(CELL, dataset=digits, device="cpu", save_to=tmp_path / "state.pt"))
    assert len(results) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]  # the last one is waited for


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_nothing_is_written_while_the_caller_has_a_result_or_after_it_closed(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Each write is held up until the epoch after it is trained: what waits for it must wait before the result."""
    trained, train, before = threading.Event(), loop.Training.train_epoch, _threads()

    def training_epoch(run: loop.Training, epoch: int) -> None:
        train(run, epoch)
        trained.set()

    def late(path: Path, identity: str, state: Mapping[str, Any]) -> None:
        assert state["epoch"] == 4 or trained.wait(SOON)
        WRITE(path, identity, state)

    monkeypatch.setattr(loop.Training, "train_epoch", training_epoch)
    monkeypatch.setattr(checkpoint, "save", late)
    run = training.run_epochs(CELL, dataset=digits, device="cpu", save_to=tmp_path / "state.pt")
    for epoch in range(1, stop + 1):
        assert next(run).epoch == epoch
        trained.clear()
        assert _threads() == before
        assert [file.name for file in tmp_path.iterdir()] == ["state.pt"] * (epoch > 1)
    run.close()
    assert _threads() == before


def test_a_full_disk_stops_the_training_with_its_error_and_leaves_nothing_behind(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    for stop in (2, 4):  # after the first state, which is the next result's; after the last, which nobody waits for
        results = []
        with pytest.raises(OSError, match="no space"):  # noqa: PT012
            for result in training.run_epochs(
                CELL, dataset=digits, device="cpu", save_to=tmp_path / "a.pt", save_seconds=0 if stop == 2 else 1e9
            ):
                results.append(result.epoch)  # noqa: PERF401
        assert results[-1] == (1 if stop == 2 else 4)
        assert not any(tmp_path.iterdir())


def test_an_error_of_the_training_is_not_hidden_by_one_of_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(KeyError, match="first"), checkpoint.Writer(tmp_path / "a.pt", "x") as writer:  # noqa: PT012
        writer.save({})
        raise KeyError("first")
    assert not any(tmp_path.iterdir())
