"""The files of a wheel folder: five wheels, eight runs of synonyms, the list of word forms.

Blank cells and the texts that pandas takes for blank are blank here too, since the official code reads with it.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniopsd.bench.lists import parse_list

Wheel = Mapping[str, Mapping[str, Sequence[str]]]
WHEELS, RUNS = 5, 8
LEVELS = ("level1", "level2", "level3")
BLANK = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A")
    + ("NA", "NULL", "NaN", "None", "n/a", "nan", "null")
)


class WordsError(ValueError):
    """A wheel folder that cannot be read, or holds another version than the one asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordSources:
    """`wheels`: five of level 1 -> level 2 -> level-3 words. `synonyms`: base word -> wheel words that it stands
    for. `forms`: base word -> its listed forms.
    """

    wheels: tuple[Wheel, ...]
    synonyms: Mapping[str, tuple[str, ...]]
    forms: Mapping[str, tuple[str, ...]]

    def wheel_words(self, wheel: int) -> set[str]:
        """All words on one wheel (1..5), of any level."""
        words: set[str] = set()
        for sector, branches in self.wheels[wheel - 1].items():
            words.add(sector)
            for branch, leaves in branches.items():
                words |= {branch, *leaves}
        return words

    def bases_of_forms(self) -> dict[str, set[str]]:
        """Form -> the base words that list it; a base word is a form of itself."""
        bases: dict[str, set[str]] = {}
        for base, forms in self.forms.items():
            for form in (*forms, base):
                bases.setdefault(form, set()).add(base)
        return bases


def read_sources(folder: str | Path) -> WordSources:
    """Read a wheel folder. Raises WordsError with the file, the row and what is wrong there."""
    folder = Path(folder)
    if not folder.is_dir():
        raise WordsError(f"{folder}: no such folder; give the emotion_wheel folder of the official release")
    wheels = tuple(_read_wheel(folder / f"wheel{number}.xlsx") for number in range(1, WHEELS + 1))
    bare = WordSources(wheels=wheels, synonyms={}, forms={})
    on_wheels = set().union(*(bare.wheel_words(number) for number in range(1, WHEELS + 1)))
    return WordSources(
        wheels=wheels,
        synonyms=_read_synonyms(folder / "synonym.xlsx", on_wheels),
        forms=_read_forms(folder / "format.csv"),
    )


def read_csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the named cells of every row, blank texts as "". Raises WordsError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise WordsError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise WordsError(f"{path}: byte {error.start} is not UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        at = _column_places(path, next(reader, []), columns)
        for row in reader:
            if row:
                yield reader.line_num, [row[i] if i < len(row) and row[i] not in BLANK else "" for i in at]
    except csv.Error as error:
        raise WordsError(f"{path}:{reader.line_num}: not a CSV row: {error}") from error


def _read_wheel(path: Path) -> Wheel:
    wheel: dict[str, dict[str, list[str]]] = {}
    above = ["", "", ""]
    for number, cells in _sheet_rows(path, LEVELS):
        above = [cell.lower().strip() or last for cell, last in zip(cells, above, strict=True)]
        if not above[0]:
            raise WordsError(f"{path}: row {number} has no level1 and none stands above it")
        wheel.setdefault(above[0], {}).setdefault(above[1], []).append(above[2])
    if not wheel:
        raise WordsError(f"{path}: the sheet has no rows")
    return wheel


def _read_synonyms(path: Path, on_wheels: set[str]) -> dict[str, tuple[str, ...]]:
    columns = [f"{kind}_run{run}" for run in range(1, RUNS + 1) for kind in ("word", "synonym")]
    targets: dict[str, set[str]] = {}
    for number, cells in _sheet_rows(path, columns):
        for word, listed in zip(cells[::2], cells[1::2], strict=True):
            word = word.strip().lower()
            if word not in on_wheels:
                raise WordsError(f"{path}: row {number}: {word!r} is on none of the wheels")
            for name in (word, *(synonym.strip().lower() for synonym in parse_list(listed))):
                targets.setdefault(name, set()).add(word)
    return {name: tuple(sorted(words)) for name, words in targets.items()}


def _read_forms(path: Path) -> dict[str, tuple[str, ...]]:
    forms: dict[str, tuple[str, ...]] = {}
    for number, (name, listed) in read_csv_rows(path, ("name", "format")):
        if not name:
            raise WordsError(f"{path}:{number}: the row has no name")
        forms[name] = (*forms.get(name, ()), *parse_list(listed))
    if not forms:
        raise WordsError(f"{path}: the file has no rows")
    return forms


def _sheet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Row number and the named cells of every row of the first sheet, blank ones as ""."""
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = openpyxl.load_workbook(path, data_only=True)
    except OSError as error:
        raise WordsError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (zipfile.BadZipFile, InvalidFileException, KeyError, ValueError, SyntaxError) as error:
        raise WordsError(f"{path}: not an xlsx file: {' '.join(str(error).split())}") from error
    rows = book.worksheets[0].iter_rows(values_only=True)
    at = _column_places(path, next(rows, ()), columns)
    for number, row in enumerate(rows, start=2):
        cells = [_cell(path, number, row[index]) for index in at]
        if any(cells):
            yield number, cells


def _column_places(path: Path, header: Sequence[Any], columns: Sequence[str]) -> list[int]:
    gone = [name for name in columns if name not in header]
    if gone:
        raise WordsError(f"{path}: no column {', '.join(gone)}; the first row must name the columns")
    return [list(header).index(name) for name in columns]


def _cell(path: Path, number: int, value: Any) -> str:
    if value is None or value in BLANK:
        return ""
    if not isinstance(value, str):
        raise WordsError(f"{path}: row {number}: expected a word, found {value!r}")
    return value
