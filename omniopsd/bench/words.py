"""The word table: label -> its cluster on each of the five emotion wheels, compiled from a wheel folder.

The project ships neither the official files nor a table made from them: it reads the user's copy of the folder
(`wheel1..5.xlsx`, `synonym.xlsx`, `format.csv`) and knows the compiled table by its hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from omniopsd.bench.wheel_files import WHEELS, Wheel, WordsError, WordSources, read_sources

Level = Literal[1, 2]
Row = tuple[str, ...]
OFFICIAL = {
    "affectgpt": "b3ac5d92acf4b358a9ac4ca16446ed49aab7c4c4ac1f5f6b1645e34fc2f3a9ae",
    "mer2026": "5765466fa1a425cd84d467c140020f40fb60d94c063ab8f41ce40cc7a57dd4ca",
}
ALIASES = {
    "affectgpt": "affectgpt",
    "mer2025": "affectgpt",
    "affectgptmer2025": "affectgpt",
    "mer2026": "mer2026",
    "own": "own",
}


@dataclass(frozen=True, kw_only=True)
class WordTable:
    """`rows`: form -> its level-1 cluster on wheels 1..5, then its level-2 clusters; "" where it has none.

    `version` is "affectgpt", "mer2026", "own", or "unknown" for a folder that is neither official one.
    """

    version: str
    rows: Mapping[str, Row]

    def clusters(self, label: str, level: Level = 1) -> Row:
        """The label's clusters on wheels 1..5, "" where it has none. Case and outer spaces count."""
        row = self.rows.get(label, ("",) * 2 * WHEELS)
        return row[:WHEELS] if level == 1 else row[WHEELS:]

    def __contains__(self, label: str) -> bool:
        return label in self.rows

    @cached_property
    def sha256(self) -> str:
        """Hash of the table as JSON: keys sorted by code point, no spaces, ASCII only."""
        text = json.dumps(dict(self.rows), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_words(folder: str | Path, version: str = "affectgpt") -> WordTable:
    """The table of a wheel folder, verified by its hash. Raises WordsError: unreadable, or another version."""
    wanted = version_name(version)
    if wanted == "own":
        raise WordsError('the version "own" is built in and has no folder; leave the folder out')
    table = compile_folder(folder)
    if table.version == wanted:
        return table
    found = (
        f"the {table.version} version; ask for it by that name or give the folder of the {wanted} release"
        if table.version in OFFICIAL
        else f"no official version (compiled table {table.sha256[:12]}...); give an unchanged copy of the folder"
    )
    raise WordsError(
        f"{folder}: asked for the word table {wanted} ({OFFICIAL[wanted][:12]}...), found {found}"
    )


def compile_folder(folder: str | Path) -> WordTable:
    """The table of any wheel folder, its version told by its hash. Raises WordsError with the file and row."""
    return compile_words(read_sources(folder))


def version_name(text: str) -> str:
    """ "affectgpt", "mer2026" or "own" of any spelling, "MER2025" being the first. Raises WordsError."""
    name = ALIASES.get(re.sub(r"[\s/_-]", "", text).lower())
    if name is None:
        raise WordsError(f"{text!r} is no word table; write affectgpt (the same as mer2025), mer2026 or own")
    return name


def compile_words(sources: WordSources, version: str | None = None) -> WordTable:
    """The table of sources; without `version`, the hash tells it. Raises WordsError."""
    homes = [level1_homes(wheel) for wheel in sources.wheels] + [level2_homes(w) for w in sources.wheels]
    rows: dict[str, Row] = {}
    for form, bases in sources.bases_of_forms().items():
        # The order of code points decides which of several wheel words speaks for a form.
        words = sorted({word for base in bases for word in _wheel_words(sources, base)})
        rows[form] = tuple(next((home[w] for w in words if w in home), "") for home in homes)
    table = WordTable(version=version or "unknown", rows=rows)
    known = {sha: name for name, sha in OFFICIAL.items()}
    return table if version else replace(table, version=known.get(table.sha256, "unknown"))


def corrected_2026(sources: WordSources) -> WordSources:
    """The AffectGPT sources with the MER2026 release's correction of `format.csv`.

    That release takes the forms without "-less" from the words that end so (`fear` from `fearless`), and a few
    "-less" forms from other words. Whoever uses this compares the compiled table's hash with the official one.
    """

    def kept(base: str, form: str) -> bool:
        if base in ("attention", "regard"):
            return True
        return ("less" in form) == ("less" in base) and form != "fearlesses"

    forms = {base: tuple(f for f in listed if kept(base, f)) for base, listed in sources.forms.items()}
    return replace(sources, forms=forms)


def level1_homes(wheel: Wheel) -> dict[str, str]:
    """Word -> the level-1 name of its sector; a later place of the same word overwrites an earlier one."""
    homes: dict[str, str] = {}
    for sector, branches in wheel.items():
        homes[sector] = sector
        for branch, leaves in branches.items():
            homes |= dict.fromkeys((branch, *leaves), sector)
    return homes


def level2_homes(wheel: Wheel) -> dict[str, str]:
    """Word -> its level-2 name; a level-1 name goes to the alphabetically first of its level-2 names."""
    homes: dict[str, str] = {}
    for sector, branches in wheel.items():
        homes[sector] = min(branches)
        for branch, leaves in branches.items():
            homes |= dict.fromkeys((branch, *leaves), branch)
    return homes


def _wheel_words(sources: WordSources, base: str) -> tuple[str, ...]:
    if base not in sources.synonyms:
        raise WordsError(f"the word {base!r} of the form list is in no synonym list; the folder is not whole")
    return sources.synonyms[base]
