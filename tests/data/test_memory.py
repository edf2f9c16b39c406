"""The memory that is left, as Linux tells it, and what is said where images do not fit in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_lt.data import memory
from tune_lt.errors import InputError

MIB = 2**20


def _machine(root: Path, mib: int, groups: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal:       99999999 kB\nMemAvailable:   {1024 * mib} kB\n")
    (root / "proc/self/cgroup").write_text(groups)


def _group(folder: Path, limit: object, used: int, stat: str = "", *, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}[version]
    for name, text in zip((*names, "memory.stat"), (limit, used, stat), strict=True):
        (folder / name).write_text(f"{text}\n")


def test_what_is_left_is_the_least_of_the_machine_and_of_every_group(tmp_path: Path) -> None:
    _machine(tmp_path, 900, "0::/slurm/job\n")
    top = tmp_path / "sys/fs/cgroup"
    assert memory.available(tmp_path) == 900 * MIB
    _group(top / "slurm", "max", 700 * MIB)
    assert memory.available(tmp_path) == 900 * MIB
    cached = f"anon 5\ninactive_file {30 * MIB}\nactive_file {20 * MIB}\n"
    _group(top / "slurm/job", 500 * MIB, 200 * MIB, cached)  # cached files make room: 50 MiB of the 200
    assert memory.available(tmp_path) == 350 * MIB
    _group(top / "slurm", 400 * MIB, 390 * MIB)
    assert memory.available(tmp_path) == 10 * MIB


def test_a_container_sees_its_own_group_at_the_top_and_version_1_has_totals(tmp_path: Path) -> None:
    _machine(tmp_path, 900, "9:name=systemd:/x\n4:memory:/docker/abc\n0::/\n")
    stat = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {4 * MIB}\ntotal_active_file {6 * MIB}"
    _group(tmp_path / "sys/fs/cgroup/memory", 300 * MIB, 100 * MIB, stat, version=1)
    assert memory.available(tmp_path) == 210 * MIB
    (tmp_path / "proc/meminfo").write_text("")
    (tmp_path / "proc/self/cgroup").write_text("")
    assert memory.available(tmp_path) is None  # another system: nothing is known, so nothing is refused


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 5 * MIB)
    memory.check_fits("these take", 5 * MIB, "buy more")
    with pytest.raises(InputError, match=r"^these take 6 MiB of memory, and 5 MiB are available; buy more$"):
        memory.check_fits("these take", 6 * MIB, "buy more")
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.check_fits("these take", 6 * MIB, "buy more")


def test_this_machine_has_some() -> None:
    room = memory.available()
    assert room is None or 0 < room < 2**50
