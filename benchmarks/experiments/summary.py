"""Raw JSON of runs to means, intervals and paired differences. Pure, but for `read_results`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STUDENT_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
)  # fmt: skip
"""97.5 % quantiles of Student's t for 1 to 29 degrees of freedom."""

Result = dict[str, Any]
Results = dict[str, dict[int, Result]]
"""By arm and seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Mean over seeds and half the width of its 95 % interval; None with a single seed."""

    mean: float
    half: float | None
    seeds: int

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half is None else self.mean + self.half

    def verdict(self) -> str:
        """Whether the interval of a difference excludes 0: "higher", "lower", or "not told apart"."""
        if self.low is None or self.high is None:
            return "one seed"
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "not told apart"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval over independent seeds."""
    count = len(values)
    if count == 1:
        return Estimate(mean=values[0], half=None, seeds=1)
    half = STUDENT_T[count - 2] * statistics.stdev(values) / count**0.5
    return Estimate(mean=statistics.mean(values), half=half, seeds=count)


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Estimate | None:
    """one - other over the seeds that both have; None without any."""
    seeds = sorted(one.keys() & other.keys())
    return estimate([one[seed] - other[seed] for seed in seeds]) if seeds else None


def values(runs: Mapping[int, Result], test: str, measure: str, part: str = "tests") -> dict[int, float]:
    """One measure of one test by seed; runs without that test are left out."""
    return {
        seed: float(run[part][test]["measures"][measure])
        for seed, run in runs.items()
        if part in run and test in run[part]
    }


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Least squares y = slope x + intercept, and R squared."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    slope, intercept = statistics.linear_regression(xs, ys)
    total = sum((y - statistics.mean(ys)) ** 2 for y in ys)
    rest = sum((y - slope * x - intercept) ** 2 for x, y in points)
    return slope, intercept, 1 - rest / total if total else 1.0


def read_results(folder: Path) -> Results:
    """All runs of one experiment; an empty mapping when there are none."""
    results: Results = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        results.setdefault(run["arm"], {})[run["seed"]] = run
    return results
