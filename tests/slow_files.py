"""Runs the slow tests file by file, each file in a process of its own: `python -m tests.slow_files --jobs 2`.

vLLM, DeepSpeed and Ray leave process groups, environment and servers behind; a second engine of another file
would trip over them. The longest files start first. The exit code is 1 when any file fails.
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
LONGEST_FIRST = (
    "cluster_local",
    "learner_ranks",
    "bench_run",
    "broadcast",
    "decoders",
    "train",
    "vllm_engine",
)
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")


def main() -> int:
    """Run all; print each file's last line as it ends, and the whole output of one that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2, help="files at one time")
    jobs = parser.parse_args().jobs
    files = sorted((path for path in TESTS.glob("test_*.py") if MARK in path.read_text()), key=_order)
    totals = {"passed": 0, "failed": 0, "skipped": 0}
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(_run, files):
            for name, count in found.items():
                totals[name] += count
    print(", ".join(f"{count} {name}" for name, count in totals.items()), flush=True)
    return 1 if totals["failed"] else 0


def _order(path: Path) -> tuple[int, str]:
    name = path.stem.removeprefix("test_")
    return (LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST), name)


def _run(path: Path) -> dict[str, int]:
    begin = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "slow", "-rs", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [f"no output, exit code {done.returncode}"]
    if done.returncode not in (0, NOTHING_SELECTED):
        print(done.stdout, flush=True)
    print(f"{path.stem}: {lines[-1]} [{time.monotonic() - begin:.0f} s]", flush=True)
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for count, name in COUNT.findall(lines[-1]):
        found["failed" if name == "error" else name] += int(count)
    if done.returncode not in (0, NOTHING_SELECTED):
        found["failed"] = max(1, found["failed"])  # a crash has no summary to count in
    return found


if __name__ == "__main__":
    sys.exit(main())
