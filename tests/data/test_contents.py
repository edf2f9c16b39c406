"""The bytes of image files: hashed once, remembered as long as nothing can have changed, and never wrongly."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tune_lt.data import contents as module
from tune_lt.data.contents import RESOLUTION_NS, cache_folder, contents, settled

Reads = list[str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNE_LT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    """Forty images in two folders, with names that are not ASCII and not even UTF-8."""
    root = tmp_path / "images"
    for number in range(40):
        name = {38: "é", 39: os.fsdecode(b"\xff")}.get(number, f"{number:02}")
        path = root / "ab"[number % 2] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (5 * number,) * 3).save(path)
    return root


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour has passed since the files were written."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The files that were read."""
    found: Reads = []
    examine: Callable[..., object] = module._examine
    monkeypatch.setattr(module, "_examine", lambda file, check: (found.append(file), examine(file, check))[1])
    return found


def _paths(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def _expected(root: Path, paths: list[str]) -> list[bytes]:
    return [hashlib.sha256((root / path).read_bytes()).digest() for path in paths]


def _found(root: Path, paths: list[str]) -> list[bytes]:
    hashes, reasons = contents(root, paths)
    assert reasons == {}
    return [row.tobytes() for row in hashes]


@pytest.mark.usefixtures("later")
def test_each_file_is_read_once(root: Path, reads: Reads) -> None:
    paths = _paths(root)
    assert _found(root, paths) == _expected(root, paths)
    assert len(reads) == 40
    assert _found(root, paths[::-1]) == _expected(root, paths[::-1])
    Image.new("RGB", (9, 9), "red").save(root / "a/new.png")
    assert _found(root, ["a/new.png", *paths]) == _expected(root, ["a/new.png", *paths])
    assert len(reads) == 41
    assert _found(root, paths[:3]) == _expected(root, paths[:3])
    assert len(reads) == 41


@pytest.mark.usefixtures("later")
def test_another_file_of_the_same_length_and_times_is_noticed(root: Path, reads: Reads) -> None:
    paths = _paths(root)
    _found(root, paths)
    replaced, edited = root / paths[3], root / paths[5]
    before = os.stat(replaced)
    other = root.parent / "other"
    other.write_bytes(bytes(before.st_size))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, replaced)
    status = os.stat(edited)
    while os.stat(edited).st_ctime_ns == status.st_ctime_ns:  # until the file system's clock has moved on
        edited.write_bytes(bytes(status.st_size))
        os.utime(edited, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _found(root, paths) == _expected(root, paths)
    assert sorted(reads[40:]) == sorted(map(str, (replaced, edited)))


def test_a_file_that_changed_just_now_is_not_trusted(root: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next change may leave the same times."""
    paths = _paths(root)
    newest = max((root / path).stat().st_ctime_ns for path in paths)
    for path in paths:
        os.utime(root / path, ns=(newest, newest))
    monkeypatch.setattr(time, "time_ns", lambda: newest)
    assert _found(root, paths) == _found(root, paths) == _expected(root, paths)
    assert len(reads) == 80


@pytest.mark.parametrize(
    ("modified", "changed", "sure"),
    [
        (-9, -9, True),
        (-9, -1, False),
        (-1, -9, False),
        (-9, 0, False),
        (-9, 9, False),  # a clock of a server that is ahead
        (9, -9, True),  # somebody set a future time, which no change will set again
        (1, -9, False),
    ],
)
def test_when_a_file_cannot_change_without_a_trace(modified: int, changed: int, sure: bool) -> None:
    now = 10**18
    modified, changed = (now + times * RESOLUTION_NS // 3 for times in (modified, changed))
    assert settled(modified, changed, at=now) == sure


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "deleted", "another file"])
def test_a_damaged_memory_is_not_used(root: Path, cache: Path, reads: Reads, damage: str) -> None:
    paths = _paths(root)
    _found(root, paths)
    (file,) = cache.iterdir()
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    written = {"flipped": whole, "short": whole[:-7], "empty": b"", "another file": b"x" * 1000}
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes(written[damage])
    assert _found(root, paths) == _expected(root, paths)
    assert len(reads) == 80
    _found(root, paths)
    assert len(reads) == 80


@pytest.mark.usefixtures("later")
def test_a_memory_that_cannot_be_written_changes_nothing(root: Path, cache: Path, reads: Reads) -> None:
    cache.write_text("a file where the folder should be")
    paths = _paths(root)
    for _ in range(2):
        assert _found(root, paths) == _expected(root, paths)
    assert len(reads) == 80


@pytest.mark.usefixtures("later")
def test_two_processes_at_once_leave_a_whole_memory(root: Path, cache: Path, reads: Reads) -> None:
    """Each writes what it knows; the last one's stays."""
    paths = _paths(root)
    hashes = np.array([list(digest) for digest in _expected(root, paths)], dtype=np.uint8)
    keys = np.array([module._key(path) for path in paths], dtype=np.uint64)
    status = np.array([module._status(os.stat(root / path)) for path in paths])
    memories = [module._Memory(root) for _ in range(2)]
    for memory, half in zip(memories, (slice(0, 20), slice(20, 40)), strict=True):
        memory.add(keys[half], status[half], hashes[half], "")
    assert _found(root, paths) == _expected(root, paths)
    assert reads == [str(root / path) for path in paths[:20]]
    assert len(list(cache.iterdir())) == 1


@pytest.mark.usefixtures("later")
def test_a_check_is_remembered_with_the_version_that_made_it(
    root: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = _paths(root)
    damaged = paths.index("b/01.png")
    file = root / paths[damaged]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:5000])  # the whole header, half of the pixels
    assert contents(root, paths, "header")[1] == {}
    assert len(reads) == 40
    assert contents(root, paths, "header")[1] == {}
    assert len(reads) == 40
    for again in (80, 81):  # what is damaged is looked at again each time
        (position, reason), = contents(root, paths, "pixels")[1].items()  # fmt: skip
        assert position == damaged
        assert reason.startswith("damaged: ")
        assert len(reads) == again
    assert contents(root, paths, "header")[1] == {}  # pixels that can be decoded have a header
    assert len(reads) == 81
    monkeypatch.setattr("PIL.__version__", "99.0")
    contents(root, paths, "header")
    assert len(reads) == 121


def test_what_cannot_be_read_has_a_reason(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    (root / "empty.png").touch()
    hashes, reasons = contents(root, ["a/00.png", "pipe.png", "none.png", "empty.png", "a"])
    assert reasons == {
        1: "not a regular file",
        2: "No such file or directory",
        3: "empty file (0 bytes)",
        4: "not a regular file",
    }
    assert hashes[0].tobytes() == hashlib.sha256((root / "a/00.png").read_bytes()).digest()


def test_how_far_it_is_is_said_and_what_is_done_is_kept(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(module, "_SAY_SECONDS", -1.0)
    monkeypatch.setattr(module, "_SAVE_SECONDS", -1.0)
    monkeypatch.setattr(module, "_AT_ONCE", 30)
    contents(root, _paths(root))
    assert capsys.readouterr().err == f"{root}: read 30 of 40 image files\n{root}: read 40 of 40 image files\n"


@pytest.mark.usefixtures("later")
def test_what_was_read_before_an_interrupt_is_kept(root: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 10)
    paths, examine = _paths(root), module._examine

    def interrupted(file: str, check: module.Check) -> object:
        if file == str(root / paths[25]):
            raise KeyboardInterrupt
        return examine(file, check)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_examine", interrupted)
        with pytest.raises(KeyboardInterrupt):
            contents(root, paths)
    reads.clear()
    assert _found(root, paths) == _expected(root, paths)
    assert set(reads) <= {str(root / path) for path in paths[20:]}


def test_where_it_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNE_LT_CACHE", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("TUNE_LT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/tune_lt")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification says to ignore
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/tune_lt"
