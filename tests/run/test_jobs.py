"""`tune-lt submit`: what is refused and what is sent; and, slowly, a study on a real cluster with a real server."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import answers, environment, free_ports, wait_until

from tune_lt.run import jobs
from tune_lt.store import Store

pytestmark = pytest.mark.long
Call = Callable[..., tuple[int, str, str]]
CLUSTER, SERVER = "http://ray.example:8265", "http://mlflow.example:5000"
ROOT = Path(__file__).parents[2]
FOLDER = """\
name: folder
data: {name: image_folder, root: ROOT, size: 8}
model: {name: resnet8, width: 4}
loss: {name: softmax}
rows: {softmax: {loss: {name: softmax}}}
"""
PLUGIN = """\
from tune_lt import losses
from tune_lt.losses.reweighting import Focal
from power import POWER  # noqa

@losses.register("submitted")
class Submitted(Focal):
    pass
"""
HELD = """\
# A process's first cell is trained to its end, the next one waits for a file.
import time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook

optimizers = []

def hold(optimizer, *_):
    optimizers[:] = optimizers if optimizer in optimizers else [*optimizers, optimizer]
    while len(optimizers) > 1 and not Path({file!r}).exists():
        time.sleep(0.1)

register_optimizer_step_pre_hook(hold)
"""


@pytest.fixture
def study(tmp_path: Path, tiny_text: str) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny_text)
    return file


def test_the_same_study_has_the_same_job_and_another_one_has_not(study: Path, tmp_path: Path) -> None:
    first = jobs.prepare(study, SERVER, CLUSTER).job
    assert re.fullmatch(r"tune_lt-tiny-[0-9a-f]{12}", first)
    assert jobs.prepare(study, SERVER + "/", CLUSTER).job == first
    moved = shutil.copy(study, tmp_path / "copy")
    assert jobs.prepare(study, "http://other.example:5000", CLUSTER).job != first
    study.write_text(study.read_text().replace("trials: 5", "trials: 6"))
    assert jobs.prepare(study, SERVER, CLUSTER).job != first
    shutil.copy(moved, study)
    assert jobs.prepare(study, SERVER, CLUSTER).job == first


def test_the_small_form_is_another_job(study: Path) -> None:
    study.write_text(study.read_text() + "small: {seeds: [7]}\n")
    full, small = (jobs.prepare(study, SERVER, CLUSTER, small) for small in (False, True))
    assert (full.study, small.study) == ("tiny", "tiny-small")
    assert full.job != small.job
    assert ("--small" in full.script, 'run "$here"/tiny.yaml --small \\\n' in small.script) == (False, True)


def test_a_name_that_no_address_can_hold_still_makes_a_job(study: Path) -> None:
    study.write_text(study.read_text().replace("name: tiny", "name: größe+1"))
    assert re.fullmatch(r"tune_lt-gr--e-1-[0-9a-f]{12}", jobs.prepare(study, SERVER, CLUSTER).job)


def test_the_plugins_and_what_they_import_are_sent_and_nothing_else(tmp_path: Path, tiny_text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("plugins: [submitted_plugin]\n" + tiny_text)
    (tmp_path / "submitted_plugin.py").write_text(PLUGIN.replace("power", "helpers_of_mine.power"))
    (tmp_path / "helpers_of_mine").mkdir()
    (tmp_path / "helpers_of_mine" / "__init__.py").write_text("")
    (tmp_path / "helpers_of_mine" / "power.py").write_text("POWER = 2\n")
    (tmp_path / "unused.py").write_text("")
    (tmp_path / "image.png").write_bytes(b"large")
    handover = jobs.prepare(file, SERVER, CLUSTER)
    helpers = ["helpers_of_mine/__init__.py", "helpers_of_mine/power.py"]
    assert sorted(handover.files) == [*helpers, "mine.yaml", "submitted_plugin.py"]
    (tmp_path / "helpers_of_mine" / "power.py").write_text("POWER = 3\n")
    assert jobs.prepare(file, SERVER, CLUSTER).job != handover.job


@pytest.mark.parametrize(
    ("root", "store", "address", "message"),
    [
        ("images", SERVER, CLUSTER, "data.root: found 'images'; valid: an absolute path"),
        ("/images", None, CLUSTER, "--store: missing; a cluster needs an MLflow server"),
        ("/images", "sqlite:////shared/mlflow.db", CLUSTER, "--store: found sqlite:////shared/mlflow.db; valid"),
        ("/images", "postgresql://me:secret@db/mlflow", CLUSTER, "found postgresql://me:***@db/mlflow; valid"),
        ("/images", "http://me:secret@mlflow.example", CLUSTER, "put name and password into MLFLOW_TRACKING_USERNAME"),
        ("/images", "http://localhost:5000", CLUSTER, "on the cluster http://ray.example:8265 that is the cluster"),
    ],
)
def test_what_a_cluster_could_not_use_is_refused(
    cli: Call, tmp_path: Path, root: str, store: str | None, address: str, message: str
) -> None:
    file = tmp_path / "folder.yaml"
    file.write_text(FOLDER.replace("ROOT", root))
    option = ["--store", store] if store else []
    code, out, err = cli("submit", str(file), "--address", address, *option)
    assert (code, out) == (2, "")
    assert message in err
    assert "secret" not in err


def test_a_local_server_goes_with_a_local_cluster(study: Path) -> None:
    handover = jobs.prepare(study, "http://localhost:5000", "http://127.0.0.1:8265")
    assert "--store http://localhost:5000 " in handover.script


@pytest.mark.parametrize(
    ("codes", "ends", "begun"),
    [((0,), 0, 1), ((1,), 1, 1), ((130,), 130, 1), ((137, 0), 0, 2), ((139, 137), 137, 2)],
)
def test_a_job_begins_once_more_when_a_signal_ended_its_driver(
    study: Path, tmp_path: Path, codes: tuple[int, ...], ends: int, begun: int
) -> None:
    script = jobs.prepare(study, SERVER, CLUSTER).script
    python = tmp_path / "python"  # in place of the driver: ends with one code after the other
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    python.write_text(
        f"""#!/bin/sh
