"""The benchmark scores that a training run left in its folder, and the checkpoint that was chosen by them.

bench.json    {"split": "val", "selects": true, "steps": {"0": {...}, "50": {...}}, "best": 50}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = "bench.json"
SELECTED_ON_TEST = "The checkpoint was chosen by its score on the test clips."


class RunResultsError(ValueError):
    """Results that cannot be read."""


def best_step(steps: dict[str, Any]) -> int | None:
    """The step with the highest score, the earliest among equals; step 0 has no checkpoint and is left out."""
    known = {int(name): float(result["score"]) for name, result in steps.items() if int(name) > 0}
    return min(known, key=lambda step: (-known[step], step)) if known else None


def read_results(run: Path) -> dict[str, Any]:
    """The bench.json of a run folder; empty when there is none. Raises RunResultsError."""
    path = run / RESULTS
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunResultsError(f"{path}: cannot be read ({error}); restore it or delete it") from error
    return dict(content)


def results_lines(run: Path) -> list[str]:
    """What a run says of its benchmark scores at its end."""
    results = read_results(run)
    steps = results.get("steps", {})
    if not steps:
        return []
    what = "validation" if results["split"] == "val" else "test"
    lines = [f"benchmark, {what} clips, labels by fixed rules (mean of {len(results['sets'])} sets):"]
    lines += [f"  step {name:>6}  {result['score']:.2f}" for name, result in steps.items()]
    best = results.get("best")
    if best is not None:
        model = run / "checkpoints" / f"step_{best:06d}" / "model"
        lines.append(f"  best: step {best} ({steps[str(best)]['score']:.2f}), {model}")
        lines += [f"  {SELECTED_ON_TEST}"] if results["split"] == "test" else []
    return lines


def chosen_on_test(model: Path) -> bool:
    """Whether a model folder is the checkpoint that its run chose on the test clips."""
    checkpoint = model.resolve().parent
    run = checkpoint.parent.parent
    if not checkpoint.name.removeprefix("step_").isdigit() or not (run / RESULTS).is_file():
        return False
    results = read_results(run)
    chosen = results.get("best") == int(checkpoint.name.removeprefix("step_"))
    return bool(results.get("selects")) and chosen and results.get("split") == "test"
