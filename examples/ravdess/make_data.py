"""Make training rows from RAVDESS speech: questions, labels, and rationales made from measurements.

    python examples/ravdess/make_data.py --clips FOLDER --out DIR [--limit N] [--seed N]

FOLDER is either the original download (Actor_01/03-01-...-01.wav) or `clips.csv` beside `audio/*.flac`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from voice_evidence import RATE, Cue, Voice, cues, measure, trim, typical

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
ACTORS = {"train": range(1, 15), "tune": range(15, 17), "test": range(17, 21)}
SYSTEM = "You hear how people sound. Note the cues, then answer."
QUESTION = "<audio>\nWhich emotion: neutral, calm, happy, sad, angry, fearful, disgust or surprised?"
# what the actor was asked to show, in words that are not the label's own
PHRASES = {
    "neutral": ("someone who states a plain fact", "someone with nothing at stake"),
    "calm": ("someone at ease who soothes another", "someone relaxed and patient"),
    "happy": ("someone delighted by good news", "someone cheerful and smiling"),
    "sad": ("someone in grief, close to tears", "someone downcast and hurt"),
    "angry": ("someone who has lost their temper", "someone furious at another"),
    "fearful": ("someone scared of what comes next", "someone in panic"),
    "disgust": ("someone who finds this revolting", "someone repelled and full of contempt"),
    "surprised": ("someone who did not expect this", "someone astonished"),
}


class DataError(ValueError):
    """A folder or table that is not RAVDESS speech."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One clip as its name tells it (modality-channel-emotion-intensity-statement-repetition-actor)."""

    name: str
    path: Path
    emotion: str
    repetition: int
    actor: int


def main() -> None:
    """Read, measure, write; a user's error is one line."""
    args = _arguments()
    try:
        counts = make_data(args.clips, args.out, limit=args.limit, seed=args.seed)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(counts))


def make_data(
    clips: str | Path, out: str | Path, *, limit: int | None = None, seed: int = 0
) -> dict[str, int]:
    """Write the four row files and `audio/` below `out`; returns rows by file. Raises ValueError.

    coldstart.jsonl has the first repetitions of the train speakers, train.jsonl the second. `limit` is the
    most clips of one file; the cold start has two rows for each clip.
    """
    out = Path(out)
    (out / "audio").mkdir(parents=True, exist_ok=True)
    found = read_clips(clips)
    waves = {clip.name: _read(clip.path) for clip in found}
    evidence = measured_cues(found, {name: measure(wave) for name, wave in waves.items()})
    counts = {}
    for name, part in splits(found).items():
        chosen = pick_balanced(part, limit, seed)
        make_rows = coldstart_rows if name == "coldstart" else opsd_rows
        rows = [line for clip in chosen for line in make_rows(clip, evidence[clip.name])]
        for clip in chosen:
            soundfile.write(out / "audio" / f"{clip.name}.flac", waves[clip.name], RATE, subtype="PCM_16")
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        counts[name] = len(rows)
    return counts


def read_clips(folder: str | Path) -> list[Clip]:
    """All speech clips of a folder, ordered by name. Raises DataError with what was found instead."""
    folder = Path(folder)
    if (folder / "clips.csv").is_file():
        with (folder / "clips.csv").open(newline="", encoding="utf-8") as file:
            names = [line["name"] for line in csv.DictReader(file)]
        paths = [_audio_of(folder / "audio", name) for name in names]
    else:
        paths = sorted(folder.glob("**/03-01-*.wav"))
    if not paths:
        raise DataError(
            f"--clips {folder}: no clips.csv and no 03-01-*.wav inside; give the unpacked RAVDESS"
        )
    return sorted((clip_of(path) for path in paths), key=lambda clip: clip.name)


def clip_of(path: Path) -> Clip:
    """A clip from its name, such as 03-01-06-01-02-01-12. Raises DataError on any other name."""
    fields = path.stem.split("-")
    if len(fields) != 7 or not all(f.isdecimal() for f in fields) or not 1 <= int(fields[2]) <= len(EMOTIONS):
        raise DataError(
            f"{path}: not a name of RAVDESS; keep the original ones, such as 03-01-06-01-02-01-12"
        )
    emotion, repetition, actor = (int(fields[index]) for index in (2, 5, 6))
    return Clip(name=path.stem, path=path, emotion=EMOTIONS[emotion - 1], repetition=repetition, actor=actor)


