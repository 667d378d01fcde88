"""Nine miniature sets on the disk, prepared, and replies to them: what the benchmark's tests work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from omniopsd.bench.extract import Extraction, literal_steps
from omniopsd.bench.own_words import own_table
from omniopsd.bench.prepare import PrepareOptions, prepare
from omniopsd.bench.prepared import Prepared, PreparedSet, read_prepared
from omniopsd.bench.scoring import Scored, score_all
from omniopsd.mer_mini.bench_sets import write_mini_bench

CLIPS, VAL_CLIPS = 6, 3
QUIET = Console(quiet=True)


def mini_root(folder: Path, clips: int = CLIPS, val_clips: int = VAL_CLIPS) -> Path:
    """The nine sets in their official layout."""
    return write_mini_bench(folder / "root", clips, val_clips, 7)


def prepared_mini(root: Path, out: Path, **changes: object) -> Prepared:
    """The same, prepared and read back."""
    options = PrepareOptions(benchmark="mer-mini", root=root, out=out, **changes)  # type: ignore[arg-type]
    prepare(options, QUIET)
    return read_prepared(out, "mer-mini")


def scored_with(
    sets: tuple[PreparedSet, ...],
    answer: Callable[[PreparedSet, str], str],
    cut: Mapping[str, bool] | None = None,
) -> Scored:
    """Scores of replies made by `answer(set, clip)`, extracted by fixed rules."""
    replies = {
        sample.sample_id: answer(one, sample.sample_id.partition("/")[2])
        for one in sets
        for sample in one.samples
    }
    sentiment = {one.bench_set.name for one in sets if one.bench_set.metric == "waf"}
    extraction: Extraction = literal_steps(replies, lambda id_: id_.partition("/")[0] in sentiment)
    return score_all(sets, replies, extraction, own_table(), cut or {})
