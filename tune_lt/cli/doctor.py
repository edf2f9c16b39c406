"""What `tune-lt doctor` looks at: packages, devices, the store, room on the disk."""

from __future__ import annotations

import os
import shutil
import tempfile

from tune_lt import __version__, provenance
from tune_lt.errors import InputError

ROOM_BYTES = 2**30


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
