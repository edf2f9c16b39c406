"""The bytes of image files: a hash of each, taken once, and remembered between starts in the user's cache folder.

A hash is used again where the file's length, both of its times and its inode are what they were. It is not remembered
for a file that changed within the resolution of its clock, because another change could leave no trace (git calls that
racy). The memory is a file for each folder of images. It may be deleted at any time; a damaged one is not used.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar
from zlib import crc32

import numpy as np
import PIL

from tune_lt.data.decode import CHECKS, Unreadable, regular

Check = Literal["", "header", "pixels"]
T = TypeVar("T")
CACHE = "TUNE_LT_CACHE"  # the environment variable that names another cache folder
RESOLUTION_NS = 2 * 10**9  # of the coarsest clock that a file system has: FAT's
_THREADS = 16  # a thread that reads from a network's disk mostly waits
_AT_ONCE = 256  # files that a thread takes at a time
_WHOLE = 2**22  # bytes of a file that is read in one piece
_SAY_SECONDS, _SAVE_SECONDS = 10.0, 120.0  # between two lines about the progress, and between two states of the memory
_ENTRY = np.dtype([("path", "<u8"), ("status", "<i8", 4), ("hash", "u1", 32), ("checked", "<u4")])
_FORMAT = 1


def contents(root: Path, paths: Sequence[str], check: Check = "") -> tuple[np.ndarray, dict[int, str]]:
    """sha256 of each file's bytes, uint8 (n, 32), and position -> reason for the files that cannot be used.

    ``paths``: of the n files, relative to ``root``, with slashes. ``check``: find the files whose ``header`` is not
    that of an image, or whose ``pixels`` cannot be decoded, too. What was fine once is not checked again. Says on
    stderr how far it is if it takes long.
    """
    files = [os.path.join(root, path) for path in paths]
    status, reasons = _all_status(files)
    keys = np.array([_key(path) for path in paths], dtype=np.uint64)
    memory = _Memory(root)
    entries, known = memory.find(keys, status, check)
    left = [position for position in np.flatnonzero(~known).tolist() if position not in reasons]
    hashes = np.zeros((len(paths), 32), dtype=np.uint8)
    hashes[known] = entries["hash"]
    fresh = np.zeros(len(paths), dtype=bool)

    def examine(positions: Sequence[int]) -> list[tuple[int, _Examined | str]]:
        return [(position, _examine(files[position], check)) for position in positions]

    def remember() -> None:
        memory.add(keys[fresh], status[fresh], hashes[fresh], check)
        fresh[:] = False

    said = saved = time.monotonic()
    done = 0
    try:
        for part in _in_threads(examine, left):
            for position, found in part:
                if isinstance(found, str):
                    reasons[position] = found
                else:
                    hashes[position], status[position], fresh[position] = found
            done, now = done + len(part), time.monotonic()
            if now - said > _SAY_SECONDS:
                said = now
                with suppress(OSError, ValueError):  # nobody may be reading
                    print(f"{root}: read {done:,} of {len(left):,} image files", file=sys.stderr, flush=True)
            if now - saved > _SAVE_SECONDS:
                remember()
                saved = now
    finally:
        remember()
    return hashes, dict(sorted(reasons.items()))


_Examined = tuple[np.ndarray, tuple[int, ...], bool]  # the hash, the status, and whether both may be remembered


def _examine(file: str, check: Check) -> _Examined | str:
    """What is found out by reading a file, or the reason why it cannot be used."""
    began = time.time_ns()
    try:
        with open(file, "rb", buffering=0) as opened:
            before = os.fstat(opened.fileno())
            if before.st_size <= _WHOLE:
                digest = hashlib.sha256(opened.readall())
            else:
                digest = hashlib.file_digest(opened, "sha256")
            after = os.fstat(opened.fileno())
        if check:
            CHECKS[check](Path(file))
    except OSError as error:
        return error.strerror or str(error)
    except Unreadable as error:
        return str(error)
    status = _status(before)
    sure = status == _status(after) and settled(before.st_mtime_ns, before.st_ctime_ns, at=began)
    return np.frombuffer(digest.digest(), dtype=np.uint8), status, sure


def settled(modified: int, changed: int, *, at: int) -> bool:
    """Whether a file with these times that is read ``at`` this one cannot change later and keep them; nanoseconds.

    The time of change is the system's own. Archives and users set the time of modification, also to a future one.
    """
    return changed < at - RESOLUTION_NS and abs(modified - at) > RESOLUTION_NS


def _status(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & (2**63 - 1)


def _all_status(files: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """The status of each file, int64 (n, 4), and position -> reason for those that are no regular files or empty."""
    found = np.zeros((len(files), 4), dtype=np.int64)
    reasons: dict[int, str] = {}

    def look(positions: Sequence[int]) -> list[tuple[int, str]]:
        bad = []
        for position in positions:
            try:
                found[position] = _status(regular(files[position]))
            except Unreadable as error:
                bad.append((position, str(error)))
        return bad

    for part in _in_threads(look, range(len(files))):
        reasons.update(part)
    return found, reasons


def _in_threads(task: Callable[[Sequence[int]], T], positions: Sequence[int]) -> Iterator[T]:
    """The results of ``task`` for the positions, many at a time; what has not begun is dropped after an exception."""
    parts = [positions[start : start + _AT_ONCE] for start in range(0, len(positions), _AT_ONCE)]
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from pool.map(task, parts)
    finally:
        pool.shutdown(cancel_futures=True)


def _key(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little")


def _tag(check: Check) -> int:
    """What an entry says of a check that its file has passed; another version of Pillow may find otherwise."""
    return crc32(f"{check} {PIL.__version__}".encode()) if check else 0


class _Memory:
    """What is remembered of the files below one folder: a checksum, then the entries, sorted by their paths' keys."""

    def __init__(self, root: Path) -> None:
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
        folder = cache_folder()
        self._file = folder / f"files-{_FORMAT}-{name}" if folder else None
        self._entries = self._load()

    def _load(self) -> np.ndarray:
        try:
            whole = self._file.read_bytes() if self._file else b""
        except OSError:
            whole = b""
        checksum, entries = whole[:32], whole[32:]
        if len(entries) % _ENTRY.itemsize or hashlib.sha256(entries).digest() != checksum:
            entries = b""
        return np.frombuffer(entries, dtype=_ENTRY)

    def find(self, keys: np.ndarray, status: np.ndarray, check: Check) -> tuple[np.ndarray, np.ndarray]:
        """The entries of those files that are unchanged and have passed the check, and which they are, bool (n,)."""
        entries = self._entries
        if not len(entries):
            return entries, np.zeros(len(keys), dtype=bool)
        places = np.searchsorted(entries["path"], keys).clip(max=len(entries) - 1)
        found = entries[places]
        known = (found["path"] == keys) & (found["status"] == status).all(axis=1)
        if check:
            passed = {"header": ("header", "pixels"), "pixels": ("pixels",)}[check]
            known &= np.isin(found["checked"], [_tag(one) for one in passed])  # type: ignore[arg-type]
        return found[known], known

    def add(self, keys: np.ndarray, status: np.ndarray, hashes: np.ndarray, check: Check) -> None:
        """Remember these files in place of what was known of them. Whether that succeeds does not matter."""
        if not len(keys):
            return
        fresh = np.zeros(len(keys), dtype=_ENTRY)
        fresh["path"], fresh["status"], fresh["hash"], fresh["checked"] = keys, status, hashes, _tag(check)
        kept = self._entries[~np.isin(self._entries["path"], keys)]
        self._entries = np.sort(np.concatenate([kept, fresh]), order="path")
        if self._file is None:
            return
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _replace(self._file, self._entries)


def _replace(file: Path, entries: Any) -> None:
    """Write the file either completely or not at all."""
    number, fresh = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(number, "wb") as out:
            out.write(hashlib.sha256(entries.data).digest())
            out.write(entries.data)
        os.replace(fresh, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh)
        raise


def cache_folder() -> Path | None:
    """The folder of what is remembered: TUNE_LT_CACHE, else XDG_CACHE_HOME/tune_lt, else ~/.cache/tune_lt."""
    if own := os.environ.get(CACHE):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(shared if os.path.isabs(shared) else os.path.expanduser("~/.cache"))
    return base / "tune_lt" if base.is_absolute() else None  # a user may have no home
