"""YAML with line marks, and without the surprises of YAML 1.1.

PyYAML reads YAML 1.1, where ``no`` is false, ``1e-3`` is text, ``010`` is eight and the last of two
equal keys wins. Scenario files are read as YAML 1.2's core schema instead; equal keys, aliases and
tags are errors. Every key and list item keeps its place in the file.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rtl_continual.errors import ConfigError

__all__ = ["Document", "KeyPath", "dotted", "dump_yaml", "parse_value", "read_document"]

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys of sections and places in lists."""


MAX_BYTES = 1_000_000
"""A scenario is a few kilobytes; what is larger was given by mistake."""

MAX_DEPTH = 40

_PREFIX = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+$|0o[0-7]+$|0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")


class _Loader(yaml.SafeLoader):
    """Composes nodes only; :class:`_Builder` gives them values."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"aliases (*{event.anchor}) are not allowed", event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(
                None, None, f"nested deeper than {MAX_DEPTH} levels", self.peek_event().start_mark
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_Loader.yaml_implicit_resolvers = {}


@dataclass
class Document:
    """A file's values, and where each of them stands.

    Args:
        values: the root mapping.
        places: for each key path where it was given: ``file:line:column`` or ``--set key.path``.
        problems: what is wrong with the file itself, such as a key given twice.
    """

    values: dict[str, Any]
    places: dict[KeyPath, str]
    problems: list[str] = field(default_factory=list)

    def place(self, path: KeyPath) -> str:
        """Where ``path`` was given, or else the nearest key above it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path]

    def problem(self, path: KeyPath, message: str) -> str:
        """One line of a :class:`ConfigError`."""
        place, key = self.place(path), dotted(path)
        if not key or place == f"--set {key}":
            return f"{place}: {message}"
        return f"{place}: {key}: {message}"

    def set(self, assignment: str) -> None:
        """Apply ``key.path=value``; the value is read as YAML.

        Raises:
            ConfigError: if it is no assignment, or its path goes through something that is no
                section.
        """
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError([f"--set {assignment}: must be key.path=value"])
        self.set_value(key, parse_value(text, f"--set {key}"), f"--set {key}")

    def set_value(self, key: str, value: Any, place: str) -> None:
        """Put ``value`` at the dotted path ``key``, given at ``place``.

        Raises:
            ConfigError: if the path goes through something that is no section.
        """
        path: KeyPath = ()
        target: Any = self.values
        parts = key.split(".")
        for part in parts[:-1]:
            step = _step(target, part, path, place)
            path = (*path, step)
            if isinstance(target, dict) and target.get(step) is None:
                target[step] = {}
                self.places[path] = place
            target = target[step]
        last = _step(target, parts[-1], path, place)
        target[last] = value
        path = (*path, last)
        for known in [p for p in self.places if p[: len(path)] == path]:
            del self.places[known]
        self.places[path] = place


def _step(target: Any, part: str, path: KeyPath, place: str) -> str | int:
    if isinstance(target, dict):
        return part
    if isinstance(target, list):
        if part.isdecimal() and int(part) < len(target):
            return int(part)
        raise ConfigError(
            [f"{place}: '{dotted(path)}' is a list of {len(target)}, '{part}' is no place in it"]
        )
    raise ConfigError([f"{place}: '{dotted(path)}' is no section, it is {json.dumps(target)}"])


def dotted(path: KeyPath) -> str:
    """``("a", "b", 0)`` as ``a.b[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(path: Path) -> Document:
    """Read a file whose root is a mapping.

    Raises:
        ConfigError: if it cannot be read, is too large, or is no YAML. What can be told together
            with other mistakes is left in :attr:`Document.problems`.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError([f"{path}: {size} bytes, more than {MAX_BYTES}: is it a scenario?"])
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text (byte {error.start})"]) from error
    builder = _Builder(str(path))
    root = builder.build(_compose(text, str(path)))
    if not isinstance(root, dict):
        raise ConfigError(
            [f"{path}:1:1: a scenario is a mapping of keys to values, got {_kind(root)}"]
        )
    return Document(root, builder.places, builder.problems)


def parse_value(text: str, place: str) -> Any:
    """The value of one ``--set``, read as YAML.

    Args:
        text: what stands after the equals sign.
        place: named in errors.

    Raises:
        ConfigError: if it is no YAML.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError([f"{place}: the value is longer than {MAX_BYTES} characters"])
    builder = _Builder(None)
    try:
        value = builder.build(_compose(text, ""))
    except ConfigError as error:
        raise ConfigError([f"{place}: {p.split(': ', 1)[-1]}" for p in error.problems]) from error
    if builder.problems:
        raise ConfigError([f"{place}: {problem}" for problem in builder.problems])
    return value


class _Dumper(yaml.SafeDumper):
    """Quotes every text that would be read back as something else."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    read = _Builder(None).build(yaml.ScalarNode(f"{_PREFIX}str", value))
    style = None if read == value else "'"
    return dumper.represent_scalar(f"{_PREFIX}str", value, style=style)


_Dumper.add_representer(str, _text)


def dump_yaml(values: Any) -> str:
    """Text that :func:`read_document` reads back as the same values, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _compose(text: str, file: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([f"{where}: not readable as YAML: {what}"]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        what = f"character {error.character:#x} is not allowed in YAML"
        raise ConfigError([f"{file}:{line}:{column}: not readable as YAML: {what}"]) from error
    finally:
        if loader is not None:
            loader.dispose()


class _Builder:
    """Turns nodes into plain values and notes the place of each."""

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.places: dict[KeyPath, str] = {(): f"{file}:1:1"}
        self.problems: list[str] = []

    def build(self, node: yaml.Node | None, path: KeyPath = ()) -> Any:
        if node is None:
            return None
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_PREFIX}seq":
            for index, item in enumerate(node.value):
                self.places[(*path, index)] = self._place(item)
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_PREFIX}str":
            return self._scalar(node, path)
        return self._problem(node, path, f"tags ({node.tag}) are not allowed")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, path, "a key must be text")
                continue
            key = key_node.value
            if key in values:
                first = self.places[(*path, key)]
                where = f" (first at {first})" if self.file else ""
                self._problem(key_node, (*path, key), f"given twice{where}; keep one")
                continue
            self.places[(*path, key)] = self._place(key_node)
            values[key] = self.build(value_node, (*path, key))
        return values

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text = node.value
        if node.style is not None:
            return text
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
            return text.lower() == "true"
        if _INT.match(text):
            if len(text) > 30:
                return self._problem(node, path, f"the number {text[:12]}... is too long")
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if _NOT_FINITE.match(text) or (_FLOAT.match(text) and not math.isfinite(float(text))):
            return self._problem(node, path, f"numbers must be finite, got {text}")
        return float(text) if _FLOAT.match(text) else text

    def _place(self, node: yaml.Node) -> str:
        if not self.file:
            return ""
        return f"{self.file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def _problem(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        key = f"{dotted(path)}: " if path else ""
        self.problems.append(f"{self._place(node)}: {key}{message}" if self.file else key + message)


def _kind(value: Any) -> str:
    if value is None:
        return "an empty file"
    return "a list" if isinstance(value, list) else f"the single value {str(value)[:40]!r}"
