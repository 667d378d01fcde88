"""Rows of mer-mini changed on purpose: shifted tests, weaker rationales, fewer modalities. Pure, but for `write_noisy`.

A row is one line of `samples.jsonl`. Every function gives new rows and leaves the old ones as they are.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from omniopsd.mer_mini.clip import Clip, make_clip, plan_clips
from omniopsd.mer_mini.emotions import Condition
from omniopsd.mer_mini.look import Looks
from omniopsd.mer_mini.phrases import FAMILIES
from omniopsd.mer_mini.write import sample_row, write_media

Row = dict[str, Any]
MEDIA = {"video": "videos", "audio": "audios", "image": "images"}
HINT = re.compile(r"\b(?:" + "|".join(w for family in FAMILIES.values() for w in family) + r")\b")
FRAME_NOISE, SOUND_NOISE = 40.0, 0.08


def of_conditions(rows: Sequence[Row], conditions: Sequence[Condition]) -> list[Row]:
    """The rows of some conditions; the dataset of a row ends with its condition."""
    return [row for row in rows if row["dataset"].rpartition("/")[2] in conditions]


def named(rows: Sequence[Row], dataset: str) -> list[Row]:
    """The rows under another dataset name."""
    return [row | {"dataset": dataset} for row in rows]


def only_media(row: Row, kinds: Sequence[str]) -> Row:
    """A row with some of its media ("video", "audio", "image") alone; the words of the subtitle stay."""
    messages = row["messages"]
    gone = [kind for kind in MEDIA if kind not in kinds]
    for kind in gone:
        messages = [m | {"content": m["content"].replace(f"<{kind}>", "")} for m in messages]
    return row | {"messages": messages} | {MEDIA[kind]: [] for kind in gone}


def one_missing(rows: Sequence[Row]) -> list[Row]:
    """Each row without one medium: video, audio and image in turn."""
    kinds = list(MEDIA)
    return [only_media(row, [k for k in kinds if k != kinds[at % 3]]) for at, row in enumerate(rows)]


def redacted(rows: Sequence[Row]) -> list[Row]:
    """Rationales without the word that hints at the emotion: the cues alone."""
    return [row | {"rationale": HINT.sub("something", row["rationale"])} for row in rows]


def mixed_rationales(rows: Sequence[Row], own: float, seed: int) -> list[Row]:
    """A share `own` of the rows keeps its rationale, the others get those of each other, dealt out anew."""
    draw = random.Random(seed)
    places = draw.sample(range(len(rows)), round((1 - own) * len(rows)))
    changed = list(rows)
    for place, source in zip(places, places[1:] + places[:1], strict=True):
        changed[place] = rows[place] | {"rationale": rows[source]["rationale"]}
    return changed


def write_noisy(folder: Path, clips: int, seed: int, looks: Looks, wanted: Collection[str]) -> list[Row]:
    """The `wanted` rows (ids) of `write_mer_mini`, with noise over frames, picture and sound, below `folder`.

    Gaussian noise of 40 grey levels and of 0.08 of full scale (the voice has about 0.2).
    """
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows = []
    for plan in plan_clips(clips, seed, looks):
        name = f"mer-mini-{looks}-{seed}-{plan.index:05d}"
        if name not in wanted:
            continue
        clip = noisy(make_clip(plan, seed, looks, 0.0), np.random.default_rng([seed, 6, plan.index]))
        write_media(folder / "clips", name, clip)
        rows.append(sample_row(clip, name, audio_in_video=False))
    return rows


def noisy(clip: Clip, rng: np.random.Generator) -> Clip:
    """One clip under noise; its texts stay."""
    sound = clip.audio + SOUND_NOISE * rng.standard_normal(len(clip.audio))
    return replace(
        clip,
        frames=_grainy(clip.frames, rng),
        image=_grainy(clip.image, rng),
        audio=(np.round(np.clip(sound, -0.99, 0.99) * 32767) / 32768).astype(np.float32),
    )


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """One JSON line for each row."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[Row]:
    """The inverse of `write_rows`."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _grainy(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = FRAME_NOISE * rng.standard_normal(pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)
