"""A run's samples with their rationales from the cache, by key; what is missing is said or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from omniopsd.config import RunConfig
from omniopsd.rationales.requests import RequestBook
from omniopsd.samples import Sample, read_samples
from rationale_cache.config import RationaleCacheConfig
from rationale_cache.errors import CacheMissing
from rationale_cache.escape import escape
from rationale_cache.reader import CacheReader
from rationale_cache.types import RationaleRecord


class RationaleError(ValueError):
    """Samples whose rationales cannot be had from the cache as the config asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Samples after the look-up. `samples` has those that stay; counts are of those that were asked for."""

    samples: tuple[Sample, ...]
    found: int
    missing: int
    none: Counter[str]

    def line(self, name: str, config: RationaleCacheConfig) -> str:
        """One sentence for people."""
        asked = self.found + self.missing + self.none.total()
        text = f"{name}: {self.found} of {asked} samples have a rationale in {config.path}"
        if self.missing:
            fate = {"skip": "left out", "make": "still to be made"}[config.on_miss]
            text += f"; {self.missing} are not in it and {fate} (on_miss: {config.on_miss})"
        if self.none:
            reasons = ", ".join(f"{count} {fault}" for fault, count in self.none.most_common())
            text += f"; {self.none.total()} have no rationale ({reasons})"
        return text


def needs_rationales(config: RunConfig) -> bool:
    """Whether anything in this run reads rationales: its teacher, or a supervised target."""
    if config.objective.divergence == "cross_entropy":
        return config.objective.supervised == "rationale"
    return config.objective.has_teacher and config.teacher.privilege not in ("none", "label")


def run_samples(config: RunConfig, path: str, *, held_out: bool = False) -> tuple[Sample, ...]:
    """The samples of a data file, with rationales from the cache where the config has one; says what it found.

    Held-out samples are looked up only where the teacher answers them, and stay without a rationale too.
    Raises SampleError, RationaleError.
    """
    samples = read_samples(path)
    cache = config.rationale_cache
    if cache is None or not needs_rationales(config):
        return samples
    if held_out and not config.eval.teacher:
        return samples
    asked = samples[: config.eval.samples] if held_out else samples
    looked = look_up(cache, RequestBook(cache, config.data.media), asked, keep=held_out)
    print(looked.line("data.test" if held_out else "data.train", cache))
    return (*looked.samples, *samples[len(asked) :])


def look_up(
    config: RationaleCacheConfig, book: RequestBook, samples: Sequence[Sample], *, keep: bool = False
) -> Looked:
    """Give every sample the rationale under its key. Raises RationaleError; with `keep` no sample is left out."""
    require_labels(config, samples)
    samples = one_source(config, samples)
    records = _records(config, book, samples)
    missing = [sample for sample in samples if sample.rationale is None and sample.sample_id not in records]
    if missing and config.on_miss == "fail":
        raise RationaleError(
            f"{config.path}: {len(missing)} of {len(samples)} samples have no record (first: {missing[0].where}); run "
            "`omniopsd rationales make`, or set rationale_cache.on_miss: make or skip"
        )
    gone = set() if keep else {sample.sample_id for sample in missing}
    none = Counter(_fault(record) for record in records.values() if record.text is None)
    stay = [sample for sample in samples if sample.sample_id not in gone]
    found = len(samples) - len(missing) - none.total()
    if not found and config.on_miss != "make":
        raise RationaleError(
            f"{config.path}: none of {len(samples)} samples has a rationale for this model, prompt and mode; run "
            "`omniopsd rationales make`"
        )
    given = tuple(_with(sample, records.get(sample.sample_id)) for sample in stay)
    return Looked(samples=given, found=found, missing=len(missing), none=none)


def require_labels(config: RationaleCacheConfig, samples: Sequence[Sample]) -> None:
    """Raises RationaleError for a label-conditioned cache of samples without labels."""
    bare = [sample.where for sample in samples if not sample.labels]
    if bare and config.mode == "label_conditioned":
        raise RationaleError(
            f"{bare[0]}: no labels ({len(bare)} of {len(samples)} samples), and rationale_cache.mode is "
            "label_conditioned; add labels, or write mode: blind"
        )


def one_source(config: RationaleCacheConfig, samples: Sequence[Sample]) -> list[Sample]:
    """Each sample with one source of its rationale: the data file's is taken away, kept, or refused."""
    both = [sample for sample in samples if sample.rationale is not None]
    if both and config.on_both == "fail":
        raise RationaleError(
            f"{both[0].where}: a rationale in the data file, beside rationale_cache ({len(both)} such samples); take "
            "the column out, or set rationale_cache.on_both: cache or data"
        )
    if config.on_both == "data":
        return list(samples)
    return [replace(sample, rationale=None) for sample in samples]


def _records(
    config: RationaleCacheConfig, book: RequestBook, samples: Sequence[Sample]
) -> dict[str, RationaleRecord]:
    """The records that the cache has, by sample id; a cache that is not there yet has none."""
    try:
        with CacheReader(config.path) as cache:
            keys = book.keys([sample for sample in samples if sample.rationale is None])
            records = cache.many(set(keys.values()))
    except CacheMissing:
        if config.on_miss == "fail":
            raise
        return {}
    return {sample_id: records[key] for sample_id, key in keys.items() if key in records}


def _with(sample: Sample, record: RationaleRecord | None) -> Sample:
    if record is None or record.text is None:
        return sample
    # What was imported has passed no filter of ours; escaping twice changes nothing.
    return replace(sample, rationale=escape(record.text), rationale_key=record.key)


def _fault(record: RationaleRecord) -> str:
    return (record.reason or "").partition(":")[0]
