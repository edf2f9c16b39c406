"""Hostile and careless input: refused in one line that names it, in bounded time and memory, nothing of it run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tune_lt.data.decode import decode
from tune_lt.data.sources.folder import image_folder
from tune_lt.data.sources.imagenet import _read_list
from tune_lt.data.sources.inaturalist import _load
from tune_lt.data.sources.tiny_imagenet import _annotated
from tune_lt.errors import InputError, printable, redacted
from tune_lt.report.formats import markdown_text
from tune_lt.study import reader, yaml_text
from tune_lt.study.checks import Problems
from tune_lt.training import checkpoint

pytestmark = pytest.mark.long

OK = """\
name: ok
data: {name: digits, imbalance: 20}
model: {name: resnet8}
loss: {name: softmax}
"""
FUZZ = settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SECONDS = 8.0  # for the slowest refusal: it takes about one
TEN = range(1, 10)


def _laughs(first: str, another: Callable[[str], str]) -> str:
    """Ten lines of which each has the one before ten times."""
    return "".join([f"a0: &a0 {first}\n", *(f"a{i}: &a{i} {another(', '.join([f'*a{i - 1}'] * 10))}\n" for i in TEN)])


REFUSED = [  # (study file, what the message says)
    (_laughs("[x, x]", "[{}]".format), "with every alias"),
    (OK + "plugins: [&a " + "x" * 20_000 + ", *a" * 100 + "]", "with every alias"),
    (OK + "rows: &a {x: *a}", "an anchor refers to itself"),
    ("[" * 100_000, "nested more than 30 deep"),
    (OK + f"seeds: {'[' * 31}1{']' * 31}", "nested more than 30 deep"),
    (OK + "#" * yaml_text.MOST_BYTES, "larger than 200,000 bytes"),
    (
        OK + "rows: {a: &a {loss: {name: focal}}, b: {<<: *a}}",
        "line 5: found the key '<<'; valid: write the fields",
    ),
    (OK + "seeds: !!python/object/apply:os.system ['touch harm']", "seeds: found '!!python/object/apply:os.system'"),
    ("%TAG ! tag:yaml.org,2002:python/\n---\n" + OK + "seeds: !name:os.system", "found '!!python/name:os.system'"),
    (OK + "seeds: !!set {a, b}", "found '!!set'"),
    (OK + "seeds: !!int abc", "seeds: found 'abc', which is no !!int"),
    (OK + "seeds: 2001-99-99", "seeds: found '!!timestamp'; valid: .* a date in quotes"),
    (OK + f"seeds: [{'9' * 5000}]", r"seeds\[0\]: found '9+…', which is no !!int"),
    (OK + f"seeds: [0x{'f' * 5000}]", r"seeds\[0\]: found a whole number of 20000 bits"),
    (OK + "name: again", "line 5: 'name' is written twice"),
    (OK + "rows: {[a]: {}}", "line 5: found the key !!seq; valid: a string"),
    (OK + 'rows: {"a\\nb\\e[2J": {}}', r"line 5: found the key 'a\\nb\\x1b\[2J'; valid: up to 200"),
    (OK + "\0", r"line 5: not YAML: the character U\+0000"),
    (OK + 'plugins: ["a\\0b"]', "without U"),
    (OK.replace("digits", 'image_folder, root: "~nobody at all/x"'), "no such user's folder"),
    (OK + f"ablation: {{factors: {{{', '.join(f'f{i}: {{with: {{}}}}' for i in range(24))}}}}}", "combinations"),
    (OK + f"seeds: {{data: {list(range(3000))}, init: {list(range(3000))}}}", "3000 times 3000"),
    (OK.replace("ok", "../x"), "name: found '../x'"),
    (OK.replace("ok", "-rf"), "no dot or dash first"),
    (OK.replace("ok", "字" * 100), "200 bytes"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=lambda value: str(value)[:24])
def test_a_hostile_study_file_is_refused_soon_and_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(InputError, match=message) as refused:
        reader.read(file)
    assert time.monotonic() - began < SECONDS
    assert len(str(refused.value)) < 1200
    assert str(refused.value).isprintable()


def test_other_encodings_and_files_without_an_end(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + OK.replace("\n", "\r\n").encode())
    assert reader.read(file).text == OK
    for content in (OK.encode("utf-16"), (OK + "# ä").encode("latin-1")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read: line \d is not UTF-8"):
            reader.read(file)
    with pytest.raises(InputError, match="larger than"):
        reader.read(Path("/dev/zero"))


@FUZZ
@given(st.text(max_size=60), st.integers(0, len(OK)), st.integers(0, 20))
def test_any_change_of_a_study_file_is_a_study_or_problems(inserted: str, at: int, removed: int) -> None:
    with contextlib.suppress(Problems):
        reader.parse(OK[:at] + inserted + OK[at + removed :], Path())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "name",
    "data",
    "model",
    "recipe",
    "loss",
    "search",
    "compare",
    "rows",
    "ablation",
    "cross",
    "seeds",
    "small",
)


@FUZZ
@given(st.sampled_from((*FIELDS, "resources", "table")), VALUES)
def test_any_value_of_a_section_is_a_study_or_problems(field: str, value: Any) -> None:
    raw = {"name": "ok", "data": {"name": "digits"}, "model": {"name": "resnet8"}, "loss": {"name": "softmax"}}
    with contextlib.suppress(Problems):
        reader.parse(json.dumps(raw | {field: value}), Path())


CONTENT = {
    "images": [{"id": 1, "file_name": "train_val_images/a/1.jpg"}],
    "annotations": [{"image_id": 1, "category_id": 7}],
    "categories": [{"id": 7, "name": "Larus"}],
}


@pytest.fixture
def inaturalist(tmp_path: Path) -> Path:
    (tmp_path / "train_val_images" / "a").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "train_val_images/a/1.jpg")
    (tmp_path / "val2017.json").write_text(json.dumps(CONTENT))
    return tmp_path


def _read_inaturalist(root: Path, content: str) -> None:
    (root / "train2017.json").write_text(content, encoding="utf-8", errors="surrogatepass")
    _load(root, 32, 2017, "train_val_images", (1, 1, 1))


@FUZZ
@given(st.sampled_from(list(CONTENT)), VALUES, st.sampled_from(["part", "entry", "id", "file_name", "name"]))
def test_any_annotation_is_read_or_refused(inaturalist: Path, part: str, value: Any, where: str) -> None:
    entry = {"part": value, "entry": [value]}.get(where, [{**CONTENT[part][0], where: value}])
    with contextlib.suppress(InputError):
        _read_inaturalist(inaturalist, json.dumps(CONTENT | {part: entry}))


@FUZZ
@given(st.text(max_size=40))
def test_any_list_of_images_is_read_or_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "list.txt"
    for text in (line, f"train/{line}/x.JPEG 3", f"train/a/x.JPEG {line}"):
        file.write_text(text, encoding="utf-8")
        with contextlib.suppress(InputError):
            paths, _ = _read_list(file)
            assert not any(part == ".." for path in paths for part in path.split("/"))
    (tmp_path / "val_annotations.txt").write_text(f"{line}\ta\t0\n", encoding="utf-8")
    with contextlib.suppress(InputError):
        found = _annotated(tmp_path, ["a"])
        assert all(path.parent == tmp_path / "images" for path in found["a"])


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "a\0b.jpg", "\ud83d.jpg", ""])
def test_a_listed_path_that_leaves_the_folder_is_refused(inaturalist: Path, path: str) -> None:
    with pytest.raises(InputError, match=r"train2017\.json: found the path"):
        _read_inaturalist(inaturalist, json.dumps(CONTENT | {"images": [{"id": 1, "file_name": path}]}))


def test_deep_json_and_labels_without_an_end_are_refused(inaturalist: Path) -> None:
    with pytest.raises(InputError, match="damaged"):
        _read_inaturalist(inaturalist, "[" * 200_000)
    (inaturalist / "list.txt").write_text(f"train/a/x.JPEG {'9' * 5000}")
    with pytest.raises(InputError, match="line 1"):
        _read_list(inaturalist / "list.txt")


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1000))  # what it claims is refused before it is unpacked
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_small_file_that_is_a_huge_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(_png(50_000, 50_000))
    (tmp_path / "smaller.png").write_bytes(_png(13_000, 13_000))
    _, reasons = decode([tmp_path / "bomb.png", tmp_path / "smaller.png"], 32)
    assert "2500000000 pixels" in reasons[0]
    assert "13000 x 13000" in reasons[1]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("-rf 'quoted' \"twice\"", "😀 <b>&amp;", "می‌خواهم"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (9, 9)).save(tmp_path / name / f"\n{number} \x1b[2J.png")
    return tmp_path


def test_odd_names_of_classes_and_files_are_taken_as_they_are(images: Path) -> None:
    (images / "-rf 'quoted' \"twice\"" / os.fsdecode(b"caf\xe9\n.png")).write_bytes(b"x")
    found = image_folder(root=str(images), size=8, corrupt="skip")
    assert set(found.class_names) == {"-rf 'quoted' \"twice\"", "😀 <b>&amp;", "می‌خواهم"}
    assert found.skipped[0].encode().isascii()


@pytest.mark.parametrize("name", [b"a\nb", b"a\x1b[2J", b"caf\xe9"])
def test_a_class_that_no_table_can_name_is_refused(images: Path, name: bytes) -> None:
    folder = images / os.fsdecode(name)
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(folder / "x.png")
    with pytest.raises(InputError, match="found a class called"):
        image_folder(root=str(images), size=8)


def test_links_that_fork_and_folders_without_an_end_are_refused(images: Path) -> None:
    deep = images / "😀 <b>&amp;"
    for level in range(30):
        (images / f".{level}").mkdir()
    for level in range(29):
        for name in "ab":
            (images / f".{level}" / name).symlink_to(images / f".{level + 1}")
    (deep / "links").symlink_to(images / ".0")
    with pytest.raises(InputError, match="links lead to this folder twice"):
        image_folder(root=str(images), size=8)
    (deep / "links").unlink()
    (deep / "/".join("d" * 60)).mkdir(parents=True)
    with pytest.raises(InputError, match="folders deep"):
        image_folder(root=str(images), size=8)


def test_a_state_that_another_user_may_have_written_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, "x", {"epoch": torch.tensor(1)})
    os.chmod(path, 0o602)
    with pytest.raises(InputError, match="can be written by every user"):
        checkpoint.load(path, "x")
    os.chmod(path, 0o600)
    assert checkpoint.load(path, "x") is not None
    if os.geteuid() == 0:
        os.chown(path, 4321, -1)
        assert checkpoint.load(path, "x") is not None, "root in a container reads what another user wrote"
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(InputError, match=r"belongs to user \d+, this is user 1234"):
        checkpoint.load(path, "x")


@pytest.mark.parametrize(
    ("uri", "quoted"),
    [
        ("http://me:s3cretpw@host:1/x", "password s3cretpw"),
        ("http://me:s3c@re/tpw@host:1", "host='s3c', url '/tpw@host:1', s3c@re/tpw"),
        ("postgresql://h/db?user=me&password=s3cretpw", "s3cretpw"),
        ("http://me:s3c%40tpw@host", "s3c@tpw, s3c%40tpw"),
    ],
)
def test_a_password_is_not_shown_however_a_library_quotes_it(uri: str, quoted: str) -> None:
    for shown in (redacted(uri), redacted(f"cannot reach ({uri})"), redacted(f"{uri}: {quoted}", uri)):
        assert not re.search("s3c|tpw", shown)
        assert "***" in shown


def test_what_a_terminal_would_obey_is_shown_as_escapes() -> None:
    assert printable("a\x1b[2J\u202eb\udce9\nc") == "a\\x1b[2J\\u202eb\\udce9\nc"


def test_a_name_makes_no_link_in_markdown() -> None:
    assert markdown_text("[x](javascript:alert(1))") == r"[x]\(javascript:alert(1))"
    assert markdown_text("50.00 [48.00, 52.00] (2 runs)") == "50.00 [48.00, 52.00] (2 runs)"
