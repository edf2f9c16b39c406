"""Handing a study to a Ray cluster through its Jobs API, so that handing it over twice runs it once.

A job's id is made of the study's name and a hash of all that is handed over. Ray takes an id only once: whoever comes
second finds the job and follows it. A job that failed or was stopped is followed by one with the next number, since
`tune-lt run` goes on from what is finished.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml

from tune_lt import __version__
from tune_lt.config import RESULT_VERSION
from tune_lt.errors import InputError
from tune_lt.store import redacted
from tune_lt.study import reader

RAY_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray's client would take these instead of ours
LOCAL = ("localhost", "127.0.0.1", "::1")
STUDY_LABEL, STORE_LABEL = "tune_lt.study", "tune_lt.store"  # in a job's metadata
ALIVE = ("PENDING", "RUNNING")
SCRIPT = "tune_lt_job.sh"
ANSWER_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # of a log, until the job is asked whether it still runs
LOST_SECONDS = 60.0
SERVER = "mlflow server --host 0.0.0.0 --backend-store-uri sqlite:///mlflow.db starts one"


@dataclass(frozen=True)
class Handover:
    """What a cluster gets to run a study: ``files`` maps paths in the job's folder to files here.

    ``job`` is the id of its first job, ``store`` the URI of the MLflow server, ``script`` what the job's shell does.
    """

    study: str
    job: str
    store: str
    script: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Job:
    """A job of the cluster. ``outcome``: "submitted" now, "attached" to one alive, or "done" some time ago.

    ``before`` tells why an earlier job was not enough, in words; empty where there was none.
    """

    id: str
    outcome: str
    state: str
    started: float
    before: str = ""


def prepare(file: Path, store: str | None, address: str, small: bool = False) -> Handover:
    """Read a study file and decide what is handed over. Raises InputError for what could not run on a cluster."""
    study = reader.read(file, small)
    uri = _check_store(store, address)
    root = reader.content(yaml.safe_load(study.text), small)["data"].get("root")
    if isinstance(root, str) and not Path(root).expanduser().is_absolute():  # ~ is the job's home on the cluster
        raise InputError(
            f"{file}: data.root: found {root!r}; valid: an absolute path under which every node of the cluster finds "
            "the images, which are not sent along"
        )
    files = {file.name: file} | {
        path.relative_to(study.folder).as_posix(): path for path in _own_modules(study.sources, study.folder)
    }
    content = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    digest = _digest([content, dict(study.sources), uri, study.scale, RESULT_VERSION])
    return Handover(
        study=study.name,
        job=f"tune_lt-{re.sub(r'[^A-Za-z0-9_.-]', '-', study.name)[:60]}-{digest[:12]}",
        store=uri,
        script=_script(file.name, small, f"{study.name}-{_digest(uri)[:8]}", uri),
        files=files,
    )


def submit(handover: Handover, client: Any, *, again: bool = False) -> Job:
    """The job that runs the study: found among the cluster's, or started. ``again``: even after one that succeeded.

    Raises InputError where an older version of the study is still running on the same store.
    """
    while True:
        jobs = _jobs(client)
        latest = max((_number(handover.job, name) for name in jobs), default=0)
        before = ""
        if latest:
            job = jobs[_numbered(handover.job, latest)]
            if job.status in ALIVE:
                return _job(job, "attached")
            if job.status == "SUCCEEDED" and not again:
                return _job(job, "done")
            before = f"{job.submission_id} {ended(job)}"
        for other in jobs.values():
            labels = other.metadata or {}
            same = (labels.get(STUDY_LABEL), labels.get(STORE_LABEL)) == (handover.study, handover.store)
            if same and other.status in ALIVE:
                raise InputError(
                    f"the study {handover.study!r} is {other.status} with another content as job "
                    f"{other.submission_id}; wait for it, or stop it: {stop_command(client, other.submission_id)}"
                )
        name = _numbered(handover.job, latest + 1)
        try:
            _start(handover, client, name)
        except (requests.RequestException, RuntimeError) as error:
            if name in _jobs(client):
                continue  # somebody was faster, or the answer was lost: attach
            raise InputError(f"the cluster did not take the job {name}: {_last_line(error)}") from None
        return Job(name, "submitted", "PENDING", time.time(), before)


def connect(address: str) -> Any:
    """A client of the cluster's Jobs API (`ray.job_submission.JobSubmissionClient`).

    Raises InputError if there is none at ``address`` or it does not let us in.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"--address: found {address!r}; valid: the address of the Ray dashboard, such as http://head:8265"
        )
    try:
        answer = requests.get(f"{address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        raise InputError(
            f"--address {address}: nothing answers there ({_reason(error)}); it must be the dashboard of a running "
            "cluster (port 8265 unless told otherwise), whose head has ray[default] installed"
        ) from None
    secured = answer.status_code in (401, 403)
    if not secured and not (answer.ok and "ray_version" in answer.text):
        raise InputError(
            f"--address {address}: what answers there is no Ray dashboard (HTTP {answer.status_code}); "
            "valid: its address, such as http://head:8265"
        )
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for noisy in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{noisy}").setLevel(logging.ERROR)
    try:
        with _without(RAY_ADDRESSES):
            return JobSubmissionClient(address)
    except AuthenticationError as error:
        refused = str(error).startswith("Authentication failed")
        found = "refuses this token" if refused else "asks for a token" if secured else "could not be asked"
        detail = "" if secured and os.environ.get("RAY_AUTH_MODE") != "token" else f" ({_first_sentence(error)})"
        raise InputError(
            f"--address {address}: the cluster {found}{detail}; valid: RAY_AUTH_MODE=token and the cluster's token in "
            "RAY_AUTH_TOKEN or in the file RAY_AUTH_TOKEN_PATH"
        ) from None
    except (requests.RequestException, RuntimeError, OSError) as error:
        raise InputError(f"--address {address}: the cluster's Jobs API cannot be used: {_last_line(error)}") from None


