"""Gold labels of a set from the official label file, checked clip by clip."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omniopsd.bench.datasets import BenchSet
from omniopsd.bench.lists import parse_list
from omniopsd.bench.npz import read_npz
from omniopsd.bench.wheel_files import read_csv_rows

Gold = str | float  # a class name or a label list (text), or a sentiment value
ABSENT = -10  # what the official files write for a value that a clip does not have
SHOWN = 5


class LabelsError(ValueError):
    """A label file with faults; the message names the file and the clips."""


def read_labels(bench_set: BenchSet, path: str | Path) -> dict[str, Gold]:
    """Clip name -> class name, label list or sentiment value, for the scored clips, in the file's order.

    Integers become class names; an empty OV-MERD+ list becomes "neutral", as the official loader does.
    Raises LabelsError, NpzError, WordsError (an unreadable CSV).
    """
    if bench_set.split is None:
        return _from_csv(bench_set, Path(path))
    corpus = _corpus(path, bench_set.split)
    scored = {name: one for name, one in corpus.items() if re.match(bench_set.name_pattern, str(name))}
    if not scored:
        raise LabelsError(f"{path}: {bench_set.split} has no clip of the {bench_set.title} test set")
    key = "val" if bench_set.metric == "waf" else "emo"
    read: Callable[[BenchSet, Any], Gold] = _value if bench_set.metric == "waf" else _class_name
    labels: dict[str, Gold] = {}
    faults: list[str] = []
    for name, one in scored.items():
        try:
            labels[_name(name)] = read(bench_set, _entry(one, key))
        except LabelsError as error:
            faults.append(f"{name}: {error}")
    _raise(f"{path}: {bench_set.split}", faults)
    return labels


def _from_csv(bench_set: BenchSet, path: Path) -> dict[str, Gold]:
    if path.suffix.lower() != ".csv":
        raise LabelsError(
            f"{path}: the labels of {bench_set.title} are a CSV with the columns name and openset"
        )
    labels: dict[str, Gold] = {}
    faults: list[str] = []
    for number, (name, openset) in read_csv_rows(path, ("name", "openset")):
        if not name or name in labels:
            faults.append(
                f"line {number}: {f'{name} is given twice' if name else 'the row has no clip name'}"
            )
        labels[name] = ", ".join(parse_list(openset)) or "neutral"
    _raise(str(path), faults)
    if not labels:
        raise LabelsError(f"{path}: the file has no rows")
    return labels


def _corpus(path: str | Path, split: str) -> Mapping[Any, Any]:
    arrays = read_npz(path)
    if split not in arrays:
        raise LabelsError(f"{path}: no {split} in it, found {', '.join(sorted(arrays)) or 'nothing'}")
    corpus = arrays[split].item() if arrays[split].size == 1 else arrays[split]
    if not isinstance(corpus, dict):
        raise LabelsError(f"{path}: {split} must be a dictionary of clips, found {_kind(corpus)}")
    return corpus


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise LabelsError(f"a clip name must be text, found {_kind(name)}")
    return str(name)


def _entry(one: Any, key: str) -> Any:
    if not isinstance(one, dict) or key not in one:
        found = ", ".join(map(str, one)) if isinstance(one, dict) else _kind(one)
        raise LabelsError(f"expected a dictionary with {key!r}, found {found}")
    value = one[key]
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, int | float | np.number) and not isinstance(value, bool) and value == ABSENT:
        raise LabelsError(f"{key} is {ABSENT}, which stands for an absent label")
    return value


def _class_name(bench_set: BenchSet, value: Any) -> str:
    classes = ", ".join(bench_set.classes)
    if isinstance(value, str):
        if value.strip().lower() not in bench_set.classes:
            raise LabelsError(f"{value!r} is not one of {classes}")
        return str(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise LabelsError(f"a label must be one of {classes}, found {_shown(value)}")
    if not bench_set.integer_labels:
        raise LabelsError(f"the labels of {bench_set.title} are words ({classes}), found the number {value}")
    if not 0 <= value < len(bench_set.classes):
        raise LabelsError(f"label {value} is outside of 0..{len(bench_set.classes) - 1} ({classes})")
    return bench_set.classes[value]


def _value(bench_set: BenchSet, value: Any) -> float:
    assert bench_set.label_range is not None
    low, high = bench_set.label_range
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise LabelsError(f"a sentiment value must be a number, found {_shown(value)}")
    if not math.isfinite(value) or not low <= value <= high:
        raise LabelsError(f"{float(value)} is outside of [{low:g}, {high:g}]")
    return float(value)


def _shown(value: Any) -> str:
    return _kind(value) if isinstance(value, np.ndarray) else f"{_kind(value)} {value!r:.40}"


def _kind(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def _raise(where: str, faults: list[str]) -> None:
    if faults:
        head = "an unusable label" if len(faults) == 1 else f"{len(faults)} unusable labels"
        more = f" (and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        raise LabelsError(f"{where}: {head}: {'; '.join(faults[:SHOWN])}{more}")
