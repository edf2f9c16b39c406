"""YAML text to values that JSON has too. Its size and depth are bounded, and none of it is ever run as code."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tune_lt.study.checks import Problems

MOST_BYTES = 200_000  # of a file: about a hundred times the longest that comes with the package
MOST_WRITTEN_OUT = 1_000_000  # characters and values with every alias in full: ten lines can stand for a billion
LARGEST = 3.4028234e38  # of the numbers that torch computes with
DEEPEST, MOST_IN_KEY = 30, 200
_SCALARS = ("!!str", "!!int", "!!float", "!!bool", "!!null")
_KEYS = ("!!str", "!!int", "!!float", "!!bool")  # taken as they are written: a row may be called 1e-3, or on
_TAGS = {yaml.MappingNode: ("!!map",), yaml.SequenceNode: ("!!seq",), yaml.ScalarNode: _SCALARS}  # JSON has them too
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # how JSON escapes a character above U+FFFF


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1; this one also takes for numbers what YAML 1.2 and JSON do, such as 1e-3 and 0o17."""


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+|[-+]\.[0-9]+"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^({_FLOAT})$"), list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^0o[0-7]+$"), ["0"])


def load(text: str) -> Any:
    """The value written in ``text``: a string, number, true, false, null, or lists and mappings of them by strings.

    Raises Problems, naming the line or the field.
    """
    if text.lstrip().startswith("{"):  # JSON may be indented by tabs, which YAML does not allow
        text = re.sub("^[ \t]+", " ", text, flags=re.MULTILINE)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Problems(f"line {line}: not YAML: the character U+{error.character:04X} is not allowed") from None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise Problems(f"{where}not YAML: {': '.join(filter(None, (error.context, error.problem)))}") from None
    except RecursionError:
        raise Problems(f"nested more than {DEEPEST} deep") from None
    return None if node is None else _Values().of(node)


class _Values:
    """Makes plain values of YAML's nodes, and counts how much it has made."""

    def __init__(self) -> None:
        self._left = MOST_WRITTEN_OUT
        self._constructor = yaml.constructor.SafeConstructor()

    def of(self, node: yaml.Node, path: str = "", depth: int = 0) -> Any:
        """The value of a node that stands at ``path`` in the file. Raises Problems."""
        tag, where = _tag(node), path or _line(node)
        self._left -= 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self._left < 0:
            raise Problems(f"larger than {MOST_WRITTEN_OUT:,} characters with every alias (*name) written out")
        if depth > DEEPEST:
            raise Problems(f"nested more than {DEEPEST} deep, or an anchor refers to itself")
        if tag not in _TAGS[type(node)]:
            valid = "a string, number, true, false, null, list or mapping, without tags; write a date in quotes"
            raise Problems(f"{where}: found {_short(tag)}; valid: {valid}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.of(member, f"{path}[{index}]", depth + 1) for index, member in enumerate(node.value)]
        try:
            value = _joined(self._constructor.construct_object(node))
        except (ArithmeticError, LookupError, ValueError):  # int("abc"), which PyYAML lets through
            raise Problems(f"{where}: found {_short(node.value)}, which is no {tag}") from None
        _check(where, node.value, value)
        return value

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, member in node.value:
            key, line = _joined(key_node.value), _line(key_node)
            if _tag(key_node) not in _KEYS:  # for YAML any value may be a key, and `<<` merges two mappings
                shown = _short(key) if isinstance(key, str) else _tag(key_node)
                advice = "write the fields out" if shown == "'<<'" else "a string, in quotes"
                raise Problems(f"{line}: found the key {shown}; valid: {advice}")
            if key in values:
                raise Problems(f"{line}: {_short(key)} is written twice")
            if not key.isprintable() or len(key) > MOST_IN_KEY:
                raise Problems(f"{line}: found the key {_short(key)}; valid: up to {MOST_IN_KEY} printable characters")
            self._left -= len(key)
            values[key] = self.of(member, f"{path}.{key}" if path else key, depth + 1)
        return values


def _check(where: str, written: str, value: Any) -> None:
    if isinstance(value, float) and not abs(value) <= LARGEST:
        raise Problems(f"{where}: found {_short(written)}; valid: a finite number, at most {LARGEST:.2g} as float32")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # neither the store nor a tensor holds others
        raise Problems(f"{where}: found a whole number of {value.bit_length()} bits; valid: up to 63 bits")
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise Problems(f"{where}: found {_short(value)}; valid: a string of Unicode characters, without U+0000")


def _joined(value: Any) -> Any:
    """A string with one character for each pair of surrogates; any other value as it is."""
    if not isinstance(value, str):
        return value
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"), value)


def _tag(node: yaml.Node) -> str:
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
