"""A file of worked cases: inputs, and what the official code made of them; every difference is told.

    {"parse_list": {"note": "...", "cases": [{"in": "[happy]", "out": ["happy"]}]}, "hit_rate": {...}, ...}

Keys that begin with "_" are remarks. null stands for the official NaN. A group or a key that is not known is an
error: what was not understood was not checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omniopsd.bench.wheel_files import WordsError, WordSources, read_sources
from omniopsd.bench.words import OFFICIAL, WordTable, compile_words, corrected_2026, version_name

TOLERANCE = 1e-9
REMARKS = {"id", "why", "note", "notes", "comment", "source", "system", "definition"}
VERSION_KEYS = {"version", "resource_version", "resource", "wheel_version"}
INPUTS = ("gt", "pred", "level", "word", "in")
ERROR_KEYS = ("error", "raises", "exception", "official_error")
ERROR_NAME = re.compile(r"\b[A-Z]\w*(Error|Exception)\b")


class CasesError(ValueError):
    """A case file that cannot be run: unreadable, with an unknown group or key, or without what it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """Stands for a result where there was an error instead."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One comparison of a case; `found` is None and `unchecked` says why when it could not be made."""

    case: str
    what: str
    expected: Any
    found: Any = None
    tolerance: float = TOLERANCE
    unchecked: str = ""

    @property
    def holds(self) -> bool:
        """Equal, numbers within the tolerance; an expected error is met by any error."""
        return same(self.expected, self.found, self.tolerance)


@dataclass(frozen=True, kw_only=True)
class CaseTables:
    """The word tables that cases name, compiled from one wheel folder when a case first asks."""

    wheel: Path
    released: Path
    wheel_2026: Path | None = None

    def sources(self, version: str) -> WordSources:
        """The folder's content. Raises CasesError when it is not of that version and cannot be made so."""
        if version not in self._both:
            raise CasesError(
                f"{self.wheel}: cases need the word table {version}, and this folder is the other one"
            )
        return self._both[version]

    def table(self, version: str) -> WordTable:
        """The compiled table, its hash compared with the official one."""
        self.sources(version)
        return self._tables[version]

    @cached_property
    def _both(self) -> dict[str, WordSources]:
        given = read_sources(self.wheel)
        version = compile_words(given).version
        if version not in OFFICIAL:
            raise WordsError(f"{self.wheel}: no official version; give an unchanged copy of the folder")
        both = {version: given}
        if self.wheel_2026 is not None:
            both["mer2026"] = read_sources(self.wheel_2026)
        elif version == "affectgpt":
            both["mer2026"] = corrected_2026(given)
        for name, sources in both.items():
            if compile_words(sources).version != name:
                raise WordsError(
                    f"{self.wheel_2026 or self.wheel}: does not compile to the word table {name}"
                )
        return both

    @cached_property
    def _tables(self) -> dict[str, WordTable]:
        return {name: compile_words(sources) for name, sources in self._both.items()}


def same(expected: Any, found: Any, tolerance: float = TOLERANCE) -> bool:
    """Equal up to the tolerance; None and NaN are the same, True is not 1, Raised meets Raised."""
    if isinstance(expected, Raised) or isinstance(found, Raised):
        return isinstance(expected, Raised) and isinstance(found, Raised)
    if expected is None or (isinstance(expected, float) and math.isnan(expected)):
        return found is None or (isinstance(found, float) and math.isnan(found))
    if isinstance(expected, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(expected) == len(found)
            and all(same(one, other, tolerance) for one, other in zip(expected, found, strict=True))
        )
    numbers = [isinstance(one, int | float) and not isinstance(one, bool) for one in (expected, found)]
    if all(numbers):
        return bool(abs(expected - found) <= tolerance)
    return not any(numbers) and bool(expected == found)


def cases_of(name: str, group: Any, known: Sequence[str], needed: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The cases of a group, each with an `id`, a `version` and no key that is not known.

    A key may carry a version, as in `official_mer2026`: it is checked as a case of that version. Raises CasesError.
    """
    if not isinstance(group, dict) or not isinstance(group.get("cases"), list):
        raise CasesError(f"{name}: expected an object with a list of cases")
    require_keys(name, group, {"cases"})
    for number, case in enumerate(group["cases"], start=1):
        where = f"{name}: case {number}"
        if not isinstance(case, dict):
            raise CasesError(f"{where}: expected an object, found {show(case)}")
        where = f"{name}: {case.get('id', f'case {number}')}"
        for version, part in by_version(where, case, group).items():
            require_keys(where, part, {*known, *needed, *ERROR_KEYS})
            gone = [key for key in needed if key not in part]
            if gone:
                raise CasesError(f"{where}: no {', '.join(gone)}")
            yield {**part, "id": str(case.get("id", f"case {number}")), "version": version}


def by_version(where: str, case: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The case once for each word table that its keys name; "affectgpt" unless a key says otherwise."""
    named = [str(part[key]) for part in (case, group) for key in VERSION_KEYS if key in part]
    default = version_name(named[0]) if named else "affectgpt"
    plain = {key: value for key, value in case.items() if key not in VERSION_KEYS}
    parts: dict[str, dict[str, Any]] = {}
    inputs: dict[str, Any] = {key: plain.pop(key) for key in INPUTS if key in plain}
    for key, value in plain.items():
        base, _, suffix = key.rpartition("_")
        version = suffix if base and suffix in OFFICIAL else default
        parts.setdefault(version, dict(inputs))[base if version is suffix else key] = value
    only_remarks = [v for v, part in parts.items() if set(part) <= REMARKS | set(inputs) and len(parts) > 1]
    for version in only_remarks:
        del parts[version]
    return parts or {default: dict(inputs)}


def require_keys(where: str, values: Mapping[str, Any], known: set[str]) -> None:
    """Raises CasesError on a key that is neither known nor a remark."""
    strange = [key for key in values if key not in known | REMARKS | VERSION_KEYS and not key.startswith("_")]
    if strange:
        raise CasesError(
            f"{where}: {', '.join(strange)} not known, so not checked; known are {', '.join(sorted(known))}"
        )


def expected_error(case: Mapping[str, Any], value: Any) -> Raised | None:
    """The error that a case expects: under a key of its own or of its value, or named where the value would be."""
    for place in (case, value if isinstance(value, dict) else {}):
        for key in ERROR_KEYS:
            if place.get(key):
                return Raised(error=str(place[key]))
    named = isinstance(value, str) and ERROR_NAME.search(value)
    return Raised(error=str(value)) if named else None


def show(value: Any) -> str:
    """A value of a case, for people."""
    if isinstance(value, Raised):
        return f"an error ({value.error})"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "NaN"
    return repr(value)
