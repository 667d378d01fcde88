"""What is compared in each group of a case file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniopsd.bench.cases import (
    CasesError,
    CaseTables,
    Finding,
    Raised,
    by_version,
    cases_of,
    expected_error,
    require_keys,
)
from omniopsd.bench.datasets import BenchSet, bench_set
from omniopsd.bench.labels import read_labels
from omniopsd.bench.lists import LoneBracketError, clean_reply, parse_list
from omniopsd.bench.metrics import EwF1, HitRate, Sentiment, benchmark_mean, ew_f1, hit_rate, sentiment
from omniopsd.bench.overlaps import project
from omniopsd.bench.predictions import polarities, read_predictions
from omniopsd.bench.score import score_set
from omniopsd.bench.wheel_files import WHEELS
from omniopsd.bench.words import Level, WordTable, level2_homes, version_name

Group = Callable[[str, Any, CaseTables], Iterator[Finding]]
HALF_DIGIT = 5e-5 + 1e-9  # the table of released outputs is in percent with 4 decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedFiles:
    """What one checkpoint of a set is scored from; `sentiment` exists for sentiment sets."""

    labels: Path
    openset: Path
    sentiment: Path


def parse_cases(name: str, group: Any, tables: CaseTables) -> Iterator[Finding]:
    """`in` -> list `out`."""
    for case in cases_of(name, group, ("in", "out"), ("in",)):
        expected = expected_error(case, case.get("out"))
        expected = expected or (case["out"] if case.get("out") is not None else Raised(error="null"))
        yield Finding(
            case=_named(case, "in"),
            what="list",
            expected=expected,
            found=_try(parse_list, case["in"]),
        )


def reply_cases(name: str, group: Any, tables: CaseTables) -> Iterator[Finding]:
    """`in` -> text `out`."""
    for case in cases_of(name, group, ("in", "out"), ("in", "out")):
        yield Finding(
            case=_named(case, "in"), what="text", expected=case["out"], found=clean_reply(case["in"])
        )


def word_cases(name: str, group: Any, tables: CaseTables) -> Iterator[Finding]:
    """`word` -> five clusters under `level1` and `level2`, or under the name of a word table (level 1)."""
    known = ("level1", "level2", "affectgpt", "mer2026", "mer2025", "affectgpt_mer2025")
    for case in cases_of(name, group, known, ("word",)):
        word, compared = case["word"], 0
        for key in known:
            if key not in case:
                continue
            level: Level = 2 if key == "level2" else 1
            version = case["version"] if key.startswith("level") else version_name(key)
            found = list(tables.table(version).clusters(word, level))
            compared += 1
            yield Finding(case=repr(word), what=f"{version} level {level}", expected=case[key], found=found)
        if not compared:
            raise CasesError(f"{name}: {word!r}: no clusters to compare with")


def hit_cases(name: str, group: Any, tables: CaseTables) -> Iterator[Finding]:
    """`gt`, `pred` -> `official` hitrate and mscore, and the same with `kept` on each wheel."""
    for case in cases_of(name, group, ("official", "per_wheel"), ("gt", "pred", "official")):
        table = tables.table(case["version"])
        found = _try(_hits, case, table)
        yield from _compare(case, found, {"hitrate": "hitrate", "mscore": "mscore"})


def ew_cases(name: str, group: Any, tables: CaseTables) -> Iterator[Finding]:
    """`gt`, `pred`, `level` -> `official` fscore, precision, recall, and the same with `kept` on each wheel."""
    for case in cases_of(name, group, ("level", "official", "per_wheel"), ("gt", "pred", "official")):
        table, level = tables.table(case["version"]), _level(case)
        found = _try(_ew, case, table, level)
        yield from _compare(
            case, found, {"fscore": "f", "f": "f", "precision": "precision", "recall": "recall"}
        )


def sentiment_cases(name: str, group: Any, tables: CaseTables) -> Iterator[Finding]:
    """`gt`, `pred` -> `official` waf and acc."""
    for case in cases_of(name, group, ("official",), ("gt", "pred", "official")):
        found = _try(_sentiment, case)
        if isinstance(found, Sentiment) and not found.kept and expected_error(case, case["official"]):
            found = Raised(error="no clip counts")
        yield from _compare(case, found, {})


def mean_cases(name: str, group: Any, tables: CaseTables) -> Iterator[Finding]:
    """`scores` of the nine sets -> `mean`."""
    for case in cases_of(name, group, ("scores", "mean"), ("scores", "mean")):
        label = str(case.get("system", case["id"]))
        yield Finding(case=label, what="mean", expected=case["mean"], found=benchmark_mean(case["scores"]))


def resource_cases(name: str, group: Any, tables: CaseTables) -> Iterator[Finding]:
    """Sizes, names and hashes of the compiled word tables."""
    if not isinstance(group, dict):
        raise CasesError(f"{name}: expected an object")
    for version, part in by_version(name, group, {}).items():
        hashes = part.pop("compiled_table_sha256", {})
        for key, sha in hashes.items():
            if key not in ("definition", "note"):
                found = tables.table(version_name(key)).sha256
                yield Finding(case="compiled_table_sha256", what=key, expected=sha, found=found)
        known = _resources(tables, version)
        require_keys(name, part, {*known, "compiled_table_sha256"})
        for key in part.keys() & known.keys():
            expected = part[key]
            if isinstance(expected, dict):
                expected = [sorted(expected[f"wheel{wheel}"]) for wheel in range(1, WHEELS + 1)]
            yield Finding(case=key, what=version, expected=expected, found=known[key])


def released_cases(name: str, group: Any, tables: CaseTables) -> Iterator[Finding]:
    """Scores in percent of released outputs, where their files lie in `released/<set>/`."""
    if not isinstance(group, dict) or not isinstance(group.get("table"), dict):
        raise CasesError(f"{name}: expected an object with a table")
    require_keys(name, group, {"table"})
    for set_name, rows in group["table"].items():
        one, folder = bench_set(set_name), tables.released / set_name
        for checkpoint, expected in rows.items():
            case = f"{set_name} {checkpoint}"
            files = _released_files(one, folder, checkpoint)
            if isinstance(files, str):
                yield Finding(
                    case=case, what="", expected=expected, unchecked=f"not checked, {files} in {folder}"
                )
                continue
            found = _released(one, files, tables)
            yield Finding(case=case, what="percent", expected=expected, found=found, tolerance=HALF_DIGIT)


GROUPS: dict[str, Group] = {
    "resource_checks": resource_cases,
    "word_to_wheels": word_cases,
    "word_to_wheels_changed_in_mer2026": word_cases,
    "parse_list": parse_cases,
    "postprocess_llm_reply": reply_cases,
    "ew_f1": ew_cases,
    "hit_rate": hit_cases,
    "sentiment": sentiment_cases,
    "benchmark_mean": mean_cases,
    "reproduction_on_released_outputs": released_cases,
}


def _compare(case: Mapping[str, Any], found: Any, on_wheel: Mapping[str, str]) -> Iterator[Finding]:
    """The `official` values and those of `per_wheel`; `on_wheel` maps their names to our fields of a wheel."""
    official, label = case["official"], case["id"]
    error = expected_error(case, official)
    if official is None:  # the official code gave nothing at all
        error = Raised(error="null")
    if error or isinstance(found, Raised):
        yield Finding(case=label, what="result", expected=error or official, found=found)
        return
    if not isinstance(official, dict):
        raise CasesError(f"{label}: official must be an object of values, found {official!r}")
    for key, expected in official.items():
        yield Finding(case=label, what=key, expected=expected, found=_field(label, found, key))
    for row in case.get("per_wheel", ()):
        wheel = found.wheels[_wheel(label, row) - 1]
        for key, expected in row.items():
            if key != "wheel":
                value = _field(label, wheel, on_wheel.get(key, key))
                yield Finding(case=label, what=f"wheel {wheel.wheel} {key}", expected=expected, found=value)


def _field(label: str, found: HitRate | EwF1 | Sentiment | Any, key: str) -> Any:
    if not hasattr(found, key) or key in ("wheels", "wheel"):
        raise CasesError(f"{label}: {key} is no value that is computed here, so not checked")
    return getattr(found, key)


def _wheel(label: str, row: Any) -> int:
    number = re.fullmatch(r"(?:wheel)?([1-5])", str(row.get("wheel"))) if isinstance(row, dict) else None
    if number is None:
        raise CasesError(f"{label}: a row of per_wheel needs a wheel from 1 to {WHEELS}")
    return int(number[1])


def _level(case: Mapping[str, Any]) -> Level:
    number = re.fullmatch(r"(?:level)?([12])", str(case.get("level", 1)))
    if number is None:
        raise CasesError(f"{case['id']}: level {case['level']!r} is neither 1 nor 2")
    return 2 if number[1] == "2" else 1


def _resources(tables: CaseTables, version: str) -> dict[str, Any]:
    sources, table = tables.sources(version), tables.table(version)
    words = [sources.wheel_words(wheel) for wheel in range(1, WHEELS + 1)]
    return {
        "word_forms": len(table.rows),
        "base_words": len(sources.synonyms),
        "wheel_labels": len(set().union(*words)),
        "forms_with_nonempty_cluster_per_wheel": _covered(table),
        "level1_names": [sorted(wheel) for wheel in sources.wheels],
        "level2_cluster_counts": [len(set(level2_homes(wheel).values())) for wheel in sources.wheels],
        "vocab_size_per_wheel": [len(one) for one in words],
    }


def _covered(table: WordTable) -> list[int]:
    return [sum(bool(row[wheel]) for row in table.rows.values()) for wheel in range(WHEELS)]


def _released_files(one: BenchSet, folder: Path, checkpoint: str) -> ReleasedFiles | str:
    """The files of one checkpoint, or what there is none of. Raises CasesError when there are several."""
    outputs = sorted(folder.glob(f"**/checkpoint_{checkpoint}_*-openset.npz"))
    labels = sorted(folder.glob(f"**/{one.layout.labels}")) or sorted(folder.glob("**/label*.npz"))
    for what, paths in (("outputs", outputs), ("labels", labels)):
        if not paths:
            return f"no {what}"
        if len(paths) > 1:
            raise CasesError(f"{folder}: {paths[0].name} and {paths[1].name} could both be the {what}")
    polarity = outputs[0].with_name(f"{outputs[0].stem}-sentiment.npz")
    if one.metric == "waf" and not polarity.is_file():
        return f"no {polarity.name}"
    return ReleasedFiles(labels=labels[0], openset=outputs[0], sentiment=polarity)


def _released(one: BenchSet, files: ReleasedFiles, tables: CaseTables) -> list[float]:
    waf = one.metric == "waf"
    detail = score_set(
        one,
        read_labels(one, files.labels),
        read_predictions(files.openset),
        table=None if waf else tables.table("affectgpt"),
        sentiment=polarities(read_predictions(files.sentiment), files.sentiment) if waf else None,
    ).detail
    if isinstance(detail, HitRate):
        return [100 * detail.hitrate]
    if isinstance(detail, EwF1):
        return [100 * detail.fscore, 100 * detail.precision, 100 * detail.recall]
    return [100 * detail.waf, 100 * detail.acc]


def _hits(case: Mapping[str, Any], table: WordTable) -> HitRate:
    return hit_rate(project(case["gt"], case["pred"], table))


def _ew(case: Mapping[str, Any], table: WordTable, level: Level) -> EwF1:
    return ew_f1(project(case["gt"], case["pred"], table, level))


def _sentiment(case: Mapping[str, Any]) -> Sentiment:
    gold = case["gt"]
    return sentiment(list(gold.values()), [case["pred"][clip] for clip in gold])


def _try(run: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return run(*arguments)
    except (LoneBracketError, KeyError, IndexError, TypeError, AttributeError) as error:
        return Raised(error=f"{type(error).__name__}: {error}")


def _named(case: Mapping[str, Any], key: str) -> str:
    return case["id"] if not case["id"].startswith("case ") else repr(case[key])
