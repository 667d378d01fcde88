"""Acted speech, unseen speakers: base, SFT on labels, OPSD with rationales, OPSD with shuffled ones.

    python -m benchmarks.ravdess_arms --out benchmarks/results/ravdess_arms.json [--seeds 2] [--arms sft opsd shuffled]

After steps 1 to 4 of examples/ravdess/README.md. Every arm starts from `model.path` of run.yaml, with the same
clips in the same order for as many steps; only `opsd` asks the teacher for its answers. The raw
answers stay in the run folders. A run that is finished is read, not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.controls import summarise
from omniopsd.config import RunConfig
from omniopsd.config_file import load_config
from omniopsd.evaluate import Results
from omniopsd.run_folder import RunFolder, provenance_now

EXAMPLE = Path("examples/ravdess")
ROOT = Path("runs/ravdess/arms")
PRIVILEGE = {"opsd": "rationale", "shuffled": "shuffled"}


def main() -> None:
    options = _arguments()
    ROOT.mkdir(parents=True, exist_ok=True)
    config = load_config(EXAMPLE / "run.yaml", options.set)
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    base = _evaluated(config, config.model.path, "base")
    for seed in range(options.seeds):
        for arm in options.arms:
            runs[arm].append(_arm(config, arm, seed, base, options.set))
    results = {
        "provenance": provenance_now(),
        "held_out": base["n"],
        "base": base["correct"] / base["n"],
        "arms": {arm: summarise(part) for arm, part in runs.items()},
    }
    Path(options.out).write_text(json.dumps(results, indent=1, default=str) + "\n")
    for arm, summary in results["arms"].items():
        print(arm, json.dumps({key: value for key, value in summary.items() if key != "seeds"}))


def _arm(config: RunConfig, arm: str, seed: int, base: Results, changes: list[str]) -> dict[str, Any]:
    begin = time.monotonic()
    if arm == "sft":
        after, teacher = _supervised(config, seed), None
    else:
        after, teacher = _distilled(arm, seed, changes)
    rates = {"before": _rate(base), "teacher": teacher and _rate(teacher), "after": _rate(after)}
    print(arm, seed, rates, f"{time.monotonic() - begin:.0f} s", flush=True)
    gains = np.subtract(_right(after), _right(base), dtype=float).tolist()
    return rates | {"seed": seed, "seconds": time.monotonic() - begin, "item_gain": gains}


def _distilled(arm: str, seed: int, changes: list[str]) -> tuple[Results, Results | None]:
    """OPSD by `run.yaml`; gives the answers after training, and the teacher's where it was asked."""
    settings = [*changes, f"run.root={ROOT}", f"run.name={arm}-{seed}", f"run.seed={seed}"]
    settings += [f"teacher.privilege={PRIVILEGE[arm]}"]
    settings += [f"eval.teacher={str(arm == 'opsd' and seed == 0).lower()}"]
    folder = RunFolder(ROOT, f"{arm}-{seed}")
    resume = ["--resume"] if folder.has_run() else []
    _run(["train", str(EXAMPLE / "run.yaml"), *resume, *_sets(settings)], f"{arm}-{seed}")
    results = folder.read_eval()
    return results["after"], results.get("teacher")


def _supervised(config: RunConfig, seed: int) -> Results:
    """Cross-entropy on the labels and measured cues of the same clips, as many steps at the same rate."""
    model = ROOT / f"sft-{seed}"
    if not model.exists():
        data = Path(config.data.train).with_name("sft.jsonl")
        settings = [f"model.path={config.model.path}", f"data.train={data}", f"run.seed={seed}"]
        settings += [f"run.steps={config.run.steps}", f"run.samples_per_step={config.run.samples_per_step}"]
        settings += [f"learner.lr={config.learner.lr}", f"learner.warmup_steps={config.learner.warmup_steps}"]
        settings += [f"learner.cpus={config.learner.cpus}"]
        _run(
            ["coldstart", str(EXAMPLE / "coldstart.yaml"), "--out", str(model), *_sets(settings)],
            f"sft-{seed}",
        )
    return _evaluated(config, str(model), f"sft-{seed}-eval")


def _evaluated(config: RunConfig, model: str, name: str) -> Results:
    """Greedy answers of a model folder on the held-out clips, kept beside the runs."""
    file = ROOT / f"{name}.json"
    if not file.exists():
        keys = ("max_new_tokens", "kv_cache_gib", "cpus")
        settings = [f"rollout.{key}={getattr(config.rollout, key)}" for key in keys]
        settings += [f"model.max_context={config.model.max_context}", f"model.dtype={config.model.dtype}"]
        settings += [f"data.media.max_seconds={config.data.media.max_seconds}"]
        _run(["eval", model, str(config.data.test), "--out", str(file), *_sets(settings)], name)
    return dict(json.loads(file.read_text())["after"])


def _run(command: list[str], name: str) -> None:
    with (ROOT / f"{name}.log").open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "omniopsd.cli", *command], check=True, stdout=log, stderr=subprocess.STDOUT
        )


def _sets(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def _right(results: Results) -> list[bool]:
    return [answer["correct"] for answer in results["answers"]]


def _rate(results: Results) -> float:
    return float(results["correct"] / results["n"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", default=["sft", "opsd", "shuffled"])
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE over run.yaml, for every arm")
    return parser.parse_args()


if __name__ == "__main__":
    main()
