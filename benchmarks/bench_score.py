"""Time of scoring 10,000 clips, against the metrics as their description reads.

    python -m benchmarks.bench_score --out bench_score.json [--wheel DIR]

Both arms score the same made-up clips, hit rate and EW-F1, in one process and in turn. `naive` looks up every label of
every clip on every wheel anew, going from the form to its base words and on to the wheel words in sorted order; `ours` is
the repository's code on its compiled table. Almost every list is different, so remembering lists helps `ours` little.
The scores of both must agree. Only the ratio inside one run means something; `seconds` of `ours` is also held against
the promise of 5 s. Without --wheel the sources are the project's own small table; times of compiling a table are apart.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omniopsd.bench.lists import normal_labels
from omniopsd.bench.metrics import ew_f1, hit_rate
from omniopsd.bench.overlaps import project
from omniopsd.bench.own_words import own_sources
from omniopsd.bench.wheel_files import WHEELS, WordSources, read_sources
from omniopsd.bench.words import WordTable, compile_words, level1_homes

Lists = Mapping[str, str]
PROMISE_SECONDS = 5.0


def main() -> None:
    """Time both arms and write one JSON."""
    args = parse()
    started = time.perf_counter()
    sources = read_sources(args.wheel) if args.wheel else own_sources()
    table = compile_words(sources)
    compiled = time.perf_counter() - started
    gold, predictions = clips(table, args.clips, args.seed)
    arms: dict[str, Callable[[], list[float]]] = {
        "naive": lambda: naive(gold, predictions, sources),
        "ours": lambda: ours(gold, predictions, table),
    }
    timed = {name: repeat(arm, args.repeats) for name, arm in arms.items()}
    result = {
        "clips": args.clips,
        "table": "own" if args.wheel is None else table.version,
        "forms": len(table.rows),
        "different_lists": len(set(predictions.values())),
        "compile_seconds": compiled,
        "arms": timed,
        "largest_difference": max(
            abs(a - b) for a, b in zip(timed["naive"]["scores"], timed["ours"]["scores"], strict=True)
        ),
        "ratio_naive_over_ours": timed["naive"]["cpu_seconds"] / timed["ours"]["cpu_seconds"],
        "within_promise": timed["ours"]["seconds"] < PROMISE_SECONDS,
    }
    text = json.dumps(result, indent=2)
    if args.out:
        Path(args.out).write_text(text + "\n")
    print(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="file for the raw numbers")
    parser.add_argument("--wheel", help="a wheel folder; default: the project's own small table")
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def clips(table: WordTable, number: int, seed: int) -> tuple[Lists, Lists]:
    """Gold lists of 1 to 4 and predictions of 0 to 6 labels, one of them in ten unknown."""
    draw, forms = random.Random(seed), sorted(table.rows)

    def labels(low: int, high: int) -> str:
        words = (
            draw.choice(forms) if draw.random() < 0.9 else f"word{draw.randrange(10**6)}"
            for _ in range(draw.randint(low, high))
        )
        return f"[{', '.join(words)}]"

    names = [f"clip{at:06d}" for at in range(number)]
    return {name: labels(1, 4) for name in names}, {name: labels(0, 6) for name in names}


def ours(gold: Lists, predictions: Lists, table: WordTable) -> list[float]:
    """The repository's scores: hit rate, then F, precision and recall."""
    overlaps = project(gold, predictions, table)
    f1 = ew_f1(overlaps)
    return [hit_rate(overlaps).hitrate, f1.fscore, f1.precision, f1.recall]


def naive(gold: Lists, predictions: Lists, sources: WordSources) -> list[float]:
    """The same by the description, label by label."""
    bases = sources.bases_of_forms()
    scores = []
    for wheel in range(WHEELS):
        homes = level1_homes(sources.wheels[wheel])

        def clusters(text: str, homes: Mapping[str, str] = homes) -> set[str]:
            found = set()
            for label in normal_labels(text):
                words = [word for base in bases.get(label, ()) for word in sources.synonyms[base]]
                found |= {next((homes[word] for word in sorted(words) if word in homes), "")}
            return found - {""}

        hits, precisions, recalls = [], [], []
        for name, text in gold.items():
            wanted = clusters(text)
            if not wanted:
                continue
            named = clusters(predictions[name])
            hits.append(len(wanted & named))
            precisions.append(len(wanted & named) / len(named) if named else 0.0)
            recalls.append(len(wanted & named) / len(wanted))
        p, r = statistics.fmean(precisions), statistics.fmean(recalls)
        scores.append([statistics.fmean(hits), 2 * p * r / (p + r), p, r])
    return [statistics.fmean(values) for values in zip(*scores, strict=True)]


def repeat(arm: Callable[[], list[float]], times: int) -> dict[str, Any]:
    """The fastest of some runs, on both clocks."""
    walls, cpus, scores = [], [], []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        scores = arm()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"seconds": min(walls), "cpu_seconds": min(cpus), "scores": scores}


if __name__ == "__main__":
    main()