def follow(client: Any, job: str) -> bool:
    """Print the job's log until it ends; whether it succeeded. A lost connection is taken up where it broke.

    Raises InputError after a minute without any answer.
    """
    log = _Log()
    while True:
        trouble: Exception | None = None
        try:
            asyncio.run(log.show(client, job))
            info = client.get_job_info(job)
            log.heard = time.monotonic()
            if info.status.is_terminal():
                print(f"job {job}: {ended(info)}", flush=True)
                return bool(info.status == "SUCCEEDED")
        except Exception as error:  # of requests or aiohttp, or a RuntimeError of Ray's client
            trouble = error
        if time.monotonic() - log.heard > LOST_SECONDS:
            raise InputError(
                f"{client.get_address()}: no contact for {LOST_SECONDS:.0f} s ({_reason(trouble)}); the job {job} may "
                "go on, the same command follows it again"
            )
        time.sleep(1)


def stop_command(client: Any, job: str) -> str:
    """What to type to stop a job."""
    return f"ray job stop --address {client.get_address()} {job}"


def ended(info: Any) -> str:
    """How a job ended, in words: its state and, if it failed, the reason in one line."""
    reason = (info.message or "").split("\n")[0].split(", last available logs")[0]
    return f"{info.status} ({reason})" if reason and info.status == "FAILED" else str(info.status)


class _Log:
    """A job's log as far as it was printed; a second reading, which begins anew, repeats nothing.

    ``heard`` is when the cluster last answered.
    """

    def __init__(self) -> None:
        self._printed = 0
        self.heard = time.monotonic()

    async def show(self, client: Any, job: str) -> None:
        """Print what comes until the server ends the log; raise where it fails."""
        position = 0
        chunks = client.tail_job_logs(job)
        while True:
            coming = asyncio.ensure_future(anext(chunks, None))
            while not (await asyncio.wait({coming}, timeout=SILENCE_SECONDS))[0]:
                await asyncio.to_thread(client.get_job_info, job)  # a host that vanished does not close its connections
                self.heard = time.monotonic()
            text = coming.result()
            if text is None:
                return
            self.heard = time.monotonic()
            new = text[max(0, self._printed - position) :]
            position += len(text)
            if new:
                print(new, end="", flush=True)
                self._printed = position


