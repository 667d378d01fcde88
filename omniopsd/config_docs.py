"""Writes docs/configuration.md from the fields of the config: `python -m omniopsd.config_docs`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from omniopsd.config import RunConfig

TARGET = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
HEAD = """# Configuration

One YAML file states one run. `omniopsd check run.yaml` prints it resolved, with all that is wrong with it.

- Every key that is not listed here is an error, and so is a key that has no effect beside the others.
- `preset: paper` at the top puts the paper's setting under the file; `--set section.key=value` goes over it.
- Paths are relative to the working directory; media paths in a data file are relative to that file's folder.
- Values follow the YAML 1.2 core schema: `off` is text, `1e-6` a number. Anchors and tags are refused.

This page is made by `python -m omniopsd.config_docs`; the texts come from the code.
"""
SYMBOLS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def configuration_markdown() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_section(RunConfig, "")])


def _section(model: type[BaseModel], prefix: str) -> Iterator[str]:
    inner: list[tuple[str, type[BaseModel]]] = []
    rows: list[str] = []
    for name, field in model.model_fields.items():
        section = _section_type(field.annotation)
        if section is not None:
            inner.append((prefix + name, section))
        if section is None or field.annotation is not section:
            rows.append(f"| `{name}` | {_type(field)} | {_default(field)} | {_text(field.description)} |")
    if rows:
        yield from [f"## {prefix.rstrip('.')}", "", _text(model.__doc__), ""]
        yield from ["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    for name, section in inner:
        yield from _section(section, f"{name}.")


def _section_type(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, also of an optional one."""
    for item in (annotation, *get_args(annotation)):
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item
    return None


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{symbol} {getattr(item, name)}"
        for item in field.metadata
        for name, symbol in SYMBOLS.items()
        if hasattr(item, name)
    ]
    return _type_name(field.annotation) + (f" {', '.join(bounds)}" if bounds else "")


def _type_name(annotation: Any) -> str:
    args = get_args(annotation)
    if annotation is NoneType:
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if not args:
        return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}[
            annotation.__name__
        ]
    if get_origin(annotation) is dict:
        return "mapping"
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(args[0])}"
    if any(isinstance(arg, type) for arg in args):
        return " or ".join(_type_name(arg) for arg in args)
    return ", ".join(f"`{json.dumps(arg).strip(chr(34))}`" for arg in args)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "" if field.default is None else f"`{json.dumps(field.default)}`"


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(configuration_markdown(), encoding="utf-8")
    print(f"wrote {TARGET}")
