"""What differs between two caches: keys, and the texts of the same samples."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rich.console import Console

from rationale_cache.reader import CacheReader
from rationale_cache.types import RationaleRecord

EXAMPLES = 10


def difference(one: CacheReader, other: CacheReader) -> dict[str, Any]:
    """Counts and examples. `altered` keys have two contents: one of the caches was changed by hand."""
    keys, other_keys = set(one.keys()), set(other.keys())
    altered = [key for key in sorted(keys & other_keys) if _content(one.get(key)) != _content(other.get(key))]
    texts, other_texts = _texts(one, keys - other_keys), _texts(other, other_keys - keys)
    both, shared = texts.keys() & other_texts.keys(), _texts(one, keys & other_keys).keys()
    changed = sorted(name for name in both if texts[name] != other_texts[name])
    return {
        "same": len(keys & other_keys) - len(altered),
        "only_first": len(keys - other_keys),
        "only_second": len(other_keys - keys),
        "altered": altered,
        "samples_with_another_text": [" / ".join(name) for name in changed],
        "samples_only_first": [
            " / ".join(name) for name in sorted(texts.keys() - other_texts.keys() - shared)
        ],
        "samples_only_second": [
            " / ".join(name) for name in sorted(other_texts.keys() - texts.keys() - shared)
        ],
    }


def print_difference(found: dict[str, Any], console: Console) -> None:
    """The counts as lines, with a few examples each."""
    lines = [f"{found['same']:,} records are the same, {found['only_first']:,} are only in the first, "
             f"{found['only_second']:,} only in the second"]  # fmt: skip
    titles = {
        "altered": "keys with two contents (a key never changes: one cache was altered)",
        "samples_with_another_text": "samples whose texts differ",
        "samples_only_first": "samples only in the first",
        "samples_only_second": "samples only in the second",
    }
    for name, title in titles.items():
        if names := found[name]:
            more = ", ..." if len(names) > EXAMPLES else ""
            lines.append(f"{len(names):,} {title}: {', '.join(names[:EXAMPLES])}{more}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _content(record: RationaleRecord | None) -> Any:
    return record and (record.text, record.reason, record.cues)


def _texts(cache: CacheReader, keys: set[str]) -> dict[tuple[str, str], set[str | None]]:
    """The texts of each sample under these keys; a sample is a data set and an id."""
    texts: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    for key in keys:
        record = cache.get(key)
        assert record is not None
        texts[record.dataset, record.sample_id].add(record.text)
    return texts
