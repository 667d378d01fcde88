"""Runs the slow tests file by file, each file in a process of its own: `python -m tests.slow_files --jobs 2`.

vLLM, DeepSpeed and Ray leave process groups, environment and servers behind; a second engine of another file
would trip over them. Files that start none of these share a few processes: importing is most of their time. The
longest start first. The exit code is 1 when any file fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parent
MARK = "pytest.mark.slow"
NOTHING_SELECTED = 5
TOGETHER = (
    ("alarms", "coldstart", "contrast", "evaluate", "experiments", "identity"),
    ("bench_callback", "colocated", "learner_options", "learner_split", "planning_memory"),
    ("leak", "learner_worker", "loop", "presets", "stations"),
    (
        "rationale_crash",
        "rationale_damage",
        "rationale_make",
        "rationale_run",
        "ravdess",
        "stop",
        "teacher_refresh",
    ),
)
LONGEST_FIRST = (
    "cluster_local",
    "bench_callback",
    "alarms",
    "leak",
    "ray_runtime",
    "train",
    "rationale_crash",
    "learner_ranks",
    "cluster_ssh",
    "decoders",
    "bench_run",
)
"""By the first of files that run together."""
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")


def main() -> int:
    """Run all; print each file's last line as it ends, and the whole output of one that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2, help="files at one time")
    jobs = parser.parse_args().jobs
    slow = {path.stem.removeprefix("test_") for path in TESTS.glob("test_*.py") if MARK in path.read_text()}
    bundles = [*TOGETHER, *((name,) for name in slow.difference(*TOGETHER))]
    totals = {"passed": 0, "failed": 0, "skipped": 0}
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(_run, sorted(bundles, key=_order)):
            for name, count in found.items():
                totals[name] += count
    print(", ".join(f"{count} {name}" for name, count in totals.items()), flush=True)
    return 1 if totals["failed"] else 0


def _order(names: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    return (LONGEST_FIRST.index(names[0]) if names[0] in LONGEST_FIRST else len(LONGEST_FIRST), names)


def _run(names: tuple[str, ...]) -> dict[str, int]:
    begin = time.monotonic()
    files = [str(TESTS / f"test_{name}.py") for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "slow", "-rs", *files]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [f"no output, exit code {done.returncode}"]
    if done.returncode not in (0, NOTHING_SELECTED):
        print(done.stdout, flush=True)
    print(f"{' '.join(names)}: {lines[-1]} [{time.monotonic() - begin:.0f} s]", flush=True)
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for count, name in COUNT.findall(lines[-1]):
        found["failed" if name == "error" else name] += int(count)
    if done.returncode not in (0, NOTHING_SELECTED):
        found["failed"] = max(1, found["failed"])  # a crash has no summary to count in
    return found


if __name__ == "__main__":
    sys.exit(main())
