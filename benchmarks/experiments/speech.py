"""The part of docs/evidence.md on acted speech, made of the raw JSON of `benchmarks.ravdess_arms`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.experiments.tables import table

NAMES = {
    "sft": "supervised on the labels",
    "opsd": "OPSD, own rationale",
    "shuffled": "OPSD, shuffled rationales",
}
HEAD = """## acted speech

SmolLM2-135M with the encoder of Whisper-base as ears, on RAVDESS recordings of speakers that no training row has
(`examples/ravdess/README.md`). The rationales were written with the label known: the run shows the loop on real
sound and real pre-trained parts, not what real rationales are worth. Made by `python -m benchmarks.ravdess_arms`.
"""


def speech(path: Path) -> str:
    """The section; says so when the arms have not been run."""
    if not path.exists():
        return HEAD + "\nNot run yet.\n"
    results = json.loads(path.read_text())
    wanted = (
        "" if all(len(arm["seeds"]) > 1 for arm in results["arms"].values()) else " Two seeds are wanted."
    )
    lines = [
        HEAD,
        f"Start model: {results['base']:.3f} of {results['held_out']} clips. By seed, and the gain over the "
        f"start model with a 95 % interval by resampling clips.{wanted}\n",
        table(
            ["arm", "accuracy by seed", "gain", "interval"],
            [_row(name, arm) for name, arm in results["arms"].items()],
        ),
    ]
    teachers = [run["teacher"] for arm in results["arms"].values() for run in arm["seeds"] if run["teacher"]]
    if teachers:
        lines.append(f"The privileged teacher before training: {teachers[0]:.3f}.")
    return "\n".join(lines) + "\n"


def _row(name: str, arm: dict[str, Any]) -> list[str]:
    rates = ", ".join(f"{run['after']:.3f}" for run in arm["seeds"])
    low, high = arm["gain_bootstrap"]
    return [NAMES[name], rates, f"{arm['gain']:+.3f}", f"[{low:+.3f}, {high:+.3f}]"]
