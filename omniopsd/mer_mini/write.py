"""The benchmark on disk: media files, samples, evidence and the manifest that names them."""

from __future__ import annotations

import hashlib
import json
import wave
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from omniopsd.mer_mini.clip import Clip, make_clip, plan_clips
from omniopsd.mer_mini.emotions import EMOTIONS
from omniopsd.mer_mini.look import RANGES, Looks
from omniopsd.mer_mini.mux import write_mp4
from omniopsd.mer_mini.text import SYSTEM, gold_response, user_text
from omniopsd.mer_mini.voice import RATE

VERSION = 1
SAMPLES, EVIDENCE, MANIFEST = "samples.jsonl", "evidence.jsonl", "manifest.json"


class MerMiniError(ValueError):
    """Arguments or a folder that MER-MINI cannot be written with or to."""


def run(out: str | Path, clips: int, seed: int, looks: Looks = "train") -> str:
    """Write the benchmark and say in one line what is there now. Raises MerMiniError."""
    path = write_mer_mini(out, clips, seed, looks)
    manifest = json.loads((path.parent / MANIFEST).read_text())
    return f"{path}: {clips} clips, {looks} looks, content {manifest['content'][:12]}"


def write_mer_mini(
    out: str | Path,
    clips: int,
    seed: int,
    looks: Looks = "train",
    *,
    rationale_noise: float = 0.08,
    audio_in_video: bool = False,
) -> Path:
    """Write `clips` clips below the folder `out`, and return the path of its `samples.jsonl`.

    The same arguments give the same arrays and texts; a folder that already holds them is kept as it
    is, and one whose writing was cut short is written again. `rationale_noise` is the share of
    rationales with one wrong cue; with `audio_in_video` the rows have no wav and use the video's
    own track. Raises MerMiniError on wrong arguments, or when `out` holds anything else.
    """
    _check_arguments(clips, seed, looks, rationale_noise)
    arguments = {
        "clips": clips,
        "seed": seed,
        "looks": looks,
        "rationale_noise": rationale_noise,
        "audio_in_video": audio_in_video,
    }
    folder = Path(out)
    if _is_complete(folder, arguments):
        return folder / SAMPLES
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    # The manifest without content marks an unfinished folder; the last line of this function ends that.
    _write_manifest(folder, arguments, content=None, samples=None)
    content = hashlib.blake2b(digest_size=16)
    rows, facts = [], []
    for plan in plan_clips(clips, seed, looks):
        clip = make_clip(plan, seed, looks, rationale_noise)
        name = f"mer-mini-{looks}-{seed}-{plan.index:05d}"
        write_media(folder / "clips", name, clip)
        for array in (clip.frames, clip.audio, clip.image):
            content.update(array.tobytes())
        rows.append(sample_row(clip, name, audio_in_video=audio_in_video))
        facts.append(evidence_row(clip, name))
    content.update(_write_lines(folder / EVIDENCE, facts))
    samples = _write_lines(folder / SAMPLES, rows)
    content.update(samples)
    _write_manifest(folder, arguments, content=content.hexdigest(), samples=_digest(samples))
    return folder / SAMPLES


def sample_row(clip: Clip, name: str, *, audio_in_video: bool) -> dict[str, Any]:
    """The training row of one clip."""
    return {
        "id": name,
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": user_text(clip.subtitle, audio_in_video=audio_in_video)},
        ],
        "videos": [f"clips/{name}.mp4"],
        "audios": [] if audio_in_video else [f"clips/{name}.wav"],
        "images": [f"clips/{name}.png"],
        "audio_in_video": audio_in_video,
        "labels": [clip.plan.emotion],
        "rationale": clip.rationale,
        "dataset": f"mer-mini/{clip.plan.condition}",
    }


def evidence_row(clip: Clip, name: str) -> dict[str, Any]:
    """What is really in one clip: for supervised starts and audits, never part of a sample."""
    emotion = EMOTIONS[clip.plan.emotion]
    return {
        "id": name,
        "condition": clip.plan.condition,
        "emotion": emotion.name,
        "valence": emotion.valence,
        "arousal": emotion.arousal,
        "carrier": clip.plan.carrier,
        "said": clip.plan.said,
        "evidence": [asdict(item) for item in clip.evidence],
        "gold_response": gold_response(clip.evidence, emotion.name),
        "rationale_wrong": clip.rationale_wrong,
    }


def _check_arguments(clips: int, seed: int, looks: str, rationale_noise: float) -> None:
    if clips < 1:
        raise MerMiniError(f"mer-mini: {clips} clips asked for; write a number of 1 or more")
    if seed < 0:
        raise MerMiniError(f"mer-mini: seed is {seed}; write a number of 0 or more")
    if looks not in RANGES:
        raise MerMiniError(f"mer-mini: looks is {looks!r}; write train or test")
    if not 0.0 <= rationale_noise <= 1.0:
        raise MerMiniError(f"mer-mini: rationale_noise is {rationale_noise}; write a share between 0 and 1")


def _is_complete(folder: Path, arguments: dict[str, Any]) -> bool:
    """Whether the folder holds these clips. Raises MerMiniError when it holds anything else."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise MerMiniError(f"{folder}: a file is in the way; choose another --out folder")
    if not any(folder.iterdir()):
        return False
    found = _read_manifest(folder)
    wanted = {"generator": "mer-mini", "version": VERSION, "arguments": arguments}
    if {key: found.get(key) for key in wanted} != wanted:
        was = json.dumps(found.get("arguments")) if found else "no mer-mini manifest"
        raise MerMiniError(
            f"{folder}: the folder is not empty and holds {was}, version {found.get('version')}, "
            f"not {json.dumps(arguments)}, version {VERSION}; choose another --out folder or delete this one"
        )
    if found.get("content") is None:
        return False
    samples = folder / SAMPLES
    if not samples.is_file() or _digest(samples.read_bytes()) != found.get("samples"):
        raise MerMiniError(
            f"{samples}: changed since it was written; delete {folder} or choose another --out folder"
        )
    return True


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The folder's manifest; empty when there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _write_manifest(
    folder: Path, arguments: dict[str, Any], *, content: str | None, samples: str | None
) -> None:
    manifest = {
        "generator": "mer-mini",
        "version": VERSION,
        "arguments": arguments,
        "content": content,
        "samples": samples,
    }
    draft = folder / (MANIFEST + ".part")
    draft.write_text(json.dumps(manifest, indent=2) + "\n")
    draft.replace(folder / MANIFEST)


def write_media(folder: Path, name: str, clip: Clip) -> None:
    """The video with its sound, the sound alone, and the picture of one clip."""
    write_mp4(folder / f"{name}.mp4", clip.frames, clip.audio)
    with wave.open(str(folder / f"{name}.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((clip.audio * 32768).astype("<i2").tobytes())
    Image.fromarray(clip.image).save(folder / f"{name}.png")


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> bytes:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(data)
    return data


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
