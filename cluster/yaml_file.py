"""A YAML file as plain values, with the place (`run.yaml:12`) of every key.

Stricter than YAML: one document, text keys, no duplicates, no anchors, no tags. Plain scalars follow
the YAML 1.2 core schema, where `off` and `no` are text, `1e-6` is a number and dates are text; the
1.1 rules of pyyaml would read `importance: off` as false and `lr: 1e-6` as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str, ...]
MAX_BYTES = 1_000_000
TAG = "tag:yaml.org,2002:"


class ConfigError(ValueError):
    """A config that cannot be run; the text has one line for each problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """`values` as plain Python; `places` of every key, and of list items under their index as text."""

    name: str
    values: dict[str, Any]
    places: dict[KeyPath, str]

    def place(self, path: KeyPath) -> str:
        """Where `path` was written; where its nearest parent was, when it was not written."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.name


def read_document(path: str | Path) -> Document:
    """Read one YAML file. Raises ConfigError with all problems."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB; a config is a short text")
    try:
        return parse_document(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def parse_document(text: str, name: str) -> Document:
    """Parse one YAML mapping. Raises ConfigError with all problems."""
    node = _compose(text, name)
    if node is None:
        raise ConfigError(f"{name}: empty; write at least the sections run, model and data")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}:{_line(node)}: expected `key: value` lines, found {_kind(node)}")
    walk = _Walk(name)
    values = walk.mapping(node, ())
    if walk.problems:
        raise ConfigError("\n".join(walk.problems))
    return Document(name=name, values=values, places=walk.places)


def override(document: Document, setting: str) -> Document:
    """The document with one `a.b=value` on top; the value is a YAML scalar or list."""
    key, equals, text = setting.partition("=")
    path = tuple(key.strip().split("."))
    place = f"--set {key.strip()}"
    if not equals or not all(re.fullmatch(r"\w+", part) for part in path):
        raise ConfigError(f"--set {setting}: expected section.key=value, for example learner.lr=1e-6")
    if not text.strip():
        raise ConfigError(f"{place}: no value; write null to unset the key")
    node = _compose(text, place)
    walk = _Walk(place, numbered=False)
    if node is None or isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{place}: expected one value or a [list]; set the keys below it one by one")
    value: Any = walk.value(node, path)
    if walk.problems:
        raise ConfigError("\n".join(walk.problems))
    places = {path[:end]: place for end in range(1, len(path)) if path[:end] not in document.places}
    places |= {path: place} | walk.places
    for part in reversed(path):
        value = {part: value}
    return lay_over(document, Document(name=place, values=value, places=places))


def lay_over(under: Document, over: Document) -> Document:
    """Both documents as one: mappings merge, anything else of `over` replaces what it meets."""
    places = dict(under.places)
    values = _merge(under.values, over.values, (), places)
    kept = {path: place for path, place in places.items() if path not in over.places}
    return Document(name=under.name, values=values, places=kept | over.places)


def _merge(
    under: dict[str, Any], over: dict[str, Any], path: KeyPath, places: dict[KeyPath, str]
) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        here = (*path, key)
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            merged[key] = _merge(old, value, here, places)
            continue
        for gone in [place for place in places if place[: len(here)] == here and place != here]:
            del places[gone]
        merged[key] = value
    return merged


class _Loader(yaml.SafeLoader):
    """Composes nodes with the YAML 1.2 core schema; refuses anchors, aliases and tags."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        for attribute, text in (
            ("anchor", "anchors (&) and aliases (*) are refused; write the value out"),
            ("tag", "tags (!) are refused; write the plain value"),
        ):
            if getattr(event, attribute, None) is not None:
                raise yaml.composer.ComposerError(None, None, text, event.start_mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?[eE][-+]?[0-9]+|[0-9][0-9_]*\.[0-9]*)",
        "-+.0123456789",
    ),
):
    _firsts = ["" if letter == "\0" else letter for letter in _first]
    _Loader.add_implicit_resolver(TAG + _tag, re.compile(rf"^(?:{_pattern})$"), _firsts)


def _compose(text: str, name: str) -> Any:
    """The node tree of one YAML text, None when it is empty."""
    try:
        return _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None or name.startswith("--set") else f"{name}:{mark.line + 1}"
        raise ConfigError(f"{place}: {', '.join(filter(None, [error.context, error.problem]))}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deeply; a config has sections of keys") from error


class _Walk:
    """Turns nodes into values, collecting places and problems."""

    def __init__(self, name: str, *, numbered: bool = True) -> None:
        self.name, self.numbered = name, numbered
        self.places: dict[KeyPath, str] = {}
        self.problems: list[str] = []

    def value(self, node: Any, path: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return list(self._items(node, path))
        try:
            return _scalar(node)
        except ValueError as error:
            self._problem(node, path, str(error))
            return None

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{TAG}str":
                self._problem(
                    key_node, path, f"a key must be text, found {_kind(key_node)}; put it in quotes"
                )
                continue
            here = (*path, key_node.value)
            if key_node.value in values:
                self._problem(key_node, here, f"given twice; first at {self.places[here]}")
                continue
            self.places[here] = self._place(key_node)
            values[key_node.value] = self.value(value_node, here)
        return values

    def _items(self, node: yaml.SequenceNode, path: KeyPath) -> Iterator[Any]:
        for index, item in enumerate(node.value):
            here = (*path, str(index))
            self.places[here] = self._place(item)
            yield self.value(item, here)

    def _place(self, node: Any) -> str:
        return f"{self.name}:{_line(node)}" if self.numbered else self.name

    def _problem(self, node: Any, path: KeyPath, text: str) -> None:
        where = f"{'.'.join(path)}: " if path and self.numbered else ""
        self.problems.append(f"{self._place(node)}: {where}{text}")


def _scalar(node: yaml.ScalarNode) -> Any:
    """The value of one scalar. Raises ValueError on a number or a text that nothing can hold."""
    text, kind = node.value, node.tag.removeprefix(TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind in ("int", "float"):
        if len(text) > 40 or not math.isfinite(float(text.replace("_", ""))):
            raise ValueError(f"{text[:40]} is too large a number")
        return (int if kind == "int" else float)(text.replace("_", ""))
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        raise ValueError("the text has half of a surrogate pair")
    return text


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def _kind(node: Any) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return f"{node.value!r}"
