"""Worked cases of a file, compared one by one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniopsd.bench.case_groups import GROUPS
from omniopsd.bench.cases import CasesError, CaseTables, show


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """`compared`: comparisons by group; `mismatches` and `unchecked` as lines for people."""

    compared: Mapping[str, int]
    mismatches: tuple[str, ...]
    unchecked: tuple[str, ...]


def run_cases(path: str | Path, tables: CaseTables) -> CaseReport:
    """Run every case of a file. Raises CasesError, WordsError and what released files may raise."""
    groups = _groups(Path(path), GROUPS)
    compared: Counter[str] = Counter()
    mismatches: list[str] = []
    unchecked: list[str] = []
    for name, group in groups.items():
        for finding in GROUPS[name](name, group, tables):
            where = f"{name}: {finding.case}"
            if finding.unchecked:
                unchecked.append(f"{where}: {finding.unchecked}")
                continue
            compared[name] += 1
            if not finding.holds:
                mismatches.append(
                    f"{where}: {finding.what}: expected {show(finding.expected)}, found {show(finding.found)}"
                )
    if not compared:
        raise CasesError(f"{path}: nothing in it could be compared")
    return CaseReport(compared=dict(compared), mismatches=tuple(mismatches), unchecked=tuple(unchecked))


def _groups(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise CasesError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CasesError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CasesError(f"{path}: expected an object of case groups")
    groups = {name: group for name, group in content.items() if not name.startswith("_")}
    strange = [name for name in groups if name not in known]
    if strange:
        raise CasesError(
            f"{path}: {', '.join(strange)}: no known group of cases, so not checked; known are {', '.join(known)}"
        )
    return groups