[ "$3" = --version ] && echo tune-lt && exit 0
code=$(head -n 1 {tmp_path}/codes); sed -i 1d {tmp_path}/codes; echo begun; exit "$code"
"""
    )
    python.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(["sh", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("begun")) == (ends, begun), done.stdout + done.stderr


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8265", "auto", "http://"])
def test_an_address_of_another_kind_is_refused(cli: Call, study: Path, address: str) -> None:
    code, _, err = cli("submit", str(study), "--address", address, "--store", SERVER)
    assert (code, err.startswith(f"error: --address: found '{address}'; valid: ")) == (2, True)


def test_an_address_without_a_dashboard_is_refused_with_the_reason(cli: Call, study: Path, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    code, _, err = cli("submit", str(study), "--address", address, "--store", SERVER)
    assert (code, f"--address {address}: found no Ray dashboard there (Connection refused)" in err) == (2, True)
    handler = functools.partial(_Silent, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        code, _, err = cli("submit", str(study), "--address", address, "--store", SERVER)
        server.shutdown()
    assert (code, f"--address {address}: found no Ray dashboard there (Version check returned 404)" in err) == (2, True)


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Lab(NamedTuple):
    """A cluster that asks for a token and an MLflow server: their addresses, the token, the cluster's home folder."""

    address: str
    store: str
    token: str
    home: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A real Ray head with its Jobs API, and a real MLflow server on SQLite; both ended with all their children."""
    folder = tmp_path_factory.mktemp("lab")
    short = tempfile.mkdtemp(prefix="tlr")  # Ray puts sockets there, whose names may not be long
    gcs, dashboard, client, agent, grpc, metrics, runtime, mlflow = free_ports(8)
    token = "a-token-of-the-tests-0123456789abcdef"
    secured = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "HOME": str(folder)}
    secured |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # nobody waits for what still runs
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    ray += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={short}", "--disable-usage-stats"]
    ray += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    ray += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    ray += [f"--dashboard-agent-grpc-port={grpc}", f"--metrics-export-port={metrics}"]
    ray += [f"--runtime-env-agent-port={runtime}", "--object-store-memory=200000000"]
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow), "--workers", "1"]
    server += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    server += ["--artifacts-destination", str(folder / "artifacts")]
    running = []
    try:
        for name, command, extra in (("ray", ray, secured), ("mlflow", server, {})):
            with open(folder / f"{name}.txt", "w") as log:
                options = {"cwd": folder, "env": environment(**extra), "stdout": log, "stderr": log}
                running.append(subprocess.Popen(command, start_new_session=True, **options))  # type: ignore[call-overload]
        for name, port in (("ray", dashboard), ("mlflow", mlflow)):
            wait_until(lambda port=port: answers(port), folder / f"{name}.txt")
        yield Lab(f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{mlflow}", token, folder)
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(short, ignore_errors=True)


def _start(file: Path, lab: Lab, out: Path, *options: str, **changed: str) -> subprocess.Popen[bytes]:
    """Begin `tune-lt submit` with the cluster's token; a RAY_ADDRESS of another cluster must not matter."""
    command = [sys.executable, "-m", "tune_lt", "submit", str(file), "--address", lab.address]
    extra = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": lab.token, "RAY_ADDRESS": "http://127.0.0.1:1"}
    extra |= {"MLFLOW_TRACKING_PASSWORD": "not-to-be-seen", "MLFLOW_TRACKING_USERNAME": "me"} | changed
    with open(out, "w") as stream:
        return subprocess.Popen(
            [*command, "--store", lab.store, *options],
            cwd=file.parent, env=environment(**extra), stdout=stream, stderr=stream,
        )  # fmt: skip


