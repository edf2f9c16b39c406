"""YAML text to the plain values that JSON has too. Bounded in size and depth; nothing in it is ever run."""

from __future__ import annotations

import math
from typing import Any

import yaml

from tune_lt.study.checks import Problems

MOST_BYTES = 200_000  # of a file: about a hundred times the longest that comes with the package
MOST_WRITTEN_OUT = 1_000_000  # characters and values, every alias in full: ten lines of aliases can make a billion
DEEPEST, MOST_IN_KEY = 30, 200
_WHOLE_NUMBERS = 2**63  # beyond, neither the store nor a tensor holds them
_SHOWN = 60  # characters of a text in a message


def load(text: str) -> Any:
    """The value written in ``text``: a text, number, true, false, null, or lists and mappings of them by text.

    Raises Problems, naming the line or the field.
    """
    try:
        value = yaml.load(text, Loader=_Plain)  # a SafeLoader
        _Check().check("", value)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Problems(f"line {line}: not YAML: the character U+{error.character:04X} is not allowed") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise Problems(f"{where}not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise Problems(f"nested more than {DEEPEST} deep, or an anchor refers to itself") from None
    return value


class _Plain(yaml.SafeLoader):
    """YAML as it is, without what a reader may not expect: a key written twice, tags, merge keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise Problems(f"line {line}: << (a merge key) is not read here; write the fields out")
            key = self.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                what = _short(key_node.value) if isinstance(key_node, yaml.ScalarNode) else f"a {key_node.id}"
                raise Problems(f"line {line}: the key {what} is not a text; put it in quotes")
            if key in seen:
                raise Problems(f"line {line}: {_short(key)} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError):  # PyYAML's own, of what a tag promises
            kind = node.tag.rpartition(":")[2]
            raise Problems(f"line {node.start_mark.line + 1}: {_short(str(node.value))} is no {kind}") from None

    def refuse(self, node: yaml.Node) -> Any:
        """What stands in for a constructor of every tag that is not plain."""
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise Problems(f"line {node.start_mark.line + 1}: found {_short(tag)}; valid: plain values, without tags")


for _tag in ("binary", "omap", "pairs", "set"):
    _Plain.add_constructor(f"tag:yaml.org,2002:{_tag}", _Plain.refuse)
_Plain.add_constructor(None, _Plain.refuse)


class _Check:
    """Only what JSON has too: the same file must mean the same everywhere it is stored."""

    def __init__(self) -> None:
        self._left = MOST_WRITTEN_OUT

    def check(self, path: str, value: Any, depth: int = 0) -> None:
        """Raise Problems for what ``value``, at ``path``, should not hold."""
        self._left -= 1 + (len(value) if isinstance(value, str) else 0)
        if self._left < 0:
            raise Problems(f"larger than {MOST_WRITTEN_OUT:,} characters with every alias (*name) written out")
        if depth > DEEPEST:
            raise Problems(f"nested more than {DEEPEST} deep, or an anchor refers to itself")
        if isinstance(value, dict):
            for key, member in value.items():
                if not key.isprintable() or len(key) > MOST_IN_KEY:
                    field = f"{path}.{_short(key)}" if path else _short(key)
                    raise Problems(f"{field}: valid as a key: up to {MOST_IN_KEY} printable characters")
                self._left -= len(key)
                self.check(f"{path}.{key}" if path else key, member, depth + 1)
        elif isinstance(value, list):
            for index, member in enumerate(value):
                self.check(f"{path}[{index}]", member, depth + 1)
        else:
            _check_leaf(path, value)


def _check_leaf(path: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise Problems(f"{path}: found {value}; valid: a finite number")
    if isinstance(value, int) and not -_WHOLE_NUMBERS <= value < _WHOLE_NUMBERS:
        raise Problems(f"{path}: found a whole number of {value.bit_length()} bits; valid: up to 63 bits")
    if isinstance(value, str) and any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
        raise Problems(f"{path}: found {_short(value)}; valid: a text of Unicode characters, without U+0000")
    if not isinstance(value, str | int | float | None):
        raise Problems(f"{path}: found {value!r} ({type(value).__name__}); valid: text, number, true, false, null")


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
