"""Which cache and which samples a command means: a cache folder, or a run config that names both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.yaml_file import read_document
from omniopsd.samples import Sample, read_samples
from rationale_cache.errors import CacheError


def cache_path(given: str) -> Path:
    """The cache folder that is meant. Raises CacheError, ConfigError."""
    path = Path(given)
    if path.suffix not in (".yaml", ".yml"):
        return path
    found = _value(path, ("rationale_cache", "path"))
    if not isinstance(found, str):
        raise CacheError(f"{path}: rationale_cache.path is not set; set it, or give the cache folder itself")
    return Path(found)


def samples_of(given: str, data: Sequence[str]) -> tuple[Sample, ...]:
    """The samples of the data files `data`; without any, those of the run config; else none."""
    files = list(data)
    if not files and Path(given).suffix in (".yaml", ".yml"):
        both = [_value(Path(given), ("data", split)) for split in ("train", "test")]
        files = [file for file in both if isinstance(file, str)]
    return tuple(sample for file in dict.fromkeys(files) for sample in read_samples(file))


def _value(path: Path, keys: tuple[str, ...]) -> Any:
    """One value of a YAML file; the file need not be a whole run config."""
    value: Any = read_document(path).values
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
