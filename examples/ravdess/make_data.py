"""Make training rows from RAVDESS speech: questions, labels, and rationales made from measurements.

    python examples/ravdess/make_data.py --clips FOLDER --out DIR [--rationale told|blind] [--limit N] [--seed N]

FOLDER is either the original download (Actor_01/03-01-...-01.wav) or `clips.csv` beside `audio/*.flac`.
A `told` rationale is written with the label known: measured cues and a phrase that suggests the emotion
in other words. A `blind` one has the measured cues alone.
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
QUESTION = (
    "<audio>\nHow does this voice feel?"  # the cold start teaches the eight answers; each token costs time
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A clip and what is written about it; `told`: by someone who knows the label."""

    clip: Clip
    cues: tuple[Cue, ...]
    told: bool = True

    @property
    def heard(self) -> str:
        """The measured cues in words."""
        return ", ".join(f"{cue.word} {cue.name}" for cue in self.cues)

    @property
    def answer(self) -> str:
        """The answer in the form that is scored: measured cues, then the label."""
        return f"<think>{self.heard}</think><answer>{self.clip.emotion}</answer>"

    @property
    def rationale(self) -> str:
        """What stands in for a frontier model's text: the cues and, when told, a phrase from the label."""
        if not self.told:
            return f"{self.heard}."
        digest = hashlib.blake2b(self.clip.name.encode(), digest_size=2).digest()
        return f"{self.heard}. It sounds like {PHRASES[self.clip.emotion][digest[0] % 2]}."


def main() -> None:
    """Read, measure, write; a user's error is one line."""
    args = _arguments()
    try:
        counts = make_data(
            args.clips, args.out, limit=args.limit, seed=args.seed, told=args.rationale == "told"
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(counts))


def make_data(
    clips: str | Path, out: str | Path, *, limit: int | None = None, seed: int = 0, told: bool = True
) -> dict[str, int]:
    """Write the five row files and `audio/` below `out`; returns rows by file. Raises ValueError.

    coldstart.jsonl has the first repetitions of the train speakers, train.jsonl the second; sft.jsonl has
    the rows of train.jsonl with a `response` and without a rationale. `limit` is the most clips of one file.
    """
    out = Path(out)
    (out / "audio").mkdir(parents=True, exist_ok=True)
    found = read_clips(clips)
    waves = {clip.name: read_wave(clip.path) for clip in found}
    evidence = measured_cues(found, {name: measure(wave) for name, wave in waves.items()})
    facts = [Facts(clip=clip, cues=evidence[clip.name], told=told) for clip in found]
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, part in splits(facts).items():
        chosen = pick_balanced(part, limit, seed)
        rows[name] = (
            coldstart_rows(chosen, seed) if name == "coldstart" else [opsd_row(one) for one in chosen]
        )
        if name == "train":
            rows["sft"] = [supervised_row(one) for one in chosen]
        for one in chosen:
            file = out / "audio" / f"{one.clip.name}.flac"
            soundfile.write(file, waves[one.clip.name], RATE, subtype="PCM_16")
    for name, lines in rows.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {name: len(lines) for name, lines in rows.items()}


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


def splits(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Clips by file: no speaker is in two of train, tune and test, no clip in cold start and train."""
    parts = {name: [one for one in facts if one.clip.actor in actors] for name, actors in ACTORS.items()}
    train = parts["train"]
    parts["coldstart"] = [one for one in train if one.clip.repetition == 1]
    parts["train"] = [one for one in train if one.clip.repetition != 1]
    return parts


def pick_balanced(facts: Sequence[Facts], limit: int | None, seed: int) -> list[Facts]:
    """At most `limit` clips, one of each emotion in turn until a class or the limit is used up; shuffled."""
    order = random.Random(seed)
    queues = [[one for one in facts if one.clip.emotion == emotion] for emotion in EMOTIONS]
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


def opsd_row(facts: Facts) -> dict[str, Any]:
    """The row of one clip: question, label, and the rationale that the teacher reads."""
    return {**_question(facts.clip), "labels": [facts.clip.emotion], "rationale": facts.rationale}


def supervised_row(facts: Facts) -> dict[str, Any]:
    """The row of one clip with the answer to learn from the sound alone."""
    return {**_question(facts.clip), "labels": [facts.clip.emotion], "response": facts.answer}


def coldstart_rows(facts: Sequence[Facts], seed: int) -> list[dict[str, Any]]:
    """A reading row and a hearing row of every clip.

    A reading row has the rationale of its clip, the answer that this supports, and the sound of another
    clip: only reading helps there. Without such rows the privileged teacher would know no more than the student.
    """
    sounds = list(facts)
    random.Random(seed).shuffle(sounds)
    reading = [
        {**_question(sound.clip), "id": f"read-{at}", "rationale": one.rationale, "response": one.answer}
        for at, (one, sound) in enumerate(zip(facts, sounds, strict=True))
    ]
    return reading + [supervised_row(one) for one in facts]


def _question(clip: Clip) -> dict[str, Any]:
    return {
        "id": f"ravdess-{clip.name}",
        "messages": [{"role": "user", "content": QUESTION}],
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


def read_wave(path: Path) -> np.ndarray:
    """A clip as float [N] at 16 kHz, mono, silence at both ends cut."""
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = wave.mean(1)
    return trim(mono if rate == RATE else soxr.resample(mono, rate, RATE))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", required=True, help="folder with RAVDESS speech")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--rationale", choices=("told", "blind"), default="told", help="written with or without the label"
    )
    parser.add_argument("--limit", type=int, help="most clips of one file, balanced (default: all)")
    parser.add_argument(
        "--seed", type=int, default=0, help="decides which rows `--limit` keeps, and the order"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
