"""From `run.yaml` and `--set` to a checked `RunConfig`, or all that is wrong with them at once.

Three layers, each over the one before: the defaults of the fields, the preset that the file names, and
the file with its overrides. Only the last counts as chosen by the user when keys contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.yaml_file import ConfigError, Document, KeyPath, lay_over, override, read_document
from cluster.yaml_schema import at, findings_error, model_keys, show, validate
from omniopsd.config import RunConfig
from omniopsd.config_checks import contradictions

PRESETS = Path(__file__).parent / "presets"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check one run config. `overrides` are `section.key=value` texts.

    Raises ConfigError with one line for each problem:
    `run.yaml:12: rollout.replica: unknown key; did you mean "replicas"?`
    """
    file = read_document(path)
    user = _with_overrides(file, overrides)
    document = _over_preset(user)
    config = validate(document, RunConfig)
    chosen = {setting.partition("=")[0].strip() for setting in overrides}
    findings = contradictions(config, chosen if _states_all(file) else _given(user))
    if findings:
        raise findings_error(document, findings)
    return config


def config_yaml(config: RunConfig) -> str:
    """The config with every key, as YAML that `load_config` reads."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def config_keys() -> Iterator[KeyPath]:
    """Every key of a run config that is not a section of its own, in the order of the fields."""
    return model_keys(RunConfig)


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
        raise ConfigError(f"{at(user, 'preset')}: no preset {show(name)}; there is {', '.join(names)}")
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
