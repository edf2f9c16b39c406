"""Each broken state of a study's record, made in a real store: found, put right, and nothing else touched."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tune_lt.documents import Contents, Recommended, Trial
from tune_lt.errors import InputError
from tune_lt.run.search.past import past_trials
from tune_lt.store import Store, own_tags
from tune_lt.store.journal import Journal
from tune_lt.store.repair import examine_study, fix

pytestmark = pytest.mark.long

Call = Callable[..., tuple[int, str, str]]
FULL = {"train/loss": 0.5, "test/top1": 0.9, "test/balanced": 0.8}
HELD_OUT = {"train/loss": 0.5, "val/top1": 0.9, "val/balanced": 0.8}
CLASSES = {"class_counts": [3, 1]}


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    opened = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    opened.finish(opened.ensure_parent("s"))
    return opened


@pytest.fixture
def living() -> Iterator[int]:
    """The id of a process that lives as long as the test."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.wait()


def _dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def _parent(store: Store, study: str = "s") -> str:
    parent = store.parent(study)
    assert parent is not None
    return str(parent.info.run_id)


def _lease(store: Store, pid: int) -> None:
    content = {"id": "x", "host": socket.gethostname(), "pid": pid, "at": time.time()}
    store.tag(_parent(store), {"tune_lt.lease": json.dumps(content)})


def _cell(
    store: Store,
    key: str,
    outcome: str | None = "complete",
    *,
    status: str = "FINISHED",
    metrics: dict[str, float] = FULL,
    artifact: Any = CLASSES,
    end: int = 1000,
    start: int = 1,
    study: str = "s",
    **tags: str,
) -> str:
    """A cell's run as the journal leaves one; with status RUNNING it is not ended."""
    parent = store.ensure_parent(study)
    tags = {"kind": "cell", "row": "softmax", "fold": "full", "fingerprint": key.split(".")[0], "key": key} | tags
    texts = {f"tune_lt.{tag}": value for tag, value in tags.items()} | {"mlflow.parentRunId": parent}
    if outcome:
        texts["tune_lt.outcome"] = outcome
    run_id = str(store.client.create_run(store.experiment(study), start_time=start, tags=texts).info.run_id)
    for name, value in metrics.items():
        store.client.log_metric(run_id, name, value, step=3)
    if artifact is not None:
        store.log_json(run_id, "per_class.json", artifact)
    if status != "RUNNING":
        store.client.set_terminated(run_id, status, end_time=end)
    return run_id


def _trial(store: Store, number: int, outcome: str = "complete", *, fingerprint: str, **options: Any) -> str:
    options.setdefault("search", "sig")
    return _cell(
        store,
        f"{fingerprint}.{options['search']}",
        outcome,
        **{"metrics": HELD_OUT, "row": "search", "fold": "holdout", "trial": str(number)} | options,
        found=json.dumps({"loss/alpha": 0.5}),
    )


def _all(store: Store) -> dict[str, Any]:
    """Everything about every run, by its id."""
    runs = store.client.search_runs([e.experiment_id for e in store.client.search_experiments()], max_results=1000)
    return {
        run.info.run_id: (
            run.info.status, run.info.start_time, run.info.end_time,
            dict(run.data.tags), dict(run.data.params), dict(run.data.metrics),
        )
        for run in runs
    }  # fmt: skip


def _kinds(store: Store) -> list[str]:
    return [finding.kind for finding in examine_study(store, "s")]


def _past(store: Store, signature: str) -> list[Trial]:
    return past_trials(store, store.cells("s"), own_tags(store.parent("s")), signature, "val/balanced")