def _script(file: str, small: bool, folder: str, store: str) -> str:
    """The job, for the head node's shell. Journal, checkpoints and reports go where they outlive the job's folder.

    A driver that a signal ends (which is 128 and its number, to a shell) begins once more; to be stopped is no reason,
    since that signal goes to the shell too.
    """
    return f"""\
found=$(python -m tune_lt.cli --version 2>/dev/null) || {{
  echo "error: tune-lt is not installed on the head node of this cluster; install tune-lt {__version__} on every node"
  exit 2
}}
[ "$found" = "tune-lt {__version__}" ] || echo "warning: $found is here, tune-lt {__version__} submitted the study"
here=$PWD
state=$HOME/tune_lt/{shlex.quote(folder)}
mkdir -p "$state" && cd "$state" || exit 2
echo "$found on $(hostname), in $state"
run() {{
  python -m tune_lt.cli run "$here"/{shlex.quote(file)}{" --small" if small else ""} \\
    --store {shlex.quote(store)} --reports reports
}}
run
code=$?
if [ $code -gt 128 ] && [ $code -ne 130 ]; then
  echo "warning: the study's driver died of signal $((code - 128)); it begins once more, and goes on"
  run
  code=$?
fi
exit $code
"""


def _check_store(store: str | None, address: str) -> str:
    """The URI of an MLflow server that the cluster can be expected to reach."""
    uri = store or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise InputError(f"--store: missing; a cluster needs an MLflow server that it can reach, http://...; {SERVER}")
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"--store: found {redacted(uri)}; valid for a cluster: an MLflow server, http://... or https://..., since "
            f"a file or a database behind it is not what both the cluster and this machine see; {SERVER}"
        )
    if parts.username or parts.password:
        raise InputError(
            f"--store: found {redacted(uri)}; a job's command is shown to everyone on the cluster: put name and "
            "password into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, here and where its head is started"
        )
    if parts.hostname in LOCAL and urlsplit(address).hostname not in LOCAL:
        raise InputError(
            f"--store: found {uri}; on the cluster {address} that is the cluster itself; valid: the server's name as "
            "the cluster's head node knows it"
        )
    return uri.rstrip("/")


def _own_modules(sources: Mapping[str, str], folder: Path) -> list[Path]:
    """The files of the plugins, and of what they import, that lie in the study's folder."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in sources]
    return sorted(Path(file) for file in files if file and Path(file).is_relative_to(folder))


def _start(handover: Handover, client: Any, name: str) -> None:
    """Send the files and start the job. Raises RuntimeError if the cluster does not take it."""
    with tempfile.TemporaryDirectory(prefix="tune_lt_") as folder:
        for path, file in handover.files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        Path(folder, SCRIPT).write_text(handover.script, encoding="utf-8")
        client.submit_job(
            entrypoint=f"sh {SCRIPT}",
            submission_id=name,
            runtime_env={"working_dir": folder},  # no password: whoever sees the dashboard would see it
            metadata={STUDY_LABEL: handover.study, STORE_LABEL: handover.store},
        )


def _jobs(client: Any) -> dict[str, Any]:
    """The cluster's submitted jobs by id."""
    try:
        return {job.submission_id: job for job in client.list_jobs() if job.submission_id}
    except (requests.RequestException, RuntimeError) as error:
        raise InputError(f"{client.get_address()}: the cluster does not list its jobs: {_last_line(error)}") from None


def _numbered(job: str, number: int) -> str:
    return job if number == 1 else f"{job}-{number}"


def _number(job: str, name: str) -> int:
    """Which of the jobs begun with the id ``job`` this one is, from 1; 0 for any other job."""
    found = re.fullmatch(re.escape(job) + r"(?:-(\d+))?", name)
    return int(found[1] or 1) if found else 0


def _job(info: Any, outcome: str) -> Job:
    return Job(info.submission_id, outcome, str(info.status), (info.start_time or 0) / 1000)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """The environment without some variables, for as long as the block runs."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _reason(error: Exception | None) -> str:
    """Why something could not be reached, from an error that quotes the operating system somewhere inside."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {ANSWER_SECONDS:.0f} s"
    quoted = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", str(error))
    return quoted[1] if quoted else type(error).__name__ if error else "the log ends, the job does not"


def _last_line(error: Exception) -> str:
    return redacted(str(error)).strip(" .\n").split("\n")[-1]


def _first_sentence(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0]
