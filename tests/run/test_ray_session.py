"""Where a study runs: a RAY_ADDRESS that leads nowhere, and a folder too deep for Ray, are told before Ray starts."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import free_ports
from ray._private import services

from tune_lt.errors import InputError
from tune_lt.run.ray_session import address

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ("127.0.0.1:{port}", "no Ray cluster answers (.*refused.*); start one there"),
        ("nohost.invalid:6379", "no Ray cluster answers"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        ("ray://127.0.0.1:10001", "for Ray clients; valid: the cluster's own address, host:6379 or auto"),
        ("http://head:8265", "a dashboard; .*tune-lt submit STUDY --address http://head:8265"),
        ("head", "valid: host:6379, or auto"),
    ],
)
def test_an_address_where_no_cluster_is(found: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = found.format(port=free_ports(1)[0])
    monkeypatch.setenv("RAY_ADDRESS", found)
    with pytest.raises(InputError, match=f"^RAY_ADDRESS: found {re.escape(found)}.*{problem}") as refused:
        address()
    assert "unset RAY_ADDRESS to run on this machine" in str(refused.value)


def test_another_program_at_the_address_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database has the port that a head would have."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"-ERR unknown command 'PRI'\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(InputError, match="another program listens there"):
            address()
        thread.join()


def test_auto_finds_neither_a_cluster_nor_one_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)  # of this machine's processes, some may be a test's
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(InputError, match=r"found auto, .* \(Could not find any running Ray instance\.?\); start one"):
        address()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_ports(1)[0]}")  # a dead head leaves it
    with pytest.raises(InputError, match=r"found auto, .* \(.*refused"):
        address()


def test_the_address_of_a_cluster_is_taken(on_ray: Call, cli: Call, tmp_path: Path) -> None:
    code, out, err = on_ray("doctor", cwd=tmp_path)
    assert code == 0, err
    assert "Ray          the cluster at " in out


def _too_long(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(path)
        except FileNotFoundError:  # only the folder is missing
            return False
        except OSError as error:
            return "too long" in str(error)
    return False


def test_a_folder_in_which_no_socket_can_be_is_told_by_run_and_doctor(
    cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system itself says which is the first path that is too long."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for length in range(30, 60):
        folder = f"/tmp/{os.getpid()}".ljust(length, "x")
        monkeypatch.setenv("TMPDIR", folder)
        if _too_long(f"{folder}/ray/session_2026-11-28_10-55-09_123456_1234567/sockets/plasma_store"):
            break
        assert address() == "local"
    assert length < 59
    with pytest.raises(InputError, match=rf"^TMPDIR: found {folder}, {length} bytes.*; set TMPDIR=/tmp$"):
        address()
    code, out, _ = cli("doctor", cwd=tmp_path)
    assert code == 1
    assert f"problem: TMPDIR: found {folder}" in out
