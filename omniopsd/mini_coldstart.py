"""The cold start of mini-omni: it learns to read a rationale and the form of an answer, hardly to perceive.

Half of the rows carry the rationale of a clip that is not the one in the media, and the answer that
this rationale supports: only reading helps there. The other half carry no rationale and come from a
handful of clips: enough for the form, too few to see or hear well. No clip has a test look.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import RuntimeConfig
from learner.config import LearnerConfig, ObjectiveConfig
from omniopsd.coldstart import ColdStartError, coldstart
from omniopsd.config import DataConfig, RunConfig, RunSection
from omniopsd.mer_mini.clip import draw_evidence, plan_clips
from omniopsd.mer_mini.text import gold_response, write_rationale
from omniopsd.mer_mini.write import EVIDENCE, write_mer_mini
from omniopsd.mini_omni import write_mini_omni
from rollout.config import ModelConfig, RolloutConfig
from rollout.thinker import read_weights, save_thinker
from teacher.config import TeacherConfig

STEPS = 600
ROWS_PER_STEP = 32
READ_ROWS = 6000
SEEN_CLIPS = 16
MEDIA_CLIPS = 48
CLIP_SEED, TEXT_SEED = 7_001, 7_002
LEARNING_RATE = 1e-3
WARMUP = 20

TEMPLATE = "\nRationale: {evidence}"


def run(out: str | Path, *, steps: int | None = None, seed: int = 0) -> None:
    """Make the demo's student from nothing and write its model folder (bfloat16)."""
    if Path(out).exists():
        raise ColdStartError(f"{out}: exists already; choose another folder or remove it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_rows(folder / "clips", seed)
        corpus = [m["content"] for row in rows for m in row["messages"]]
        corpus += [row[key] for row in rows for key in ("rationale", "response") if key in row]
        write_mini_omni(folder / "base", seed=seed, corpus=corpus)
        coldstart(make_config(folder, seed=seed, steps=steps or STEPS), folder / "trained")
        # half the bytes; whoever trains on loads it as float32 again
        weights = ((name, tensor.bfloat16()) for name, tensor in read_weights(folder / "trained"))
        save_thinker(weights, folder / "trained", out)


def make_config(folder: Path, *, seed: int, steps: int) -> RunConfig:
    """Supervised, one rank, in this process."""
    return RunConfig(
        run=RunSection(name="coldstart", seed=seed, steps=steps, samples_per_step=ROWS_PER_STEP),
        model=ModelConfig(path=str(folder / "base"), max_context=512),
        data=DataConfig(train=str(folder / "clips" / "coldstart.jsonl")),
        rollout=RolloutConfig(max_new_tokens=64),
        teacher=TeacherConfig(template=TEMPLATE),
        objective=ObjectiveConfig(divergence="cross_entropy", aggregation="token_mean"),
        learner=LearnerConfig(
            lr=LEARNING_RATE, warmup_steps=WARMUP, freeze=(), packing=False, zero_stage=0, cpus=2
        ),
        runtime=RuntimeConfig(kind="inline"),
    )


def write_rows(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Write `coldstart.jsonl` and its media; gives the rows."""
    samples = write_mer_mini(folder, MEDIA_CLIPS, CLIP_SEED + seed, "train")
    clips = [json.loads(line) for line in samples.read_text().splitlines()]
    facts = [json.loads(line) for line in (folder / EVIDENCE).read_text().splitlines()]
    rng = np.random.default_rng([TEXT_SEED, seed])
    rows = []
    for number, plan in enumerate(plan_clips(READ_ROWS, TEXT_SEED + seed, "train")):
        evidence = draw_evidence(rng, plan)
        rationale, _ = write_rationale(rng, evidence, plan.emotion, 0.0)
        shown = clips[int(rng.integers(MEDIA_CLIPS))]
        told = {"rationale": rationale, "response": gold_response(evidence, plan.emotion)}
        rows.append(_row(shown, f"read-{number}") | told)
        seen = int(rng.integers(SEEN_CLIPS))
        rows.append(_row(clips[seen], f"see-{number}") | {"response": facts[seen]["gold_response"]})
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    (folder / "coldstart.jsonl").write_text(text)
    return rows


def _row(clip: dict[str, Any], sample_id: str) -> dict[str, Any]:
    kept = ("messages", "videos", "audios", "images", "audio_in_video")
    return {key: clip[key] for key in kept} | {"id": sample_id}
