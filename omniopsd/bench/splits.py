"""Which clips of a set are asked: the official test clips, or a validation part to choose checkpoints on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from omniopsd.bench.datasets import NINE, BenchSet, bench_set

Split = Literal["test", "val"]
VALIDATION: dict[str, tuple[str, str]] = {
    "MELD": ("val_corpus", ""),
    "IEMOCAP": ("whole_corpus", r".{4}4"),
    "MOSI": ("val_corpus", ""),
    "MOSEI": ("val_corpus", ""),
    "SIMS": ("val_corpus", ""),
    "SIMSv2": ("val_corpus", ""),
}
"""Dictionary of the label file and name pattern. IEMOCAP has no official one: session 4, ours. The label files
of MER2023, MER2024 and OV-MERD+ have none at all."""


class SplitError(ValueError):
    """Sets that are asked for and have no such part."""


def chosen_sets(names: Sequence[str] | None, split: Split) -> tuple[BenchSet, ...]:
    """The sets of some names (None: all that have the split), as they are scored there.

    Raises SplitError and UnknownSetError.
    """
    wanted = NINE if names is None else tuple(bench_set(name) for name in names)
    twice = {one.name for one in wanted if wanted.count(one) > 1}
    if twice:
        raise SplitError(f"--sets names {', '.join(sorted(twice))} twice; name each set once")
    if split == "test":
        return wanted
    lacking = [one.name for one in wanted if one.name not in VALIDATION]
    if lacking and names is not None:
        raise SplitError(
            f"--sets {', '.join(lacking)}: the official label file has no validation part; "
            f"leave it out, the sets with one are {', '.join(VALIDATION)}"
        )
    return tuple(_validation(one) for one in wanted if one.name in VALIDATION)


def _validation(one: BenchSet) -> BenchSet:
    split, pattern = VALIDATION[one.name]
    return replace(one, split=split, name_pattern=pattern)
