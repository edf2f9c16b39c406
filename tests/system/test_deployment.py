"""The whole service on hosts of its own: Postgres, S3, MLflow with users, Ray with a token; who may, what survives."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from processes import HELD, environment, progress, wait_until, whole_study

from tune_lt.store import Cells, Store

pytest.importorskip("boto3", reason="the extra dev has what the service needs")
import service as lab
from service import POSTGRES, Service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("hosts"),  # they have fixed addresses
    pytest.mark.skipif(bool(lab.missing()), reason=f"several hosts need {', '.join(lab.missing())}"),
]
AWAY_SECONDS = 30
SLOW = """\
# A step takes at least 20 ms, on a fast machine too: the study must last longer than what fails under it.
import time
from torch.optim.optimizer import register_optimizer_step_pre_hook

register_optimizer_step_pre_hook(lambda *_: time.sleep(0.02))
"""
GRID_EPOCHS = 30


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with lab.service(tmp_path_factory.mktemp("service")) as started:
        yield started


def call(running: Service, *arguments: str, cwd: Path, seconds: float = 240, **changed: str) -> tuple[int, str]:
    """The command line on a laptop -> exit code, everything it printed."""
    command = [sys.executable, "-m", "tune_lt", *arguments]
    options = {"cwd": cwd, "env": running.client(**changed), "timeout": seconds}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    return done.returncode, done.stdout


def submitted(running: Service, file: Path, out: Path, **changed: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tune_lt", "submit", str(file), "--address", running.address, "--follow"]
    with open(out, "w") as log:
        return subprocess.Popen(
            [*command, "--store", running.store], cwd=file.parent, env=running.client(**changed), stdout=log, stderr=log
        )


def study(folder: Path, text: str, name: str, epochs: int) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(
        text.replace("name: tiny", f"name: {name}")
        .replace("epochs: 4", f"epochs: {epochs}")
        .replace("concurrent: 2", "concurrent: 2, checkpoint_seconds: 0")
    )
    return file


def reached(running: Service, name: str) -> tuple[int, int]:
    """What `progress` says of a study that was submitted."""
    folders = list(running.home.glob(f"tune_lt/{name}-*"))
    return progress(folders[0], name) if folders else (0, 0)


def whole(running: Service, name: str, epochs: int, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """The study's cells, each checked to be one run, ended, with an unbroken curve and its artifact."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", lab.ADA)
    return whole_study(Store(running.store), name, epochs)


def driver(running: Service) -> list[psutil.Process]:
    """The processes of studies on the cluster's head."""
    found = [psutil.Process(pid) for pid in running.hosts.running("ray-head")]
    return [one for one in found if one.cmdline()[1:4] == ["-m", "tune_lt", "run"]]


