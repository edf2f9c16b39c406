"""One of each kind of trouble with real parts, for `make smoke`; a browser's is beside its page's other tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil
import pytest
from processes import answers, driver, environment, free_ports, progress, tiny_study, wait_until, whole_study
from tls import Answer, Proxy, certificate, serving

from tune_lt.errors import InputError
from tune_lt.store import Store

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).parents[2]
NOTED = """\
# Every epoch that is trained, in whichever process, is noted in a file.
from tune_lt import training

run_epochs = training.run_epochs

def noted(cell, **options):
    for result in run_epochs(cell, **options):
        with open({file!r}, "a") as file:
            file.write(f"{{cell}} {{result.epoch}}\\n")
        yield result

training.run_epochs = noted
"""


def test_a_driver_that_is_killed_loses_nothing_and_the_same_command_goes_on(tmp_path: Path, tiny_text: str) -> None:
    epochs, out, trained = 12, tmp_path / "out.txt", tmp_path / "trained.txt"
    (tmp_path / "noted.py").write_text(NOTED.format(file=str(trained)))
    file = tiny_study(tmp_path, f"plugins: [noted]\n{tiny_text}", epochs)
    with driver(file, out) as process:
        wait_until(lambda: min(progress(tmp_path)) > 0, out)
        process.kill()
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    before = {(cell.run_id, cell.ended) for cell in store.finished_cells().values()}
    with driver(file, out) as process:
        assert process.wait(300) == 0, out.read_text()
    assert before <= {(cell.run_id, cell.ended) for cell in whole_study(store, "tiny", epochs)}
    again = [epoch for epoch, times in Counter(trained.read_text().splitlines()).items() if times > 1]
    assert len(again) <= 2, again  # the epoch each of two trials was in


def test_an_experiment_deleted_under_its_driver_stops_it_and_costs_nothing_once_it_is_restored(
    tmp_path: Path, tiny_text: str
) -> None:
    """The message has the command that restores it, and the same command as before goes on."""
    epochs, out = 12, tmp_path / "out.txt"
    file = tiny_study(tmp_path, tiny_text, epochs)
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with driver(file, out) as process:
        wait_until(lambda: min(progress(tmp_path)) > 0, out)
        store.client.delete_experiment(store.experiment("tiny"))
        assert process.wait(300) == 2, out.read_text()
    message = out.read_text().rpartition("error: ")[2]
    (restore,) = re.findall(r"MLFLOW_TRACKING_URI=\S+ mlflow experiments restore --experiment-id \S+", message)
    assert re.search(r"[1-9]\d* records are kept in .*journal.jsonl and sent when the study is run again\n$", message)
    assert "Traceback" not in out.read_text()
    with driver(file, out) as process:
        assert process.wait(300) == 2
    assert restore in out.read_text()
    ended = progress(tmp_path)[0]
    subprocess.run(restore, shell=True, env=environment(), check=True)
    with driver(file, out) as process:
        assert process.wait(300) == 0, out.read_text()
    assert ended > 0
    whole_study(store, "tiny", epochs)
    doctor = [sys.executable, "-m", "tune_lt", "doctor", "tiny"]
    looked = subprocess.run(doctor, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (looked.returncode, looked.stdout.splitlines()[-1]) == (0, "problems: none")


def test_a_worker_that_is_killed_is_replaced_and_its_trial_goes_on(tmp_path: Path, tiny_text: str) -> None:
    epochs, out = 16, tmp_path / "out.txt"
    file = tiny_study(tmp_path, tiny_text, epochs, ("concurrent: 2", "concurrent: 1"))  # of two, one may be at its end
    with driver(file, out) as process:
        wait_until(lambda: progress(tmp_path)[1] > 0, out)
        members = psutil.Process(process.pid).children(recursive=True)
        titles = {member: " ".join(member.cmdline()) for member in members}
        workers = [member for member, title in titles.items() if title.startswith("ray::ImplicitFunc")]
        assert len(workers) == 1, titles
        workers[0].kill()
        assert process.wait(300) == 0, out.read_text()
    printed = out.read_text()
    assert "a trial is tried again" in printed
    resumed = [int(epoch) for epoch in re.findall(r"the trial goes on with epoch (\d+)", printed)]
    assert [epoch > 1 for epoch in resumed] == [True], printed  # from its state
    whole_study(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), "tiny", epochs)


class Server(NamedTuple):
    """A real MLflow server on SQLite: its URI, and how to kill and to start it."""

    uri: str
    kill: Callable[[], None]
    start: Callable[[], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (port,) = free_ports(1)
    folder = tmp_path / "server"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder)]
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # processes of no use here, whose start takes seconds
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with open(folder / "log.txt", "a") as log:
            options = {"cwd": folder, "env": environment(**own), "stdout": log, "stderr": log}
            running.append(subprocess.Popen(command, start_new_session=True, **options))  # type: ignore[call-overload]
        wait_until(lambda: answers(port), folder / "log.txt")

    def kill() -> None:
        while running:
            process = running.pop()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    try:
        start()
        yield Server(f"http://127.0.0.1:{port}", kill, start)
    finally:
        kill()


def test_a_tracking_server_that_is_away_for_a_while_costs_no_metric(
    tmp_path: Path, tiny_text: str, server: Server
) -> None:
    epochs, out = 20, tmp_path / "out.txt"
    with driver(tiny_study(tmp_path, tiny_text, epochs), out, MLFLOW_TRACKING_URI=server.uri) as process:
        wait_until(lambda: progress(tmp_path)[1] > 0, out)
        server.kill()
        wait_until(lambda: "the store does not answer; records wait in" in out.read_text(), out)
        server.start()
        assert process.wait(300) == 0, out.read_text()
    printed = out.read_text()
    assert "the store answers again" in printed
    assert "Traceback" not in printed
    whole_study(Store(server.uri), "tiny", epochs)
    assert not (tmp_path / ".tune_lt" / "tiny" / "journal.jsonl").exists()


def test_a_server_behind_tls_and_a_path_is_one_like_any_other(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = certificate(tmp_path / "own.pem")
    with serving(Proxy, own, location=server.uri) as https, serving(Answer, status=308, location=https) as http:
        with pytest.raises(InputError, match="certificate that is not accepted"):
            Store(f"{https}/mlflow")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(own))
        with pytest.raises(InputError, match=f"the URI with that path, such as {'https://host/mlflow'}"):
            Store(https)
        with pytest.raises(InputError, match=f"sends its clients to {https}/mlflow; valid: --store {https}/mlflow$"):
            Store(f"{http}/mlflow")
        store = Store(f"{https}/mlflow/")
        run = store.ensure_parent("s")
        store.begin(run, "text", {})
        store.put_json(store.client.get_run(run).info.artifact_uri, "a.json", {"a": 1})
        looked = Store(f"{https}/mlflow", write=False)
        assert looked.studies() == ["s"]
        assert (looked.read_text(run, "study.yaml"), looked.read_json(run, "a.json")) == ("text", {"a": 1})


def test_a_wheel_that_is_installed_elsewhere_runs_a_study(tmp_path: Path, tiny_text: str) -> None:
    pip, site = [sys.executable, "-m", "pip", "--disable-pip-version-check"], tmp_path / "site"
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(tmp_path / "dist"), str(ROOT)], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)
    where = [sys.executable, "-c", "import tune_lt; print(tune_lt.__file__)"]
    options = {"cwd": tmp_path, "env": environment(PYTHONPATH=str(site)), "check": True, "capture_output": True}
    assert Path(subprocess.run(where, text=True, **options).stdout).is_relative_to(site)
    bundled = subprocess.run([sys.executable, "-m", "tune_lt", "plan", "digits"], text=True, **options).stdout
    assert "cells" in bundled
    file, out = tiny_study(tmp_path, tiny_text, 2, ("trials: 5", "trials: 2"), ("[0, 1]", "[0]")), tmp_path / "out.txt"
    with driver(file, out, PYTHONPATH=str(site)) as process:
        assert process.wait(300) == 0, out.read_text()
    baselines = pd.read_csv(tmp_path / "reports" / "tiny" / "baselines.csv")
    assert set(baselines["row"]) >= {"softmax", "ldam+drw"}
    cells = Store(f"sqlite:///{tmp_path / 'mlflow.db'}").finished_cells()
    assert {cell.tags["git"] for cell in cells.values()} == {"tune-lt 0.1.0"}
    wait_until(lambda: not _with_path(site), out)  # Ray and all it started is gone


def _with_path(site: Path) -> list[psutil.Process]:
    """The processes that were given this PYTHONPATH: the study's, and what they started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it ended while we looked
            found += [process] if process.environ().get("PYTHONPATH") == str(site) else []
    return found
