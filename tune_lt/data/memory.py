"""Whether images fit in the memory that is left, which is asked before they are decoded."""

from __future__ import annotations

import re
from pathlib import Path

from tune_lt.errors import InputError

_VERSIONS = {  # of Linux's control groups: by what /proc/self/cgroup calls the controller, where limit and use are told
    "": ("", "memory.max", "memory.current"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}
_CACHED = re.compile(r"^(?:total_)?(?:in)?active_file (\d+)$", re.MULTILINE)  # files, which make room when asked to


def check_fits(what: str, needed: int, advice: str) -> None:
    """Raise InputError, which begins with ``what`` and ends with ``advice``, unless ``needed`` bytes are available."""
    room = available()
    if room is not None and needed > room:
        raise InputError(
            f"{what} {-(-needed // 2**20):,} MiB of memory, and {max(0, room) // 2**20:,} MiB are available; {advice}"
        )


def available(root: Path = Path("/")) -> int | None:
    """The bytes that this process can still take: of the machine, and of each control group that it belongs to.

    Linux tells it in files below ``root`` (proc(5), control groups of version 1 and 2). None on another system.
    """
    try:
        left = [1024 * int(size) for size in re.findall(r"(?m)^MemAvailable:\s*(\d+)", _text(root / "proc/meminfo"))]
        for line in _text(root / "proc/self/cgroup").splitlines():
            _, controller, path = line.split(":", 2)
            if controller in _VERSIONS:
                below, limit_file, used_file = _VERSIONS[controller]
                group = root / "sys/fs/cgroup" / below / path.lstrip("/")
                for one in (group, *group.parents):  # a container sees its own group at the top, without the path
                    if (limit := _text(one / limit_file).strip()).isdigit():  # where there is none it is "max"
                        cached = sum(map(int, _CACHED.findall(_text(one / "memory.stat"))[-2:]))  # totals come last
                        left.append(int(limit) - int(_text(one / used_file)) + cached)
    except (OSError, ValueError):
        return None
    return min(left, default=None)


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii", errors="replace") if file.is_file() else ""
