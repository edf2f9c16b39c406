"""Commands for the installation and the store: ui, doctor."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from typing import Annotated

import typer

from tune_lt import __version__, provenance
from tune_lt.cli.arguments import StoreOption, existing_store, study_name
from tune_lt.errors import InputError

ROOM_BYTES = 2**30  # that should be free on a disk


def ui(
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on the store (a server URI needs none: it is printed)."""
    import socket

    from tune_lt.store import Store

    opened = Store(store)
    uri = opened.uri
    if uri.startswith(("http://", "https://")):
        print(f"the store is a server: open {opened.shown} in a browser")
        return
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise InputError(f"port {port} of {host} is taken; choose another with --port")
    print(f"MLflow UI: http://{host}:{port}   (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    without_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # processes that no run of ours needs
    # The store goes into the environment: it may hold a password, and ps shows everybody the arguments.
    os.execve(sys.executable, command, without_jobs | os.environ | {"MLFLOW_BACKEND_STORE_URI": uri})


def doctor(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="Look at its record too: name or file.")] = None,
    store: StoreOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Put the study's record right, and say what was done.")] = False,
) -> None:
    """What is installed, which devices there are, whether the store can be used. Exit code 1 if something is wrong.

    With a STUDY also what dead drivers left in its record: runs still RUNNING, cells without metrics, two runs of one
    cell, records not sent. Nothing of a study that is being run is touched.
    """

    if fix and study is None:
        raise InputError("--fix: says which record is to be put right; tune-lt doctor STUDY --fix")
    name = study_name(study) if study else None
    problems = examine(store)
    if name is not None and not problems:
        problems = _examine_study(name, store, fix)
    for problem in problems:
        print(f"problem: {problem}")
    print("problems: none" if not problems else f"problems: {len(problems)}")
    raise typer.Exit(1 if problems else 0)


def _examine_study(name: str, store: str | None, fix: bool) -> list[str]:
    """Examine a study's record, repair it if told to; the problems that remain."""
    from tune_lt.store import repair

    opened = existing_store(store)
    findings = repair.examine_study(opened, name)
    if fix and any(finding.remedy for finding in findings):
        for line in repair.fix(opened, name, findings):
            print(f"fixed: {name}: {line}")
        findings = repair.examine_study(opened, name)
    for finding in findings:
        if not finding.problem:
            print(f"{name}: {finding}")
    return [f"{name}: {finding}" for finding in findings if finding.problem]


def examine(store: str | None) -> list[str]:
    """Print what was found, line by line; the problems among it."""
    print(f"tune-lt    {__version__} ({provenance.git_commit()[:12]})")
    versions = provenance.versions()
    for package, version in versions.items():
        print(f"{package:<12} {version}")
    problems = [f"{package} is not installed: pip install tune-lt" for package, v in versions.items() if v == "missing"]
    problems += _devices() if versions["torch"] != "missing" else []
    problems += _store(store) if versions["mlflow"] != "missing" else []
    for label, folder in (("working folder", os.getcwd()), ("Ray's folder", tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        print(f"{label:<14} {folder}, {free / 2**30:.0f} GiB free")
        if free < ROOM_BYTES:
            problems.append(f"{label} {folder} has less than 1 GiB free")
        if not os.access(folder, os.W_OK):
            problems.append(f"{label} {folder} cannot be written to")
    return problems


def _devices() -> list[str]:
    import torch

    from tune_lt.training import pick_device

    print(f"CPU          {os.cpu_count()} cores")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        print(f"cuda:{index}       {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    try:
        print(f"device: auto is {pick_device('auto')}")
    except InputError as error:
        return [str(error)]
    return []


def _store(store: str | None) -> list[str]:
    from tune_lt.store import Store, exists, store_uri

    uri = store_uri(store)
    if not exists(store):
        print(f"store        {uri} (not there yet; the first run creates it)")
        return []
    try:
        opened = Store(store)
        studies = opened.studies()
    except InputError as error:
        return [str(error)]
    print(f"store        {opened.shown}, studies: {', '.join(studies) or 'none'}")
    return []