def _fixed(store: Store, *kinds: str, changed: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Examine (which changes nothing), fix, and check that only runs in ``changed`` and the lease differ after it."""
    before = _all(store)
    findings = examine_study(store, "s")
    assert [finding.kind for finding in findings] == list(kinds)
    assert _all(store) == before
    said = fix(store, "s", findings)
    after = _all(store)
    parent = _parent(store)
    if parent in before and parent not in changed:
        after[parent][3].pop("tune_lt.lease")
        before[parent][3].pop("tune_lt.lease", None)
    assert {run for run in after if before.get(run) != after[run]} == changed
    assert before.keys() <= after.keys()
    assert examine_study(store, "s") == []
    assert fix(store, "s", []) == []
    return said


def _outcome(store: Store, run_id: str) -> tuple[str, str | None]:
    run = store.client.get_run(run_id)
    return run.info.status, run.data.tags.get("tune_lt.outcome")


def test_a_sound_study_has_nothing_found_whatever_became_of_its_cells(store: Store) -> None:
    _cell(store, "a")
    _cell(store, "b", "failed", status="FAILED", metrics={}, artifact=None, retry="no")
    _cell(store, "c", "interrupted", status="KILLED", metrics={}, artifact=None)
    _trial(store, 0, fingerprint="d")
    _trial(store, 1, "pruned", fingerprint="e", artifact=None)
    _cell(store, "a", study="other")  # a cell shared by two studies that ran at once is no duplicate
    assert examine_study(store, "s") == []


def test_a_study_the_store_does_not_have_is_named(store: Store) -> None:
    with pytest.raises(InputError, match=r"no study 'nope' in .*; studies there: s"):
        examine_study(store, "nope")


def test_runs_of_a_dead_driver_are_interrupted_and_its_lease_given_up(store: Store) -> None:
    sound = _cell(store, "a")
    running = [_cell(store, key, None, status="RUNNING", metrics={}, artifact=None) for key in ("b", "c")]
    parent = _parent(store)
    store.begin(parent, "text", {})
    _lease(store, _dead())
    said = _fixed(store, "running", "parent", "lease", changed={*running, parent})
    assert [_outcome(store, run_id) for run_id in running] == [("KILLED", "interrupted")] * 2
    assert _outcome(store, parent)[0] == "KILLED"
    assert _outcome(store, sound) == ("FINISHED", "complete")
    assert store.client.get_run(parent).data.tags["tune_lt.lease"] == ""
    assert any("2 runs RUNNING" in line and "softmax" in line for line in said)


@pytest.mark.parametrize("here", [True, False])
def test_nothing_is_touched_while_a_driver_lives(store: Store, living: int, here: bool, tmp_path: Path) -> None:
    _cell(store, "a", None, status="RUNNING", artifact=None)
    _cell(store, "b", artifact=None)
    stale = examine_study(store, "s")
    _lease(store, living)
    if not here:  # of another host only its heartbeat is known
        content = {"id": "x", "host": "elsewhere", "pid": 1, "at": time.time()}
        store.tag(_parent(store), {"tune_lt.lease": json.dumps(content)})
    before = _all(store)
    (finding,) = examine_study(store, "s")
    assert finding.kind == "held"
    assert not finding.problem
    assert f"being run by process {living if here else 1} on" in str(finding)
    for findings in ([finding], stale):  # the second: of a driver that began in between
        with pytest.raises(InputError, match="is being run by process"):
            fix(store, "s", findings)
    assert _all(store) == before


@pytest.mark.parametrize(
    ("make", "fold"),
    [
        ({"metrics": {}}, "full"),
        ({"metrics": HELD_OUT}, "full"),  # no sealed test was scored
        ({"metrics": {"train/loss": 0.5}}, "holdout"),
        ({"artifact": None}, "full"),
    ],
)
def test_a_cell_without_its_numbers_is_trained_again(
    store: Store, tmp_path: Path, make: dict[str, Any], fold: str
) -> None:
    sound, broken = _cell(store, "a"), _cell(store, "b", fold=fold, **make)
    assert set(store.finished_cells()) == {"a", "b"}
    _fixed(store, "damaged", changed={broken})
    assert set(store.finished_cells()) == {"a"}
    assert store.cells("s").runs_by_key() == {"a": sound}
    journal = Journal(store, "s", _parent(store), tmp_path / "j")  # as the next driver does
    journal.start("b", "name", {}, {"kind": "cell", "fingerprint": "b", "fold": fold})
    numbers = FULL if fold == "full" else HELD_OUT
    journal.epoch("b", 3, numbers)
    journal.end("b", "complete", {}, {"per_class.json": CLASSES})
    journal.close()
    assert store.finished_cells()["b"].metrics == numbers
    assert store.finished_cells()["b"].run_id != broken
    assert examine_study(store, "s") == []


def test_an_artifact_cut_short_is_damage_but_a_store_that_is_away_is_none(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = _cell(store, "a")

    def away(*arguments: Any) -> str:
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.tracking.MlflowClient.download_artifacts", away)
        with pytest.raises(InputError, match="cannot be used: connection reset"):
            examine_study(store, "s")
    (file,) = (tmp_path / "mlartifacts").rglob("per_class.json")
    file.write_text('{"class_cou')
    _fixed(store, "damaged", changed={run_id})


def test_a_store_that_was_moved_is_not_taken_for_damage(store: Store, tmp_path: Path) -> None:
    _cell(store, "a")
    (tmp_path / "mlartifacts").rename(tmp_path / "elsewhere")
    findings = examine_study(store, "s")
    assert [finding.kind for finding in findings] == ["moved"]
    assert findings[0].problem
    assert fix(store, "s", findings) == []
    assert set(store.finished_cells()) == {"a"}


def test_a_damaged_trial_is_carried_on_under_its_number_until_it_is_trained_again(store: Store) -> None:
    broken = _trial(store, 4, fingerprint="f", metrics={})
    _fixed(store, "damaged", changed={broken})
    (past,) = _past(store, "sig")
    assert (past.number, past.outcome) == (4, "running")
    again = _trial(store, 4, "pruned", fingerprint="f", artifact=None, start=2)
    (past,) = _past(store, "sig")
    assert (past.number, past.outcome, past.value("val/balanced")) == (4, "pruned", 0.8)
    assert [trial.run_id for trial in store.cells("s").trials()] == [again]


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_complete_runs_of_a_cell_the_one_that_finished_first_stays(store: Store, first: int) -> None:
    ends = (1000, 2000) if first == 0 else (2000, 1000)
    runs = [_cell(store, "a", end=end, start=start) for start, end in enumerate(ends, 1)]
    other = _cell(store, "b")
    _fixed(store, "duplicate", changed={runs[1 - first]})
    assert _outcome(store, runs[1 - first]) == ("FINISHED", "duplicate")
    assert store.finished_cells()["a"].run_id == runs[first]
    assert store.cells("s").runs_by_key() == {"a": runs[first], "b": other}


@pytest.mark.parametrize(("outcome", "status"), [("failed", "FAILED"), ("interrupted", "KILLED"), (None, "RUNNING")])
def test_a_complete_run_stays_rather_than_an_older_one_that_is_not(
    store: Store, outcome: str | None, status: str
) -> None:
    older = _cell(store, "a", outcome, status=status, artifact=None, start=1, end=10)
    complete = _cell(store, "a", start=2, end=20)
    expected = ("running", "duplicate") if outcome is None else ("duplicate",)
    _fixed(store, *expected, changed={older})
    assert _outcome(store, older)[1] == "duplicate"
    assert store.cells("s").runs_by_key() == {"a": complete}


def test_of_two_unfinished_runs_the_older_stays(store: Store) -> None:
    older, newer = (
        _cell(store, "a", "interrupted", status="KILLED", artifact=None, start=start, end=end)
        for start, end in ((1, 40), (2, 30))
    )
    _fixed(store, "duplicate", changed={newer})
    assert store.cells("s").runs_by_key() == {"a": older}


def test_a_damaged_run_gives_way_to_a_whole_one(store: Store) -> None:
    broken = _cell(store, "a", metrics={}, end=1)
    whole = _cell(store, "a", end=2)
    _fixed(store, "damaged", changed={broken})
    assert store.finished_cells()["a"].run_id == whole


def test_a_trial_whose_cell_another_search_had_stays_known_to_its_own(store: Store) -> None:
    """Two searches of one study trained one cell: the later search must not forget that trial, nor train it again."""
    first = _trial(store, 0, fingerprint="f", search="one", end=1)
    second = _trial(store, 3, fingerprint="f", search="two", end=2)
    parent = _parent(store)
    _fixed(store, "duplicate", changed={second, parent})
    assert store.finished_cells()["f"].run_id == first
    (past,) = _past(store, "two")
    assert (past.number, past.outcome, past.fingerprint, past.found) == (3, "reused", "f", {"loss/alpha": 0.5})
    (past,) = _past(store, "one")
    assert (past.number, past.outcome) == (0, "complete")


def test_records_that_were_not_sent_are_sent_before_anything_is_judged(store: Store) -> None:
    run_id = _cell(store, "a", "running", status="RUNNING", metrics={"train/loss": 0.5}, artifact=None)
    folder = store.state_folder("s")
    folder.mkdir(parents=True)
    start = {
        "op": "start",
        "key": "b",
        "name": "n",
        "params": {},
        "tags": {"kind": "cell", "fingerprint": "b"},
        "at": 5,
    }
    records = [
        {"op": "epoch", "key": "a", "epoch": 4, "metrics": FULL, "at": 5},
        {"op": "end", "key": "a", "tags": {"outcome": "complete"}, "artifacts": {"per_class.json": CLASSES}, "at": 6},
        start,
    ]
    lines = [json.dumps(record) + "\n" for record in [{"op": "sent long ago"}, *records]]
    (folder / "journal.jsonl").write_text("".join(lines) + '{"op": "cut sh')
    (folder / "journal.sent").write_text(str(len(lines[0])))
    assert _kinds(store) == ["journal", "running"]
    assert "3 records" in str(examine_study(store, "s")[0])
    fix(store, "s", examine_study(store, "s"))
    assert _outcome(store, run_id) == ("FINISHED", "complete")  # its end was in the journal
    begun = store.client.get_run(store.cells("s").runs_by_key()["b"])
    assert (begun.info.status, begun.data.tags["tune_lt.outcome"]) == ("KILLED", "interrupted")
    assert list(folder.iterdir()) == []
    assert examine_study(store, "s") == []


def test_checkpoints_that_nobody_goes_on_from_are_deleted_and_no_others(store: Store) -> None:
    _cell(store, "done")
    _cell(store, "elsewhere", study="other")
    _cell(store, "failing", "failed", status="FAILED", metrics={}, artifact=None, retry="no")
    _cell(store, "retry", "failed", status="FAILED", metrics={}, artifact=None, retry="yes")
    _cell(store, "open", "interrupted", status="KILLED", metrics={}, artifact=None)
    _trial(store, 0, "pruned", fingerprint="pruned", artifact=None)
    _trial(store, 1, "pruned", fingerprint="again", artifact=None, search="one")
    _trial(store, 1, "interrupted", fingerprint="again", artifact=None, search="two", status="KILLED")
    broken = _cell(store, "broken", metrics={})
    _cell(store, "advised")
    contents = Contents({}, {}, {}, "resnet8", "softmax", Recommended("softmax", "row", "advised"), (None,), {}, {})
    store.log_json(_parent(store), "cells.json", contents.content())
    folder = store.state_folder("s") / "checkpoints"
    folder.mkdir(parents=True)
    kept = {"retry.pt", "open.pt", "again.pt", "broken.pt", "advised.pt", "unknown.pt", "notes.txt"}
    gone = {"done.pt", "elsewhere.pt", "failing.pt", "pruned.pt", ".open.pt.x1y2z3"}
    for name in kept | gone:
        (folder / name).write_text("state")
    _fixed(store, "damaged", "checkpoint", "checkpoint", changed={broken})
    assert {file.name for file in folder.iterdir()} == kept


def test_half_a_document_does_not_keep_the_doctor_from_looking(store: Store) -> None:
    """Which cell is recommended cannot be seen then, so no checkpoint is called superfluous."""
    _cell(store, "done")
    store.client.log_text(_parent(store), '{"found": ', "cells.json")
    folder = store.state_folder("s") / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "done.pt").write_text("state")
    assert examine_study(store, "s") == []


def test_cells_below_another_run_are_put_below_the_studys(store: Store) -> None:
    """As after two drivers that made a parent each, or after the parent was deleted in the UI."""
    own, lost = _cell(store, "a"), _cell(store, "b")
    second = store.client.create_run(
        store.experiment("s"), tags={"tune_lt.kind": "study", "tune_lt.study": "s"}, start_time=int(time.time() * 2000)
    ).info.run_id
    store.tag(lost, {"mlflow.parentRunId": second})
    _fixed(store, "orphan", "parent", changed={lost, second})
    assert {cell.parent for cell in store.cells("s")} == {_parent(store)}
    store.client.delete_run(_parent(store))
    store.client.delete_run(second)
    findings = examine_study(store, "s")
    assert [finding.kind for finding in findings] == ["orphan"]
    fix(store, "s", findings)
    assert {cell.parent for cell in store.cells("s")} == {_parent(store)}
    assert _outcome(store, _parent(store))[0] == "KILLED"
    assert {cell.run_id for cell in store.cells("s")} == {own, lost}
    assert examine_study(store, "s") == []


def test_many_runs_are_one_line(store: Store) -> None:
    for number in range(6):
        _cell(store, f"k{number}", None, status="RUNNING", metrics={}, artifact=None)
    (finding,) = examine_study(store, "s")
    assert "6 runs RUNNING" in str(finding)
    assert "and 2 more (--fix: marked as interrupted" in str(finding)
    assert len(finding.runs) == 6


def test_fixing_with_a_lease_of_our_own_number_works(store: Store) -> None:
    """In a container that was restarted the dead driver may have had our process id."""
    _cell(store, "a", None, status="RUNNING", metrics={}, artifact=None)
    _lease(store, os.getpid())
    assert _kinds(store) == ["running", "lease"]
    fix(store, "s", examine_study(store, "s"))
    assert _kinds(store) == []


def test_the_doctor_of_a_study_says_what_it_found_and_repairs_when_told(
    cli: Call, store: Store, tmp_path: Path, living: int
) -> None:
    running = _cell(store, "a", None, status="RUNNING", metrics={}, artifact=None)
    before = _all(store)
    code, out, _ = cli("doctor", "s", cwd=tmp_path)
    assert code == 1
    assert "problem: s: 1 run RUNNING, but no driver is alive: softmax seed ?" in out
    assert "(--fix: marked as interrupted" in out
    assert "problems: 1" in out
    assert _all(store) == before
    _lease(store, living)
    code, out, _ = cli("doctor", "s", "--fix", cwd=tmp_path)
    assert code == 0
    assert f"s: being run by process {living}" in out
    assert _outcome(store, running) == ("RUNNING", None)
    _lease(store, _dead())
    code, out, _ = cli("doctor", "s", "--fix", cwd=tmp_path)
    assert code == 0
    assert "fixed: s: 1 run RUNNING" in out
    assert "problems: none" in out
    assert _outcome(store, running) == ("KILLED", "interrupted")
    code, out, _ = cli("doctor", "s", cwd=tmp_path)
    assert (code, "fixed" in out, "problems: none" in out) == (0, False, True)


def test_the_doctor_takes_a_study_by_its_file_and_says_what_remains(
    cli: Call, tmp_path: Path, store: Store, tiny_text: str
) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_text.replace("name: tiny", "name: s", 1))
    _cell(store, "a")
    assert cli("doctor", "tiny.yaml", cwd=tmp_path)[0] == 0
    (tmp_path / "mlartifacts").rename(tmp_path / "elsewhere")
    code, out, _ = cli("doctor", "tiny.yaml", "--fix", cwd=tmp_path)
    assert code == 1
    assert "problem: s: the artifacts' folder" in out
    assert "fixed" not in out


def test_the_doctor_refuses_what_it_cannot_look_at(cli: Call, tmp_path: Path, store: Store) -> None:
    code, _, err = cli("doctor", "nope", cwd=tmp_path)
    assert (code, "no study 'nope'" in err) == (2, True)
    code, _, err = cli("doctor", "--fix", cwd=tmp_path)
    assert (code, "tune-lt doctor STUDY --fix" in err) == (2, True)
    (tmp_path / "empty").mkdir()
    code, _, err = cli("doctor", "s", cwd=tmp_path / "empty")
    assert (code, "no store there yet" in err) == (2, True)
    assert list((tmp_path / "empty").iterdir()) == []
