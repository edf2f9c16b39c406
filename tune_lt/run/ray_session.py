"""A Ray session of its own on this machine, or the connection to the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import services

from tune_lt.errors import InputError
from tune_lt.process import STOPPING
from tune_lt.run.shared_folder import check_shared
from tune_lt.texts import first_line

OBJECT_STORE_BYTES = 200 * 2**20  # of Ray, in addition to the images
ANSWER_SECONDS = 5.0
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # that the system allows for a Unix socket's path
SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # Ray's longest; a time, a process
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # how a client of gRPC begins
SETTINGS = bytes([4])  # the kind of frame with which its server answers


def address() -> str:
    """The address for `ray.init`: "local", or the host and the port of the cluster that RAY_ADDRESS names.

    Raises InputError within seconds if no cluster answers there, or if the paths of Ray's sockets on this machine
    would be too long.
    """
    found = os.environ.get("RAY_ADDRESS") or "local"
    if found == "local":
        _check_sockets()
        return found
    unset = "unset RAY_ADDRESS to run on this machine"
    if "://" in found:
        dashboard = found.startswith(("http://", "https://"))
        raise InputError(
            f"RAY_ADDRESS: found {found}, {'a dashboard' if dashboard else 'which is for Ray clients'}; valid: the "
            f"cluster's own address, host:6379 or auto on one of its hosts; {unset}; from elsewhere: "
            f"tune-lt submit STUDY --address {found if dashboard else 'http://HEAD:8265'}"
        )
    try:
        at = services.get_ray_address_from_environment(found, None)
        host, _, port = at.rpartition(":")
        if not (host and port.isdecimal()):
            raise InputError(f"RAY_ADDRESS: found {found}; valid: host:6379, or auto on a host of the cluster; {unset}")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as probe:
            probe.sendall(HTTP2)
            secured = os.environ.get("RAY_USE_TLS", "0") != "0"
            problem = "" if secured or probe.recv(4)[3:] == SETTINGS else "another program listens there"
    except (OSError, OverflowError) as error:
        problem = first_line(error).split(". ")[0]
    if problem:
        raise InputError(
            f"RAY_ADDRESS: found {found}, where no Ray cluster answers ({problem}); start one there, or {unset}"
        )
    return str(at)


def _check_sockets() -> None:
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    folder = os.environ.get(name) or "/tmp"  # in which Ray makes its own
    found, most = len(os.fsencode(folder)), SOCKET_BYTES - len(f"/{SOCKET}")
    if found > most:
        raise InputError(
            f"{name}: found {folder}, {found} bytes, which is too long for the paths of Ray's sockets; valid: at most "
            f"{most} bytes; set {name}=/tmp"
        )


@contextmanager
def ray_session(at: str, images: int, checkpoints: Path) -> Iterator[None]:
    """Connect to the cluster at ``at``, or start Ray on this machine ("local"); end the session after the block.

    ``images``: their bytes. Raises InputError if Ray cannot be used, or if a node of the cluster does not see the
    folder ``checkpoints``.
    """
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES + 2 * images}
    for noisy in ("ray.tune", "ray.tune.tuner", "ray._private", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        try:
            with _own_signals():
                ray.init(at, log_to_driver=False, logging_level=logging.ERROR, **(own if at == "local" else {}))
        except Exception as error:
            raise InputError(f"Ray cannot be used at {at}: {type(error).__name__}: {error}") from None
        check_shared(checkpoints)
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of the signals that stop us: `ray.init` puts one of its own in their place, which exits."""
    own = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    except SystemExit as stop:
        handler = own[signal.SIGTERM]
        if stop.code != signal.SIGTERM or not callable(handler):
            raise
        handler(signal.SIGTERM, None)
    finally:
        for number, handler in own.items():
            signal.signal(number, handler)
