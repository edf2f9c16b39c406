"""README's tree is the repository's, and no text refers to a document that is not here."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("tune_lt", "tests", "benchmarks", "docs", "docker", "search_spaces", ".ci")
TEXTS = {".py", ".md", ".yaml", ".toml", ".json", ".html", ".css", ".js", ".sbatch"}
NOTES = re.compile(r"\b(?:DESIGN|HOUSE)\b|\b[A-Z][A-Z_]*\.md\b")  # files of notes that were never part of it


def _tree() -> set[str]:
    """The paths of the indented block below "The tree"; two more spaces are one folder deeper."""
    section = (ROOT / "README.md").read_text().split("\n## The tree\n")[1]
    paths, parents = set(), [""]
    for indent, name in re.findall(r"^ {4}( *)(\S+)", section, re.MULTILINE):
        depth = len(indent) // 2
        parents[depth + 1 :] = [parents[depth] + name]
        paths.add(parents[depth] + name)
    return paths


def test_every_path_of_the_tree_exists() -> None:
    for path in _tree():
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path


def test_the_tree_has_every_folder_of_the_package_and_every_module_at_its_root() -> None:
    files = [path for path in (ROOT / "tune_lt").rglob("*.*") if "__pycache__" not in path.parts]
    folders = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in files}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tune_lt").glob("*.py")}
    assert folders | modules <= _tree()


def test_no_text_refers_to_a_document_that_is_not_here() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    here = {path.name for path in (*files, *ROOT.glob("*.md"))}
    for file in [*files, *ROOT.iterdir()]:
        if file == Path(__file__) or not (file.suffix in TEXTS or file.name in ("Makefile", "Dockerfile")):
            continue
        for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            unknown = set(NOTES.findall(text)) - here
            assert not unknown, f"{file.relative_to(ROOT)}:{line} refers to {', '.join(unknown)}"
