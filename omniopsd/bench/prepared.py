"""A folder that `bench prepare` has written: samples by set, gold labels, and what they were made from.

OUT/bench.json               benchmark, split, word table, sets with counts and hashes
    MELD/samples.jsonl       the project's sample form: train, eval and check read it too
    MELD/gold.json           clip name -> gold label, of all clips that count
    MELD/media/              the clips (hard links where the file system allows)
    MELD/evidence.jsonl      mer-mini only: what each modality shows
    checked.jsonl            which media were decoded without a fault
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omniopsd.bench.datasets import BenchSet, bench_set
from omniopsd.bench.labels import Gold
from omniopsd.bench.own_words import own_table
from omniopsd.bench.splits import Split
from omniopsd.bench.words import WordTable, read_words
from omniopsd.samples import Sample, read_samples

Benchmark = Literal["mer-unibench", "mer-mini"]
BENCHMARKS: tuple[Benchmark, ...] = ("mer-unibench", "mer-mini")
FORMAT = 1
MANIFEST, SAMPLES, GOLD, EVIDENCE = "bench.json", "samples.jsonl", "gold.json", "evidence.jsonl"


class PreparedError(ValueError):
    """A folder that `bench prepare` has not written, or that was changed since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSet:
    """One set: its clips with media (`samples`) and all that count (`gold`); `broken` clips have no sample."""

    bench_set: BenchSet
    samples: tuple[Sample, ...]
    gold: Mapping[str, Gold]
    broken: tuple[str, ...]
    evidence: Mapping[str, Mapping[str, Any]]

    def first(self, count: int | None) -> PreparedSet:
        """A subset: the first `count` clips, None for all; gold and broken clips follow."""
        if count is None or count >= len(self.gold):
            return self
        names = set(list(self.gold)[:count])
        return replace(
            self,
            samples=tuple(sample for sample in self.samples if clip_of(sample) in names),
            gold={name: gold for name, gold in self.gold.items() if name in names},
            broken=tuple(name for name in self.broken if name in names),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The folder's content. `wheel` is the wheel folder that was checked when it was made, if one was given."""

    folder: Path
    benchmark: Benchmark
    split: Split
    sets: tuple[PreparedSet, ...]
    wheel: str | None
    words_version: str
    question_sha256: str

    def table(self, wheel: str | None = None, version: str | None = None) -> WordTable | None:
        """The word table to score with; None when no wheel folder is known. Raises WordsError."""
        if self.benchmark == "mer-mini" and wheel is None:
            return own_table()
        folder = wheel or self.wheel
        return None if folder is None else read_words(folder, version or self.words_version)


def clip_of(sample: Sample) -> str:
    """The clip's official name: a sample's id is `<set>/<clip>`."""
    return sample.sample_id.partition("/")[2]


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """The last file of a folder: with it, the folder is complete."""
    draft = folder / (MANIFEST + ".part")
    draft.write_text(json.dumps({"format": FORMAT, **content}, indent=1) + "\n")
    draft.replace(folder / MANIFEST)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_prepared(folder: str | Path, benchmark: str | None, names: Sequence[str] | None = None) -> Prepared:
    """Read the sets of some names (None: all); `benchmark` None takes either.

    Raises PreparedError, SampleError, UnknownSetError.
    """
    folder = Path(folder)
    content = _manifest(folder)
    if benchmark not in (None, content["benchmark"]):
        raise PreparedError(f"{folder}: holds {content['benchmark']}, not {benchmark}; give the other folder")
    held = content["sets"]
    wanted = list(held) if names is None else [bench_set(name).name for name in names]
    if lacking := [name for name in wanted if name not in held]:
        raise PreparedError(
            f"{folder}: holds {', '.join(held)}, not {', '.join(lacking)}; prepare them, or name others"
        )
    return Prepared(
        folder=folder,
        benchmark=content["benchmark"],
        split=content["split"],
        sets=tuple(_read_set(folder / name, name, held[name]) for name in wanted),
        wheel=content["words"]["folder"],
        words_version=content["words"]["version"],
        question_sha256=content["question"]["sha256"],
    )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PreparedError(f"{path}: not there; run `omniopsd bench prepare` into {folder} first") from error
    except (OSError, ValueError) as error:
        raise PreparedError(f"{path}: cannot be read ({error}); prepare the folder anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PreparedError(f"{path}: is not of format {FORMAT}; prepare the folder anew")
    return content


def _read_set(folder: Path, name: str, facts: Mapping[str, Any]) -> PreparedSet:
    for file in (SAMPLES, GOLD):
        path = folder / file
        if not path.is_file() or file_sha256(path) != facts["sha256"][file]:
            raise PreparedError(f"{path}: missing, or changed since it was prepared; prepare the folder anew")
    evidence = folder / EVIDENCE
    rows = [json.loads(line) for line in evidence.read_text().splitlines()] if evidence.is_file() else []
    samples = read_samples(folder / SAMPLES)
    return PreparedSet(
        bench_set=bench_set(name),
        samples=samples,
        gold=json.loads((folder / GOLD).read_text(encoding="utf-8")),
        broken=tuple(facts["broken"]),
        evidence={row["name"]: row for row in rows},
    )
