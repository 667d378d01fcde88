"""A YAML document against a pydantic model: the model, or all that is wrong, each with place and suggestion."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from cluster.output_guard import secrets_in
from cluster.yaml_file import ConfigError, Document, KeyPath

Model = TypeVar("Model", bound=BaseModel)
Finding = tuple[str, str]
"""A dotted key, and one sentence about it."""


def validate(document: Document, model: type[Model]) -> Model:
    """The document as `model`. Raises ConfigError with one line for each problem.

    Example: `run.yaml:12: rollout.replica: unknown key; did you mean "replicas"?`
    """
    # JSON mode is the strict mode that still takes lists for tuples: "2" is not a number, 1 not a bool.
    try:
        made = model.model_validate_json(json.dumps(document.values), strict=True)
    except ValidationError as error:
        raise findings_error(document, [_finding(dict(one), model) for one in error.errors()]) from None
    findings = [
        (".".join(path), f"expected a whole number, found {show(value)}")
        for path, value in _scalars(document.values)
        if isinstance(value, bool | float) and type(_value(made, path)) is int
    ]
    findings += _secrets_written(document)
    if findings:  # a Literal[0, 1] takes true for 1
        raise findings_error(document, findings)
    return made


def findings_error(document: Document, findings: Sequence[Finding]) -> ConfigError:
    """One line for each finding, in the order of the document."""
    order = {place: rank for rank, place in enumerate(document.places.values())}
    lines = [
        (order.get(document.place(tuple(key.split("."))), -1), f"{at(document, key)}: {text}")
        for key, text in findings
    ]
    return ConfigError("\n".join(text for _, text in sorted(lines, key=lambda line: line[0])))


def at(document: Document, key: str) -> str:
    """`run.yaml:12: a.b`, or `--set a.b` alone."""
    place = document.place(tuple(key.split(".")))
    return place if place == f"--set {key}" else f"{place}: {key}"


def model_keys(model: type[BaseModel], path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key that is not a section of its own, in the order of the fields."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from model_keys(field.annotation, (*path, name))
        else:
            yield (*path, name)


def show(value: Any) -> str:
    """A value as a message quotes it."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _scalars(tree: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every leaf of nested mappings and lists, with its path."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _scalars(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _scalars(value, (*path, str(index)))
    else:
        yield path, tree


def _value(tree: Any, path: KeyPath) -> Any:
    for part in path:
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, tuple):
            tree = tree[int(part)]
        else:
            tree = getattr(tree, part, None)
    return tree


def _secrets_written(document: Document) -> Iterator[Finding]:
    known = secrets_in(os.environ)
    for path, value in _scalars(document.values):
        for text, where in known.items():
            if isinstance(value, str) and text in value:
                yield (
                    ".".join(path),
                    f"holds the value of {where} (not shown), and configs are kept in records and logs; take it out "
                    "and name the variable where a key like api_key_env or pass_env asks for one",
                )


def _finding(problem: dict[str, Any], model: type[BaseModel]) -> Finding:
    path = tuple(str(part) for part in problem["loc"])
    return ".".join(path), _sentence(problem, path, model)


def _sentence(problem: dict[str, Any], path: KeyPath, model: type[BaseModel]) -> str:
    """What was found, and what is allowed."""
    kind, found, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path, model)
    if kind == "missing" and path[-1].isdecimal():
        return f"expected one more value, found {show(found)}"
    if kind == "missing":
        return f"required and not given ({_description(path, model)})"
    if kind == "literal_error":
        choices = _options(path, model)
        return f"expected {_choices(choices)}, found {show(found)}{_nearest(choices, found)}"
    expected = {
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "tuple_type": "a list, like [a, b]",
        "dict_type": "a mapping of keys to values",
        "model_type": "a section with keys of its own",
        "string_pattern_mismatch": _PATTERNS.get(
            context.get("pattern", ""),
            "letters, digits, dots, dashes and underscores, not starting with a dot",
        ),
        "too_long": f"at most {context.get('max_length')} values",
        "too_short": f"at least {context.get('min_length')} value",
        "string_too_long": f"at most {context.get('max_length')} letters",
        "greater_than": f"a value above {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"a value below {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
    }.get(kind)
    if expected is None:
        return f"{problem['msg']}, found {show(found)}"
    quotes = kind == "string_type" and isinstance(found, bool | int | float)
    return f"expected {expected}, found {show(found)}{'; put it in quotes' if quotes else ''}"


_PATTERNS: dict[str, str] = {}


def name_pattern(pattern: str, expected: str) -> str:
    """Say in words what `pattern` allows, for its error message; gives the pattern back."""
    _PATTERNS[pattern] = expected
    return pattern


def _unknown_key(path: KeyPath, model: type[BaseModel]) -> str:
    siblings = list(getattr(_model(path[:-1], model), "model_fields", {}))
    near = difflib.get_close_matches(path[-1], siblings, n=1)
    if near:
        return f'unknown key; did you mean "{near[0]}"?'
    elsewhere = [".".join(key) for key in model_keys(model) if key[-1] == path[-1]]
    if elsewhere:
        return f'unknown key; did you mean "{elsewhere[0]}"?'
    return f"unknown key; known here: {', '.join(siblings)}"


def _model(path: KeyPath, model: type[BaseModel]) -> type[BaseModel]:
    """The section model at `path`, also behind `| None` and in lists."""
    for part in path:
        if part.isdecimal():
            continue
        model = next(_models(model.model_fields[part].annotation))
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for item in get_args(annotation):
        yield from _models(item)


def _field(path: KeyPath, model: type[BaseModel]) -> Any:
    path = path[:-1] if path[-1].isdecimal() else path
    return _model(path[:-1], model).model_fields[path[-1]]


def _description(path: KeyPath, model: type[BaseModel]) -> str:
    return str(_field(path, model).description).split("\n")[0].rstrip(".")


def _choices(options: Sequence[Any]) -> str:
    return " or ".join(", ".join(json.dumps(choice).strip('"') for choice in options).rsplit(", ", 1))


def _options(path: KeyPath, model: type[BaseModel]) -> list[Any]:
    """What a Literal allows, in a tuple or alone."""
    args = get_args(_field(path, model).annotation)
    return list(get_args(args[0]) or args)


def _nearest(options: Sequence[Any], found: Any) -> str:
    choices = [choice for choice in options if isinstance(choice, str)]
    near = difflib.get_close_matches(str(found), choices, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""
