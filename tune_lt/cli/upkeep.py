"""The commands for the installation and the store: ui, doctor."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from typing import Annotated

from typer import Argument, Exit, Option

from tune_lt import __version__, provenance
from tune_lt.cli.arguments import StoreOption, study_name
from tune_lt.errors import InputError

ROOM_BYTES = 2**30  # with less free space on a disk, doctor reports a problem


def ui(
    store: StoreOption = None,
    port: Annotated[int, Option(min=1, max=65535, help="The port to listen on.")] = 5000,
    host: Annotated[str, Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Start the MLflow UI on the store. If the store is an MLflow server, print its address instead."""
    import socket

    from tune_lt.store import Store

    opened = Store(store)
    uri = opened.uri
    if uri.startswith(("http://", "https://")):
        print(f"the store is an MLflow server: open {opened.shown} in a browser")
        return
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise InputError(f"--port {port}: another program listens on port {port} of {host}; choose another port")
    print(f"MLflow UI: http://{host}:{port}   (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    without_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else MLflow starts processes that nobody uses
    # The store is passed in the environment: it may have a password, and ps shows arguments to every user.
    os.execve(sys.executable, command, without_jobs | os.environ | {"MLFLOW_BACKEND_STORE_URI": uri})


def doctor(
    study: Annotated[str | None, Argument(metavar="STUDY", help="Check its records too: a name or a file.")] = None,
    store: StoreOption = None,
    fix: Annotated[bool, Option("--fix", help="Repair the study's records, and print what was done.")] = False,
    adopt: Annotated[
        bool, Option("--adopt", help="Of a store that was copied or moved: use the artifacts that lie beside it.")
    ] = False,
) -> None:
    """Check the installation, the devices and the store. Exits with code 1 if there is a problem.

    With STUDY also what drivers that died left in its records: runs that are still RUNNING, cells without metrics, two
    runs of one cell, records that were not sent. Nothing of a study that is being run is changed.
    """
    if fix and study is None:
        raise InputError("--fix: no study is given; valid: tune-lt doctor STUDY --fix")
    name = study_name(study) if study else None
    if adopt:
        from tune_lt.store import adopt as adopt_store
        from tune_lt.store import store_uri

        for line in adopt_store(store_uri(store)) or ["nothing: the store names the artifacts beside it"]:
            print(f"adopted: {line}")
    problems = examine(store)
    if name and not problems:
        problems = _examine_study(name, store, fix)
    for problem in problems:
        print(f"problem: {problem}")
    print(f"problems: {len(problems) or 'none'}")
    raise Exit(1 if problems else 0)


def _examine_study(name: str, store: str | None, fix: bool) -> list[str]:
    """Check a study's records and, with ``fix``, repair them; the problems that remain."""
    from tune_lt.store import Store, repair

    opened = Store(store, write=False)
    findings = repair.examine_study(opened, name)
    if fix and any(finding.remedy for finding in findings):
        opened = Store(store)
        for line in repair.fix(opened, name, findings):
            print(f"fixed: {name}: {line}")
        findings = repair.examine_study(opened, name)
    for finding in findings:
        if not finding.problem:
            print(f"{name}: {finding}")
    return [f"{name}: {finding}" for finding in findings if finding.problem]


def examine(store: str | None) -> list[str]:
    """Print the versions, devices, store and disks that are found; return the problems among them."""
    print(f"tune-lt    {__version__} ({provenance.git_commit()[:12]})")
    versions = provenance.versions()
    for package, version in versions.items():
        print(f"{package:<12} {version}")
    problems = [f"{package} is not installed: pip install tune-lt" for package, v in versions.items() if v == "missing"]
    for package, look in (("torch", _devices), ("mlflow", lambda: _store(store)), ("ray", _ray)):
        try:
            if versions[package] != "missing":
                look()
        except InputError as error:
            problems.append(str(error))
    for label, folder in (("working folder", os.getcwd()), ("Ray's folder", tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        print(f"{label:<14} {folder}, {free / 2**30:.0f} GiB free")
        if free < ROOM_BYTES:
            problems.append(f"{label} {folder} has less than 1 GiB free")
        if not os.access(folder, os.W_OK):
            problems.append(f"{label} {folder} cannot be written to")
    return problems


def _devices() -> None:
    """Print the devices. Raises InputError if torch cannot use the one that `auto` means."""
    import torch

    from tune_lt.training import pick_device

    print(f"CPU          {os.cpu_count()} cores")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        print(f"cuda:{index}       {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    print(f"device: auto is {pick_device('auto')}")


def _ray() -> None:
    """Print where studies run. Raises InputError if no cluster answers there, or if Ray cannot start here."""
    from tune_lt.run.ray_session import address

    found = address()
    print(f"Ray          {'is started on this machine by each run' if found == 'local' else f'the cluster at {found}'}")


def _store(store: str | None) -> None:
    """Print the store and its studies. Raises InputError if it cannot be used."""
    from tune_lt.errors import redacted
    from tune_lt.store import NoStore, Store, store_uri

    try:
        opened = Store(store, write=False)
    except NoStore:
        print(f"store        {redacted(store_uri(store))} (not there yet; the first run creates it)")
        return
    print(f"store        {opened.shown}, studies: {', '.join(opened.studies()) or 'none'}")
    if opened.note:
        raise InputError(opened.note)