def _submit(file: Path, lab: Lab, out: Path, *options: str, **changed: str) -> tuple[int, str]:
    code = _start(file, lab, out, *options, **changed).wait(240)
    return code, out.read_text()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("aiohttp_cors") is None, reason="Ray's Jobs server needs ray[default]")
def test_a_study_on_a_cluster_runs_once_however_often_it_is_submitted(
    lab: Lab, tmp_path: Path, tiny_text: str, cli: Call
) -> None:
    file, out, let_go = tmp_path / "tiny.yaml", tmp_path / "out.txt", tmp_path / "let_go"
    file.write_text(f"plugins: [held]\n{tiny_text}")
    (tmp_path / "held.py").write_text(HELD.format(file=str(let_go)))

    # two at the same moment: one job; who may not, is told so
    outs = [tmp_path / f"out{number}.txt" for number in range(4)]
    started = [_start(file, lab, out) for out in outs[:2]]
    started.append(_start(file, lab, outs[2], RAY_AUTH_TOKEN="another-token-0123456789abcdef01234"))
    started.append(_start(file, lab, outs[3], RAY_AUTH_MODE="disabled"))
    codes = [process.wait(120) for process in started]
    printed = [out.read_text() for out in outs]
    assert codes == [0, 0, 2, 2], printed
    for text, found in zip(printed[2:], ("Invalid authentication token", "Missing authentication token"), strict=True):
        assert re.search(rf"{lab.address}: the cluster refuses access \(.*{found}\); valid: RAY_AUTH_MODE=token", text)
    assert "Traceback" not in "".join(printed)
    first, second = sorted(printed[:2], key=lambda text: "nothing is run twice" in text)
    submitted = re.match(r"job (tune_lt-tiny-[0-9a-f]{12}): submitted\n", first)
    assert submitted, first
    job = submitted[1]
    assert second.startswith((f"job {job}: PENDING", f"job {job}: RUNNING"))

    # another version of the study waits for it; Ctrl-C leaves it running
    other = tmp_path / "other" / "tiny.yaml"
    other.parent.mkdir()
    other.write_text(file.read_text() + "# changed\n")
    shutil.copy(tmp_path / "held.py", other.parent)
    code, text = _submit(other, lab, out)
    assert (code, f"with another content as job {job}; wait for it, or stop it: ray job stop" in text) == (2, True), (
        text
    )
    following = _start(file, lab, out, "--follow")
    wait_until(lambda: "search: " in out.read_text(), out)
    following.send_signal(signal.SIGINT)
    assert following.wait(60) == 130
    assert f"the job {job} goes on without you" in out.read_text()

    # stopped, it is submitted under the next number, and goes on
    stop = [sys.executable, "-m", "ray.scripts.scripts", "job", "stop", "--address", lab.address, job]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": lab.token}
    subprocess.run(stop, env=environment(**token), check=True, capture_output=True, timeout=120)
    let_go.touch()
    code, text = _submit(file, lab, out, "--follow")
    assert code == 0, text
    assert text.startswith(f"job {job}-2: submitted; {job} STOPPED, what it finished is reused\n")
    assert "tables: 6 cells" in text
    assert f"job {job}-2: SUCCEEDED" in text
    assert "not-to-be-seen" not in text

    # done is done
    code, text = _submit(file, lab, out, "--follow")
    assert (code, f"job {job}-2: SUCCEEDED; not run again" in text) == (0, True), text

    # everything is on the server, once, and what was in flight on the cluster's own disk
    cells = Store(lab.store).cells("tiny")
    assert len({cell.tags["key"] for cell in cells}) == len(cells) == 11
    code, report, err = cli("report", "tiny", "--store", lab.store, cwd=tmp_path)
    assert (code, "margin+weight_aura" in report) == (0, True), err
    (state,) = (lab.home / "tune_lt").iterdir()
    assert (state / "reports" / "tiny").is_dir()
    assert (state / ".tune_lt" / "tiny").is_dir()
