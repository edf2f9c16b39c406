"""Submits a study to a Ray cluster through its Jobs API, so that a study that is submitted twice runs once.

A job's id is made of the study's name and a hash of everything that is sent. Ray accepts each id only once: whoever
submits the same study second finds the job and follows it. Where that job failed or was stopped, the next submission
starts a job with the next number, in which `tune-lt run` goes on from what is finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from tune_lt import __version__
from tune_lt.config import RESULT_VERSION
from tune_lt.errors import InputError
from tune_lt.plugins import members
from tune_lt.store import redacted
from tune_lt.study import reader, yaml_text
from tune_lt.texts import first_line

LOCAL = ("localhost", "127.0.0.1", "::1")
STUDY_LABEL, STORE_LABEL = "tune_lt.study", "tune_lt.store"  # in a job's metadata
ALIVE = ("PENDING", "RUNNING")
SCRIPT = "tune_lt_job.sh"
ANSWER_SECONDS = 10.0
POLL_SECONDS = 2.0  # between two looks at a job's log
LOST_SECONDS = 60.0
SERVER = "mlflow server --host 0.0.0.0 --backend-store-uri sqlite:///mlflow.db starts one"


@dataclass(frozen=True)
class Handover:
    """What is sent to a cluster to run a study: ``files`` maps paths in the job's folder to files on this machine.

    ``job`` is the id of the study's first job, ``store`` the MLflow server's URI, ``script`` the job's shell script.
    """

    study: str
    job: str
    store: str
    script: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Job:
    """A job of the cluster. ``outcome``: "submitted" just now, "attached" to one that runs, or "done" some time ago.

    ``started`` is in seconds since 1970. ``before`` says how the job before this one ended; "" where there was none.
    """

    id: str
    outcome: str
    state: str
    started: float
    before: str = ""


def prepare(file: Path, store: str | None, address: str, small: bool = False) -> Handover:
    """Read a study file and collect what the cluster needs. Raises InputError for what could not run on a cluster."""
    study = reader.read(file, small)
    uri = _check_store(store, address)
    root = reader.content(yaml_text.load(study.text), small)["data"].get("root")
    if isinstance(root, str) and not Path(root).expanduser().is_absolute():  # ~ is the job's home on the cluster
        raise InputError(
            f"{file}: data.root: found {root!r}; valid: an absolute path under which every node of the cluster finds "
            "the images, which are not sent along"
        )
    files = {file.name: file} | {
        path.relative_to(study.folder).as_posix(): path
        for path in members(study.plugins, study.plugin_files, study.folder).values()
        if path.is_relative_to(study.folder)
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
    """Find the job that runs the study, or start it. ``again``: start one even after one that succeeded.

    Raises InputError where an older version of the study is still running on the same store.
    """
    numbered = re.compile(re.escape(handover.job) + r"(?:-(\d+))?")
    while True:
        jobs = _jobs(client)
        own = {int(found[1] or 1): jobs[name] for name in jobs if (found := numbered.fullmatch(name))}
        latest = max(own, default=0)
        before = ""
        if latest:
            job = own[latest]
            if job.status in ALIVE or (job.status == "SUCCEEDED" and not again):
                outcome = "attached" if job.status in ALIVE else "done"
                return Job(job.submission_id, outcome, str(job.status), (job.start_time or 0) / 1000)
            before = f"{job.submission_id} {_ended(job)}"
        labels = {STUDY_LABEL: handover.study, STORE_LABEL: handover.store}
        for other in jobs.values():
            if other.status in ALIVE and labels.items() <= (other.metadata or {}).items():
                raise InputError(
                    f"the study {handover.study!r} is {other.status} with another content as job "
                    f"{other.submission_id}; wait for it, or stop it: {stop_command(client, other.submission_id)}"
                )
        name = f"{handover.job}-{latest + 1}" if latest else handover.job
        try:
            _start(handover, client, name, labels)
        except (requests.RequestException, RuntimeError) as error:
            if name in _jobs(client):
                continue  # another submission came first, or the answer was lost: find the job in the next round
            raise InputError(f"the cluster did not take the job {name}: {_last_line(error)}") from None
        return Job(name, "submitted", "PENDING", time.time(), before)


def connect(address: str) -> Any:
    """A client of the cluster's Jobs API (`ray.job_submission.JobSubmissionClient`).

    RAY_ADDRESS and RAY_API_SERVER_ADDRESS are removed from this process's environment: Ray's client would prefer them
    to ``address``. Raises InputError if no cluster answers at ``address``, or if it refuses our token.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"--address: found {address!r}; valid: the address of the Ray dashboard, such as http://head:8265"
        )
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for noisy in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{noisy}").setLevel(logging.ERROR)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    try:
        requests.get(f"{address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS)  # Ray's client has no time limit
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise InputError(
            f"--address {address}: the cluster refuses access ({_first_sentence(error)}); valid: RAY_AUTH_MODE=token "
            "and the cluster's token in RAY_AUTH_TOKEN or in the file RAY_AUTH_TOKEN_PATH"
        ) from None
    except (requests.RequestException, RuntimeError, OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"--address {address}: found no Ray dashboard there ({_reason(error)}); valid: the dashboard of a running "
            "cluster, such as http://head:8265, whose head has ray[default] installed"
        ) from None


def follow(client: Any, job: str) -> bool:
    """Print the job's log until the job ends, and return whether it succeeded.

    Raises InputError when the cluster has not answered for a minute.
    """
    printed, heard = 0, time.monotonic()
    while True:
        try:
            info = client.get_job_info(job)  # before the log, so that the log of a job that has ended is complete
            log = client.get_job_logs(job)
        except Exception as error:  # of requests or of Ray's client, which raises RuntimeError, among others
            if time.monotonic() - heard > LOST_SECONDS:
                raise InputError(
                    f"{client.get_address()}: job {job} could not be followed for {LOST_SECONDS:.0f} s "
                    f"({_reason(error)}); it may still run, and the same command follows it again"
                ) from None
        else:
            print(log[printed:], end="", flush=True)
            printed, heard = len(log), time.monotonic()
            if info.status.is_terminal():
                print(f"job {job}: {_ended(info)}", flush=True)
                return bool(info.status == "SUCCEEDED")
        time.sleep(POLL_SECONDS)


def stop_command(client: Any, job: str) -> str:
    """The command that stops a job."""
    return f"ray job stop --address {client.get_address()} {job}"


def _ended(info: Any) -> str:
    """A job's final state and, if it failed, the reason in one line."""
    reason = (info.message or "").split("\n")[0].split(", last available logs")[0]
    return f"{info.status} ({reason})" if reason and info.status == "FAILED" else str(info.status)


def _script(file: str, small: bool, folder: str, store: str) -> str:
    """The shell script that the head node runs. It works in a folder that outlives the job's own folder.

    A shell's exit code for a program that a signal killed is 128 plus the signal's number. The script starts such a
    driver once more, unless it was asked to stop (130, 143). `ray job stop` ends the shell as well as the driver.
    """
    return f"""\
found=$(python -m tune_lt --version 2>/dev/null) || {{
  echo "error: tune-lt is not installed on the head node of this cluster; install tune-lt {__version__} on every node"
  exit 2
}}
[ "$found" = "tune-lt {__version__}" ] || echo "warning: $found is here, tune-lt {__version__} submitted the study"
here=$PWD
state=$HOME/tune_lt/{shlex.quote(folder)}
mkdir -p "$state" && cd "$state" || exit 2
echo "$found on $(hostname), in $state"
run() {{
  python -m tune_lt run "$here"/{shlex.quote(file)}{" --small" if small else ""} \\
    --store {shlex.quote(store)} --reports reports
}}
run
code=$?
if [ $code -gt 128 ] && [ $code -ne 129 ] && [ $code -ne 130 ] && [ $code -ne 143 ]; then
  echo "warning: signal $((code - 128)) killed the study's driver; it is started once more and goes on"
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


def _start(handover: Handover, client: Any, name: str, labels: dict[str, str]) -> None:
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
            runtime_env={"working_dir": folder},  # without passwords: the dashboard shows it to everybody
            metadata=labels,
        )


def _jobs(client: Any) -> dict[str, Any]:
    """The cluster's submitted jobs by id."""
    try:
        return {job.submission_id: job for job in client.list_jobs() if job.submission_id}
    except (requests.RequestException, RuntimeError) as error:
        raise InputError(f"{client.get_address()}: the cluster does not list its jobs: {_last_line(error)}") from None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """Why a cluster could not be asked: the operating system's words, where the error quotes them somewhere inside."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {ANSWER_SECONDS:.0f} s"
    quoted = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", str(error))
    return quoted[1] if quoted else _first_sentence(error)


def _first_sentence(error: Exception) -> str:
    return redacted(first_line(error)).split(". ")[0]


def _last_line(error: Exception) -> str:
    return redacted(str(error)).strip(" .\n").split("\n")[-1]
