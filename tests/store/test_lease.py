"""One driver a study: who holds the lease, whether it lives, and when it may be taken over."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tune_lt.errors import InputError
from tune_lt.run.search.past import past_trials
from tune_lt.store import Store, lease, own_tags
from tune_lt.store.records import reused_tag

pytestmark = pytest.mark.long
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path / 'mlflow.db'}")


def _held_by(store: Store, parent: str, **changes: Any) -> dict[str, Any]:
    holder = {"id": "other", "host": socket.gethostname(), "pid": 1, "at": time.time()} | changes
    store.tag(parent, {"tune_lt.lease": json.dumps(holder)})
    return holder


def test_a_living_driver_keeps_others_away_and_its_release_lets_them_in(store: Store) -> None:
    parent = store.ensure_parent("s")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        _held_by(store, parent, pid=other.pid)
        with pytest.raises(InputError, match=f"is being run by process {other.pid} on"):
            lease.Lease(store, parent)
        other.kill()
    mine = lease.Lease(store, parent)  # its process is gone
    mine.release()
    assert lease.holder(store.client, parent) is None
    lease.Lease(store, parent)


@pytest.mark.parametrize(
    ("changes", "living"),
    [
        ({}, True),  # process 1 of this host lives
        ({"pid": 2**22 + 1}, False),  # no such process
        ({"pid": os.getpid()}, False),  # our number, so it is an earlier life of a container
        ({"host": "elsewhere", "pid": 2**22 + 1}, True),  # cannot be asked, and was alive a moment ago
        ({"host": "elsewhere", "at": time.time() - 100}, False),
        ({"at": time.time() - 100}, False),
        ({"at": time.time() + 3600}, False),  # its clock is ahead, or ours was set back
        ({"host": "elsewhere", "at": time.time() + 3600}, False),
    ],
)
def test_whether_a_holder_lives(changes: dict[str, Any], living: bool) -> None:
    holder = {"id": "x", "host": socket.gethostname(), "pid": 1, "at": time.time()} | changes
    assert lease.alive(holder) == living


@pytest.mark.parametrize("ahead", [3600, -3600])
@pytest.mark.parametrize("living", [True, False])
def test_where_clocks_differ_a_renewal_shows_that_a_holder_lives(
    store: Store, monkeypatch: pytest.MonkeyPatch, ahead: int, living: bool
) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 60.0 if living else 0.5)
    parent = store.ensure_parent("s")
    before = _held_by(store, parent, host="elsewhere", at=time.time() + ahead)
    if not living:
        lease.Lease(store, parent)
        return
    over = threading.Event()

    def renew() -> None:
        for second in itertools.count(1):
            if over.wait(0.3):
                return
            _held_by(store, parent, **before | {"at": before["at"] + second})

    renewal = threading.Thread(target=renew)
    renewal.start()
    try:
        with pytest.raises(InputError, match="is being run by process 1 on elsewhere"):
            lease.Lease(store, parent)
    finally:
        over.set()
        renewal.join()


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, r"running, by process 1 on .* \(last sign of life \d+ s ago\)"),
        ({"pid": 2**22 + 1}, r"stopped, its driver, process .*, has died; tune-lt run goes on with it"),
        (
            {"host": "elsewhere", "at": time.time() - 3600},
            r"stopped, its driver, process 1 on elsewhere .*, has died, if its clock is right; .*",
        ),
        (
            {"host": "elsewhere", "at": time.time() + 3600},
            r"running, if process 1 on elsewhere \(its clock .*\) is alive",
        ),
        (None, "stopped, its driver has died; tune-lt run goes on with it"),
    ],
)
def test_status_tells_a_dead_drivers_study_from_a_running_one(
    store: Store, cli: Call, tmp_path: Path, changes: dict[str, Any] | None, state: str
) -> None:
    parent = store.ensure_parent("s")
    store.begin(parent, "text", {})
    if changes is not None:
        _held_by(store, parent, **changes)
    code, out, _ = cli("status", cwd=tmp_path)
    assert code == 0
    assert re.match(f"s: {state}; search trials: none; ", out), out
    store.finish(parent)
    assert cli("status", cwd=tmp_path)[1].startswith("s: finished; ")


def test_a_driver_notices_that_another_has_taken_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.0)
    parent = store.ensure_parent("s")
    mine = lease.Lease(store, parent)
    before = lease.holder(store.client, parent)
    mine.renew()
    after = lease.holder(store.client, parent)
    assert before is not None
    assert after is not None
    assert after["at"] > before["at"]
    assert not mine.lost
    _held_by(store, parent)
    mine.renew()
    assert mine.lost
    mine.release()
    assert lease.holder(store.client, parent) == _held_by(store, parent) | {"at": pytest.approx(time.time(), abs=60)}


def test_renewing_does_not_wait_for_a_store_that_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, at once: the thread that renews has records to send; the next beat tries again."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.0)
    mine = lease.Lease(store, store.ensure_parent("s"))
    before = lease.holder(store.client, mine._run_id)
    tried: list[str] = []

    def away(self: MlflowClient, run_id: str, *rest: Any) -> None:
        tried.append(run_id)
        raise MlflowException("connection refused")

    store.client.patience = 3600.0
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_tag", away)
        with pytest.raises(MlflowException):
            mine.renew()
    assert len(tried) == 1
    assert not mine.lost
    mine.renew()
    after = lease.holder(store.client, mine._run_id)
    assert before is not None
    assert after is not None
    assert after["at"] > before["at"]


def test_the_history_of_a_search_is_what_its_runs_and_its_notes_say(store: Store) -> None:
    parent = store.ensure_parent("s")
    experiment = store.experiment("s")

    def trial(number: int, outcome: str, search: str = "sig", **tags: str) -> str:
        content = {"kind": "cell", "row": "search", "search": search, "trial": str(number), "outcome": outcome}
        content |= {"found": json.dumps({"loss/alpha": 0.1 * number}), "fingerprint": f"f{number}"} | tags
        named = {f"tune_lt.{tag}": value for tag, value in content.items()}
        return str(store.client.create_run(experiment, tags=named).info.run_id)

    finished = trial(0, "complete", epochs="4", rungs='{"1": 0.4, "2": 0.5}')
    trial(1, "pruned", epochs="1", rungs='{"1": 0.2}')
    flying = trial(2, "running")
    trial(3, "failed", retry="no")
    trial(4, "failed", retry="yes")
    trial(0, "complete", search="another")
    store.client.log_metric(finished, "val/balanced", 0.6, step=4)
    store.client.log_metric(flying, "val/balanced", 0.3, step=1)
    note = {"found": {"loss/alpha": 0.5}, "fingerprint": "f0"}
    store.tag(parent, {"tune_lt." + reused_tag("sig", 5): json.dumps(note)})
    noted = own_tags(store.client.get_run(parent))
    past = past_trials(store, store.cells("s"), noted, "sig", "val/balanced")
    assert [trial.number for trial in past] == [0, 1, 2, 3, 4, 5]
    assert [trial.outcome for trial in past] == ["complete", "pruned", "running", "failed", "running", "reused"]
    assert (past[0].value("val/balanced"), past[0].epochs, past[0].rungs) == (0.6, 4, {1: 0.4, 2: 0.5})
    assert past[2].rungs == {1: 0.3}
    assert (past[5].found, past[5].fingerprint) == ({"loss/alpha": 0.5}, "f0")
