"""From `run.yaml` and `--set` to a checked `RunConfig`, or all that is wrong with them at once.

Three layers, each over the one before: the defaults of the fields, the preset that the file names, and
the file with its overrides. Only the last counts as chosen by the user when keys contradict each other.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from omniopsd.config import RunConfig
from omniopsd.config_checks import Finding, contradictions
from omniopsd.yaml_file import ConfigError, Document, KeyPath, lay_over, override, read_document

PRESETS = Path(__file__).parent / "presets"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check one run config. `overrides` are `section.key=value` texts.

    Raises ConfigError with one line for each problem:
    `run.yaml:12: rollout.replica: unknown key; did you mean "replicas"?`
    """
    file = read_document(path)
    user = _with_overrides(file, overrides)
    document = _over_preset(user)
    config = _validate(document)
    chosen = {setting.partition("=")[0].strip() for setting in overrides}
    findings = contradictions(config, chosen if _states_all(file) else _given(user))
    if findings:
        raise _error(document, findings)
    return config


def config_yaml(config: RunConfig) -> str:
    """The config with every key, as YAML that `load_config` reads."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def config_keys(model: type[BaseModel] = RunConfig, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key that is not a section of its own, in the order of the fields."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from config_keys(field.annotation, (*path, name))
        else:
            yield (*path, name)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _with_overrides(document: Document, overrides: Sequence[str]) -> Document:
    keys = [setting.partition("=")[0].strip() for setting in overrides]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError("\n".join(f"--set {key}: given twice; keep one" for key in twice))
    problems = []
    for setting in overrides:
        try:
            document = override(document, setting)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return document


def _over_preset(user: Document) -> Document:
    """The user's document over the preset that it names; the key `preset` itself is gone."""
    name = user.values.get("preset")
    values = {key: value for key, value in user.values.items() if key != "preset"}
    rest = Document(name=user.name, values=values, places=user.places)
    if name is None:
        return rest
    names = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    if name not in names:
        raise ConfigError(f"{_at(user, 'preset')}: no preset {_show(name)}; there is {', '.join(names)}")
    preset = read_document(PRESETS / f"{name}.yaml")
    places = {path: place.replace(preset.name, f"preset {name}") for path, place in preset.places.items()}
    under = Document(name=user.name, values=preset.values, places=places)
    return lay_over(under, rest)


def _given(document: Document) -> set[str]:
    """Dotted keys that were written with a value; null is the same as not writing the key."""

    def walk(values: dict[str, Any], path: KeyPath) -> Iterator[str]:
        for key, value in values.items():
            if value is not None:
                yield ".".join((*path, key))
            if isinstance(value, dict):
                yield from walk(value, (*path, key))

    return set(walk(document.values, ()))


def _states_all(file: Document) -> bool:
    """Whether this is a resolved config, as a run folder keeps it: it states all keys and chose none."""
    return all(path in file.places for path in config_keys())


def _validate(document: Document) -> RunConfig:
    # JSON mode is the strict mode that still takes lists for tuples: "2" is not a number, 1 not a bool.
    try:
        config = RunConfig.model_validate_json(json.dumps(document.values), strict=True)
    except ValidationError as error:
        raise _error(document, [_finding(dict(problem)) for problem in error.errors()]) from None
    findings = [
        (".".join(path), f"expected a whole number, found {_show(value)}")
        for path in config_keys()
        if isinstance(value := _value(document.values, path), bool | float)
        and type(_value(config, path)) is int
    ]
    if findings:  # a Literal[0, 1] takes true for 1
        raise _error(document, findings)
    return config


def _error(document: Document, findings: Sequence[Finding]) -> ConfigError:
    """One line for each finding, in the order of the document."""
    order = {place: rank for rank, place in enumerate(document.places.values())}
    lines = [
        (order.get(document.place(tuple(key.split("."))), -1), f"{_at(document, key)}: {text}")
        for key, text in findings
    ]
    return ConfigError("\n".join(text for _, text in sorted(lines, key=lambda line: line[0])))


def _value(tree: Any, path: KeyPath) -> Any:
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else getattr(tree, part, None)
    return tree


def _at(document: Document, key: str) -> str:
    """`run.yaml:12: a.b`, or `--set a.b` alone."""
    place = document.place(tuple(key.split(".")))
    return place if place == f"--set {key}" else f"{place}: {key}"


def _finding(problem: dict[str, Any]) -> Finding:
    path = tuple(str(part) for part in problem["loc"])
    return ".".join(path), _sentence(problem, path)


def _sentence(problem: dict[str, Any], path: KeyPath) -> str:
    """What was found, and what is allowed."""
    kind, found, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing" and path[-1].isdecimal():
        return f"expected one more value, found {_show(found)}"
    if kind == "missing":
        return f"required and not given ({_description(path)})"
    if kind == "literal_error":
        return f"expected {_choices(path)}, found {_show(found)}{_nearest_choice(path, found)}"
    expected = {
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "tuple_type": "a list, like [a, b]",
        "model_type": "a section with keys of its own",
        "string_pattern_mismatch": "letters, digits, dots, dashes and underscores, not starting with a dot",
        "too_long": f"at most {context.get('max_length')} values",
        "greater_than": f"a value above {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"a value below {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
    }.get(kind)
    if expected is None:
        return f"{problem['msg']}, found {_show(found)}"
    quotes = kind == "string_type" and isinstance(found, bool | int | float)
    return f"expected {expected}, found {_show(found)}{'; put it in quotes' if quotes else ''}"


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown_key(path: KeyPath) -> str:
    siblings = list(getattr(_model(path[:-1]), "model_fields", {}))
    near = difflib.get_close_matches(path[-1], siblings, n=1)
    if near:
        return f'unknown key; did you mean "{near[0]}"?'
    elsewhere = [".".join(key) for key in config_keys() if key[-1] == path[-1]]
    if elsewhere:
        return f'unknown key; did you mean "{elsewhere[0]}"?'
    return f"unknown key; known here: {', '.join(siblings)}"


def _model(path: KeyPath) -> type[BaseModel]:
    """The section model at `path`, also behind `| None`."""
    model: type[BaseModel] = RunConfig
    for part in path:
        annotation = model.model_fields[part].annotation
        options = get_args(annotation) or (annotation,)
        model = next(item for item in options if isinstance(item, type) and issubclass(item, BaseModel))
    return model


def _field(path: KeyPath) -> Any:
    path = path[:-1] if path[-1].isdecimal() else path
    return _model(path[:-1]).model_fields[path[-1]]


def _description(path: KeyPath) -> str:
    return str(_field(path).description).split("\n")[0].rstrip(".")


def _choices(path: KeyPath) -> str:
    return " or ".join(", ".join(json.dumps(choice).strip('"') for choice in _options(path)).rsplit(", ", 1))


def _options(path: KeyPath) -> list[Any]:
    """What a Literal allows, in a tuple or alone."""
    annotation = _field(path).annotation
    args = get_args(annotation)
    return list(get_args(args[0]) or args)


def _nearest_choice(path: KeyPath, found: Any) -> str:
    choices = [choice for choice in _options(path) if isinstance(choice, str)]
    near = difflib.get_close_matches(str(found), choices, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""
