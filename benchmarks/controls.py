"""Does the rationale make the gain? The demo's run over seeds and privilege modes, with intervals.

    python benchmarks/controls.py --out benchmarks/results/controls.json [--seeds 3] [--modes rationale shuffled none]

Every run has training clips of its own seed and the same held-out clips; each is a process of its
own. Raw counts and answers stay in the run folders, the JSON has the counts and the intervals.
About 4 minutes a run on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from omniopsd.demo import CONFIG, STUDENT, TEST_CLIPS, TEST_SEED, TRAIN_CLIPS, TRAIN_SEED
from omniopsd.mer_mini.write import write_mer_mini
from omniopsd.run_folder import RunFolder, provenance_now

STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}
"""97.5 % quantile of Student's t for n - 1 degrees of freedom, by n."""
DRAWS = 10_000


def main() -> None:
    options = _arguments()
    root = Path(options.root)
    test = write_mer_mini(root / "test", TEST_CLIPS, TEST_SEED, "test")
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in options.modes}
    for seed in range(options.seeds):
        train = write_mer_mini(root / f"train-{seed}", TRAIN_CLIPS, TRAIN_SEED + seed, "train")
        for mode in options.modes:
            runs[mode].append(_run(root, mode, seed, train, test))
    results = {"provenance": provenance_now(), "modes": {m: summarise(r) for m, r in runs.items()}}
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1, default=str))
    for mode, summary in results["modes"].items():
        print(mode, json.dumps({key: value for key, value in summary.items() if key != "seeds"}))


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies by seed, the gain with two 95 % intervals, and the share of the gap that was closed.

    `gain_t`: Student's t over seeds. `gain_bootstrap`: resampling held-out items, seeds averaged.
    """
    gains = [run["after"] - run["before"] for run in runs]
    mean = statistics.mean(gains)
    summary: dict[str, Any] = {"seeds": runs, "gain": mean}
    for name in ("before", "teacher", "after"):
        values = [run[name] for run in runs if run[name] is not None]
        summary[name] = statistics.mean(values) if values else None
    if len(runs) in STUDENT_T:
        half = STUDENT_T[len(runs)] * statistics.stdev(gains) / len(runs) ** 0.5
        summary["gain_t"] = [mean - half, mean + half]
    items = np.mean([run["item_gain"] for run in runs], axis=0)
    draw = np.random.default_rng(0).integers(0, len(items), (DRAWS, len(items)))
    summary["gain_bootstrap"] = np.quantile(items[draw].mean(axis=1), [0.025, 0.975]).tolist()
    if summary["teacher"] is not None:
        summary["gap_closed"] = mean / (summary["teacher"] - summary["before"])
    for run in runs:
        del run["item_gain"]
    return summary


def _run(root: Path, mode: str, seed: int, train: Path, test: Path) -> dict[str, Any]:
    settings = {
        "run.root": root,
        "run.name": f"{mode}-{seed}",
        "run.seed": seed,
        "model.path": STUDENT,
        "data.train": train,
        "data.test": test,
        "teacher.privilege": mode,
        "eval.teacher": str(mode == "rationale").lower(),
    }
    command = [sys.executable, "-m", "omniopsd.cli", "train", str(_config(root, mode))]
    folder = RunFolder(root, f"{mode}-{seed}")
    if folder.has_run():  # an earlier attempt of this benchmark
        command.append("--resume")
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    begin = time.monotonic()
    with (root / f"{mode}-{seed}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    results = folder.read_eval()
    right = {name: [a["correct"] for a in results[name]["answers"]] for name in ("before", "after")}
    rates = {name: _rate(results.get(name)) for name in ("before", "teacher", "after")}
    print(mode, seed, rates, f"{time.monotonic() - begin:.0f} s", flush=True)
    return rates | {
        "seed": seed,
        "seconds": time.monotonic() - begin,
        "format_after": results["after"]["format_valid"] / results["after"]["n"],
        "item_gain": np.subtract(right["after"], right["before"], dtype=float).tolist(),
    }


def _config(root: Path, mode: str) -> Path:
    """The demo's YAML; without privilege there is no template, and a run refuses settings without effect."""
    content = yaml.safe_load(CONFIG.read_text())
    if mode == "none":
        del content["teacher"]["template"]
    path = root / f"{mode}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _rate(part: dict[str, Any] | None) -> float | None:
    return part["correct"] / part["n"] if part else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--root", default="runs/controls", help="where data and run folders go")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", default=["rationale", "shuffled", "none"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