def splits(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """Clips by file: no speaker is in two of train, tune and test, no clip in cold start and train."""
    parts = {name: [clip for clip in clips if clip.actor in actors] for name, actors in ACTORS.items()}
    train = parts["train"]
    parts["coldstart"] = [clip for clip in train if clip.repetition == 1]
    parts["train"] = [clip for clip in train if clip.repetition != 1]
    return parts


def pick_balanced(clips: Sequence[Clip], limit: int | None, seed: int) -> list[Clip]:
    """At most `limit` clips, one of each emotion in turn until a class or the limit is used up; shuffled."""
    order = random.Random(seed)
    queues = [[clip for clip in clips if clip.emotion == emotion] for emotion in EMOTIONS]
    for queue in queues:
        order.shuffle(queue)
    longest = max((len(queue) for queue in queues), default=0)
    turns = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    chosen = turns[:limit]
    order.shuffle(chosen)
    return chosen


def measured_cues(clips: Sequence[Clip], voices: dict[str, Voice]) -> dict[str, tuple[Cue, ...]]:
    """Cues of every clip beside the median of all clips of its speaker."""
    usual = {
        actor: typical([voices[clip.name] for clip in clips if clip.actor == actor])
        for actor in {clip.actor for clip in clips}
    }
    return {clip.name: cues(voices[clip.name], usual[clip.actor]) for clip in clips}


def opsd_rows(clip: Clip, evidence: tuple[Cue, ...]) -> list[dict[str, Any]]:
    """The row of one clip: question, label, and the rationale that the teacher reads."""
    return [{**_question(clip), "labels": [clip.emotion], "rationale": rationale(clip, evidence)}]


def coldstart_rows(clip: Clip, evidence: tuple[Cue, ...]) -> list[dict[str, Any]]:
    """Two rows of one clip with the answer to learn: from the sound alone, and with the rationale in sight.

    The second kind teaches to read evidence; without it the privileged teacher would know no more than
    the student.
    """
    plain = {**_question(clip), "labels": [clip.emotion], "response": answer(clip, evidence)}
    return [plain, {**plain, "id": f"{plain['id']}-read", "rationale": rationale(clip, evidence)}]


def answer(clip: Clip, evidence: tuple[Cue, ...]) -> str:
    """The answer in the form that is scored: measured cues, then the label."""
    think = "; ".join(f"{cue.name}: {cue.word}" for cue in evidence)
    return f"<think>{think}</think><answer>{clip.emotion}</answer>"


def rationale(clip: Clip, evidence: tuple[Cue, ...]) -> str:
    """What stands in for a frontier model's text: the measurements, and a phrase made from the label."""
    digest = hashlib.blake2b(clip.name.encode(), digest_size=2).digest()
    phrase = PHRASES[clip.emotion][digest[0] % 2]
    measured = "; ".join(f"{cue.name} {cue.word} ({cue.phrase})" for cue in evidence)
    return f"Heard in the voice: {measured}. It sounds like {phrase}."


def _question(clip: Clip) -> dict[str, Any]:
    return {
        "id": f"ravdess-{clip.name}",
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}],
        "audios": [f"audio/{clip.name}.flac"],
        "dataset": "ravdess",
    }


def _audio_of(folder: Path, name: str) -> Path:
    for suffix in (".flac", ".wav"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise DataError(
        f"{folder}: clips.csv names {name}, and there is no such .flac or .wav; complete the folder"
    )


def _read(path: Path) -> np.ndarray:
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = wave.mean(1)
    return trim(mono if rate == RATE else soxr.resample(mono, rate, RATE))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", required=True, help="folder with RAVDESS speech")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--limit", type=int, help="most clips of one file, balanced (default: all)")
    parser.add_argument(
        "--seed", type=int, default=0, help="decides which rows `--limit` keeps, and the order"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