@pytest.mark.parametrize(
    ("changed", "command", "told"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": "wrong-password"}, "status", "refuses the user 'ada' or this password; valid: "),
        ({"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}, "status", "asks for a user name and a "),
        ({"MLFLOW_TRACKING_PASSWORD": "", "MLFLOW_TRACKING_PASSWORD_FILE": "/no/such"}, "status", "cannot be read (No"),
        ({"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "another-" * 5}, "submit", "refuses access (Auth"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""}, "submit", "valid: RAY_AUTH_MODE=token and "),
    ],
)
def test_who_may_not_is_told_so_in_one_line(
    running: Service, tmp_path: Path, tiny_text: str, changed: dict[str, str], command: str, told: str
) -> None:
    file = study(tmp_path, tiny_text, "refused", 4)
    arguments = [command, str(file), "--address", running.address] if command == "submit" else [command]
    code, printed = call(running, *arguments, "--store", running.store, cwd=tmp_path, **changed)
    assert (code, printed.count("\n"), printed.startswith("error: ")) == (2, 1, True), printed
    assert told in printed


def test_every_door_is_closed_to_strangers(running: Service) -> None:
    store, ray = running.store, running.address
    for path in (
        "/",
        "/version",
        "/graphql",
        "/api/2.0/mlflow/experiments/search",
        "/api/2.0/mlflow-artifacts/artifacts",
    ):
        assert requests.get(store + path, timeout=20).status_code == 401, path
        assert requests.get(store + path, timeout=20, auth=("admin", "password")).status_code == 401, path
    assert requests.get(store, timeout=20, headers={"Host": "elsewhere.example"}).status_code == 403
    for path in ("/api/jobs/", "/api/version", "/nodes"):
        assert requests.get(ray + path, timeout=20).status_code == 401
        wrong = {"Authorization": "Bearer " + "0" * 40}
        assert requests.get(ray + path, timeout=20, headers=wrong).status_code == 403
    stranger = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="another-" * 5)
    node = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={running.hosts.at('ray-head')}:6379"]
    joined = subprocess.run(node, env=stranger, capture_output=True, text=True, timeout=60)
    assert joined.returncode != 0
    assert "InvalidAuthToken" in joined.stdout + joined.stderr
    with pytest.raises(Exception, match="SignatureDoesNotMatch"):
        running.objects("wrong").list_buckets()


@pytest.fixture(scope="module")
def grid(running: Service, tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """The folder of a study that was submitted and whose driver was killed, with what was printed as ``out.txt``."""
    folder = tmp_path_factory.mktemp("grid")
    file, out = study(folder, tiny_text, "grid", GRID_EPOCHS), folder / "out.txt"
    process = submitted(running, file, out)
    wait_until(lambda: reached(running, "grid")[1] > 0, out)
    (first,) = driver(running)
    first.kill()
    assert process.wait(240) == 0, out.read_text()
    return folder


def test_a_study_outlives_its_driver_and_shows_no_secret(
    running: Service, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = (grid / "out.txt").read_text()
    assert printed.count("signal 9 killed the study's driver") == 1
    assert "SUCCEEDED" in printed
    assert "Traceback" not in printed
    assert len(whole(running, "grid", GRID_EPOCHS, monkeypatch)) == 11

    # on a laptop: what Ada may read, and the report that the job has left in the object store
    code, told = call(running, "status", "grid", "--store", running.store, cwd=tmp_path)
    assert (code, "cells of the tables: 6 of 6" in told) == (0, True), told
    code, told = call(running, "report", "grid", "--store", running.store, cwd=tmp_path)
    assert code == 0, told
    assert "margin+weight_aura" in told
    assert "written to reports/grid/\n" in told
    bucket = running.objects().list_objects_v2(Bucket="mlflow")["Contents"]
    assert [key["Key"] for key in bucket if key["Key"].endswith("/report/report.html")]

    # nowhere a secret: what nodes and servers printed, Ray's sessions, checkpoints, artifacts, the database, the jobs
    code, plan = call(running, "plan", str(grid / "grid.yaml"), "--store", running.store, cwd=tmp_path)
    assert code == 0, plan
    token = {"Authorization": f"Bearer {running.secret('ray_token')}"}
    jobs = requests.get(f"{running.address}/api/jobs/", headers=token, timeout=20).text
    assert "tune_lt-grid-" in jobs
    seen = {"plan": plan.encode(), "jobs": jobs.encode(), "printed": printed.encode(), "dump": dump(running)}
    seen |= {key["Key"]: running.objects().get_object(Bucket="mlflow", Key=key["Key"])["Body"].read() for key in bucket}
    for place in (running.folder, grid, tmp_path):
        files = [path for path in place.rglob("*") if path.is_file() and running.secrets not in path.parents]
        seen |= {str(path): path.read_bytes() for path in files}
    seen |= {f"process {pid}": b" ".join(map(str.encode, psutil.Process(pid).cmdline())) for pid in everybody(running)}
    assert len(seen) > 100
    found = {
        (name, place)
        for name, secret in running.all_secrets().items()
        for place in seen
        if secret.encode() in seen[place]
    }
    assert not found


def test_two_people_share_a_cluster(
    running: Service, tmp_path: Path, tiny_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ben = {"MLFLOW_TRACKING_USERNAME": "ben", "MLFLOW_TRACKING_PASSWORD": "ben-s-own-password-9876543210"}
    assert running.mlflow("POST", "users/create", username="ben", password=ben["MLFLOW_TRACKING_PASSWORD"]).ok
    epochs = {"of-ada": 6, "of-ben": 7}  # other ones than any study here: no cell is shared
    let_go = tmp_path / "let_go"
    (tmp_path / "held.py").write_text(HELD.format(file=str(let_go)))
    outs, processes = {name: tmp_path / f"{name}.txt" for name in epochs}, {}
    for name, who in (("of-ada", {}), ("of-ben", ben)):
        file = study(tmp_path, f"plugins: [held]\n{tiny_text}", name, epochs[name])
        file.write_text(file.read_text().replace("concurrent: 2", "concurrent: 1"))  # a processor for each of them
        processes[name] = submitted(running, file, outs[name], **who)
    for out in outs.values():
        wait_until(lambda out=out: "1 running" in out.read_text(), out)  # side by side
    let_go.touch()
    for name, process in processes.items():
        assert process.wait(240) == 0, outs[name].read_text()
        whole(running, name, epochs[name], monkeypatch)


def everybody(running: Service) -> list[int]:
    return [pid for name in lab.NAMES for pid in running.hosts.running(name)]


def dump(running: Service) -> bytes:
    """The store as docker/README.md backs it up."""
    at = ["-h", running.hosts.at("postgres"), "-U", "mlflow"]
    env = environment(PGPASSWORD=running.secret("postgres_password"))
    command = [str(POSTGRES / "pg_dumpall"), *at, "--clean", "--if-exists"]
    return subprocess.run(command, env=env, check=True, capture_output=True, timeout=60).stdout


def test_what_fails_under_a_study_costs_no_cell_and_no_metric(
    running: Service, tmp_path: Path, tiny_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = 90
    (tmp_path / "slow.py").write_text(SLOW)
    file, out = study(tmp_path, f"plugins: [slow]\n{tiny_text}", "faults", epochs), tmp_path / "out.txt"
    process = submitted(running, file, out)
    began = time.monotonic()
    figures: dict[str, float] = {}

    def after(words: str) -> float:
        """Seconds until the study says so."""
        asked, before = time.monotonic(), out.read_text().count(words)
        wait_until(lambda: out.read_text().count(words) > before, out)
        return time.monotonic() - asked

    wait_until(lambda: reached(running, "faults")[1] == 2, out)
    figures["both trials are under way"] = time.monotonic() - began
    running.hosts.cut("rustfs")
    ended = reached(running, "faults")[0]
    wait_until(lambda: reached(running, "faults")[0] > ended, out)  # its scores belong into the object store
    time.sleep(AWAY_SECONDS)
    running.hosts.join("rustfs")
    figures["the object store was away when a trial ended"] = time.monotonic() - began

    wait_until(lambda: reached(running, "faults")[1] == 2, out)
    running.hosts.cut("worker1")
    figures["a worker's host is cut off; its trial goes on elsewhere"] = after("the trial goes on with epoch")
    running.hosts.join("worker1")  # its node, given up by now, ends; the engine starts it anew
    running.hosts.stop("worker1")
    running.start_ray("worker1")

    running.hosts.stop("mlflow", signal.SIGTERM)
    running.start_mlflow()
    figures["the tracking server is stopped and started; records flow"] = after("the store answers again")
    running.stop_database()
    time.sleep(5)
    running.start_database()
    figures["the database is stopped and started, five seconds later"] = time.monotonic() - began
    assert process.poll() is None, "the study ended before the last fault"
    assert process.wait(400) == 0, out.read_text()
    figures["the whole study"] = time.monotonic() - began
    print("\n".join(f"{what}: {seconds:.1f} s" for what, seconds in figures.items()))
    printed = out.read_text()
    print(printed)
    assert "Traceback" not in printed
    resumed = [int(epoch) for epoch in re.findall(r"the trial goes on with epoch (\d+)", printed)]
    assert resumed
    assert all(epoch > 1 for epoch in resumed), printed
    whole(running, "faults", epochs, monkeypatch)
    assert not list(running.home.glob("tune_lt/faults-*/.tune_lt/faults/journal.jsonl"))


@pytest.mark.usefixtures("grid")
def test_a_backup_is_restored_as_the_readme_says(running: Service, tmp_path: Path) -> None:
    _, before = call(running, "report", "grid", "--store", running.store, cwd=tmp_path)
    (tmp_path / "store.sql.gz").write_bytes(gzip.compress(dump(running)))
    client = running.objects()
    keys = [key["Key"] for key in client.list_objects_v2(Bucket="mlflow")["Contents"]]
    objects = {key: client.get_object(Bucket="mlflow", Key=key)["Body"].read() for key in keys}
    for name in ("mlflow", "postgres", "rustfs"):
        running.hosts.stop(name, signal.SIGINT)

    running.make_database()  # in a folder of its own: nothing of the old one is there
    assert running.query("SELECT 1 FROM pg_tables WHERE tablename = 'runs'") == []
    restore = [str(POSTGRES / "psql"), "-q", "-h", running.hosts.at("postgres"), "-U", "mlflow", "-d", "postgres"]
    env = environment(PGPASSWORD=running.secret("postgres_password"))
    text = gzip.decompress((tmp_path / "store.sql.gz").read_bytes())
    told = subprocess.run(restore, env=env, input=text, check=True, capture_output=True, timeout=120).stderr.decode()
    errors = [line for line in told.splitlines() if "ERROR" in line]
    assert all("current user cannot be dropped" in line or 'role "mlflow" already exists' in line for line in errors), (
        told
    )
    running.start_objects()
    running.objects().create_bucket(Bucket="mlflow")
    for key, content in objects.items():
        running.objects().put_object(Bucket="mlflow", Key=key, Body=content)
    running.start_mlflow()
    running.wait_for_mlflow()
    code, after = call(running, "report", "grid", "--store", running.store, cwd=tmp_path)
    assert (code, after) == (0, before)
    assert os.path.exists(tmp_path / "reports" / "grid" / "report.html")
