"""Files of the benchmark in small: a wheel folder, label files and predictions in the official forms."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest

from omniopsd.bench.wheel_files import RUNS, WordSources

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "merbench"
needs_shared = pytest.mark.skipif(
    not (SHARED / "cases.json").is_file(),
    reason=f"the official wheels, labels and outputs are not at {SHARED}",
)


def write_wheel_folder(folder: Path, sources: WordSources) -> Path:
    """The folder that `read_sources` reads back as `sources`."""
    folder.mkdir()
    for number, wheel in enumerate(sources.wheels, start=1):
        rows: list[Sequence[Any]] = [("level1", "level2", "level3")]
        for sector, branches in wheel.items():
            for branch, leaves in branches.items():
                # As people write them: the outer names once, blanks below.
                rows += [
                    (sector.title() if not at else None, f" {branch}" if not at else None, leaf)
                    for at, leaf in enumerate(leaves)
                ]
                sector = sector.upper()
        write_sheet(folder / f"wheel{number}.xlsx", rows)
    write_sheet(folder / "synonym.xlsx", synonym_rows(sources))
    with open(folder / "format.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("name", "format"), *((base, ",".join(forms)) for base, forms in sources.forms.items())]
        )
    return folder


def synonym_rows(sources: WordSources) -> list[list[str]]:
    """One row for each wheel word; odd runs list all of its synonyms, even runs none."""
    listed: dict[str, list[str]] = {}
    for name, words in sources.synonyms.items():
        for word in words:
            listed.setdefault(word, []).append(name)
    head = [f"{kind}_run{run}" for run in range(1, RUNS + 1) for kind in ("word", "synonym")]
    rows = [head]
    for word, names in listed.items():
        full, none = str([name for name in names if name != word]), "[]"
        rows.append([cell for run in range(1, RUNS + 1) for cell in (word, full if run % 2 else none)])
    return rows


def write_sheet(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(list(row))
    book.save(path)
    return path


def write_labels(path: Path, **corpora: Mapping[str, Any]) -> Path:
    """Pickled dictionaries of clips, as in the official `label*.npz`."""
    np.savez(path, **{name: np.array(dict(corpus), dtype=object) for name, corpus in corpora.items()})
    return path


def write_openset(path: Path, names: Any, items: Any) -> Path:
    """`filenames` and `fileitems` as given."""
    np.savez_compressed(path, filenames=names, fileitems=items)
    return path
