"""MER-MINI: the same clips for the same arguments, readable evidence, and media that decode to it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from omniopsd.mer_mini.clip import Clip, draw_evidence, make_clip, plan_clips
from omniopsd.mer_mini.emotions import (
    CARRIERS,
    CONDITIONS,
    EMOTIONS,
    EMPTY,
    PART_OF,
    PARTS,
    Part,
    all_cues,
    emotion_of_cue,
    emotion_of_evidence,
)
from omniopsd.mer_mini.face import draw_face_clip
from omniopsd.mer_mini.look import RANGES, Look, Looks, draw_look
from omniopsd.mer_mini.phrases import PARAPHRASES, SUBTITLES
from omniopsd.mer_mini.posture import draw_posture
from omniopsd.mer_mini.text import (
    QUESTION,
    SYSTEM,
    gold_response,
    parse_answer,
    user_text,
    vocabulary,
    words_of,
    write_rationale,
)
from omniopsd.mer_mini.voice import RATE, speak
from omniopsd.mer_mini.write import MerMiniError, run, write_mer_mini

CLIPS = 18
SAMPLE_KEYS = "id messages videos audios images audio_in_video labels rationale dataset"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mer_mini(tmp_path_factory.mktemp("mer-mini") / "train", CLIPS, 3).parent


@pytest.fixture(scope="module")
def made() -> list[Clip]:
    return [make_clip(plan, 3, "train", 0.08) for plan in plan_clips(CLIPS, 3, "train")]


def rows_of(folder: Path, name: str = "samples.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_mer_mini(tmp_path / "again", CLIPS, 3).parent
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 3 * CLIPS + 3
    for name in files:
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name
    other = write_mer_mini(tmp_path / "other", CLIPS, 4).parent
    assert (folder / "samples.jsonl").read_bytes() != (other / "samples.jsonl").read_bytes()


def test_rows_have_the_sample_form(folder: Path, made: list[Clip]) -> None:
    rows, facts = rows_of(folder), rows_of(folder, "evidence.jsonl")
    for row, fact, clip in zip(rows, facts, made, strict=True):
        assert row["rationale"] == clip.rationale and fact["rationale_wrong"] == clip.rationale_wrong
        assert " ".join(row) == SAMPLE_KEYS and row["id"] == fact["id"]
        assert row["labels"] == [fact["emotion"]] and row["dataset"] == f"mer-mini/{fact['condition']}"
        assert [message["role"] for message in row["messages"]] == ["system", "user"]
        assert row["messages"][1]["content"].startswith("<video><audio><image>\nSubtitle: ")
        for path in row["videos"] + row["audios"] + row["images"]:
            assert (folder / path).is_file()
        assert parse_answer(fact["gold_response"]) == fact["emotion"]
        assert fact["gold_response"] not in json.dumps(row)


def test_audio_in_video_rows_have_no_wav(tmp_path: Path) -> None:
    row = rows_of(write_mer_mini(tmp_path / "out", 1, 0, audio_in_video=True).parent)[0]
    assert row["audio_in_video"] is True and row["audios"] == []
    assert row["messages"][1]["content"].startswith("<video><image>\n")


def test_conditions_and_labels_are_balanced() -> None:
    plans = plan_clips(360, 1, "train")
    assert Counter((p.condition, p.emotion) for p in plans) == {
        (c, e): 20 for c in CONDITIONS for e in EMOTIONS
    }
    assert Counter((p.emotion, p.carrier) for p in plans if p.carrier) == {
        (e, c): 5 for e in EMOTIONS for c in CARRIERS
    }
    assert Counter((p.emotion, p.said) for p in plans if p.said) == {
        (e, s): 4 for e in EMOTIONS for s in EMOTIONS if e != s
    }
    assert max(Counter(p.condition for p in plan_clips(64, 1, "train")).values()) <= 22
    assert [p.emotion for p in plans] != [p.emotion for p in plan_clips(360, 1, "test")]


def test_evidence_keeps_the_condition(made: list[Clip]) -> None:
    assert {clip.plan.condition for clip in made} == set(CONDITIONS)
    for clip in made:
        assert tuple(item.modality for item in clip.evidence) == CARRIERS
        shown = [emotion_of_cue(PART_OF[item.modality], item.cue) for item in clip.evidence]
        truth = clip.plan.emotion
        if clip.plan.condition == "redundant":
            assert shown == [truth] * 4
        elif clip.plan.condition == "single":
            assert shown == [truth if modality == clip.plan.carrier else None for modality in CARRIERS]
        else:
            assert shown == [truth] * 3 + [clip.plan.said] and clip.plan.said != truth
        assert emotion_of_evidence(clip.evidence) == truth


def test_evidence_alone_decides_the_label() -> None:
    """No two clips show the same cues and have different labels: the task has no unanswerable rows."""
    labels: dict[tuple[str, ...], set[str]] = {}
    for plan in plan_clips(360, 0, "train"):
        evidence = draw_evidence(np.random.default_rng(plan.index), plan)
        labels.setdefault(tuple(item.cue for item in evidence), set()).add(plan.emotion)
    assert len(labels) > 50 and all(len(found) == 1 for found in labels.values())


def test_media_decode_back(folder: Path, made: list[Clip]) -> None:
    for row, clip in list(zip(rows_of(folder), made, strict=True))[:6]:
        sound, rate = soundfile.read(folder / row["audios"][0], dtype="float32")
        assert rate == RATE and np.array_equal(sound, clip.audio)
        assert np.array_equal(np.asarray(Image.open(folder / row["images"][0])), clip.image)
        with av.open(str(folder / row["videos"][0])) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264" and stream.average_rate == 8
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        assert frames.shape == clip.frames.shape == (16, 112, 112, 3)
        assert np.abs(frames.astype(int) - clip.frames).mean() < 6.0


def test_the_video_track_sounds_like_the_wav(folder: Path, made: list[Clip]) -> None:
    for row, clip in list(zip(rows_of(folder), made, strict=True))[:6]:
        with av.open(str(folder / row["videos"][0])) as container:
            assert container.streams.audio[0].codec_context.name == "aac"
            track = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
        assert abs(len(track) - RATE) <= 1024
        size = min(len(track), RATE)
        if "noise" not in [item.cue for item in clip.evidence]:
            assert np.corrcoef(track[:size], clip.audio[:size])[0, 1] > 0.9


def test_looks_are_disjoint_and_kept() -> None:
    for field in fields(Look):
        train, test = RANGES["train"][field.name], RANGES["test"][field.name]
        assert all(a[1] < b[0] or b[1] < a[0] for a in train for b in test), field.name
    for looks in ("train", "test"):
        for seed in range(20):
            look = draw_look(np.random.default_rng(seed), looks)
            for name, bands in RANGES[looks].items():
                assert any(low <= getattr(look, name) <= high for low, high in bands)


def test_texts_are_small() -> None:
    assert len(vocabulary()) < 350
    assert len(words_of(SYSTEM)) + len(words_of(user_text("", audio_in_video=False))) < 25
    labels, cues = set(EMOTIONS), {part: all_cues(part) for part in PARTS}
    for part in PARTS:
        assert set(PARAPHRASES[part]) == set(cues[part])
        for lines in PARAPHRASES[part].values():
            assert len(set(lines)) == 3
            assert not any(re.search(rf"\b{cue}\b", line) for line in lines for cue in cues[part])
    assert set(SUBTITLES) == set(cues["words"])
    assert not labels & {word for lines in SUBTITLES.values() for line in lines for word in words_of(line)}


def test_rationales_are_free_text(made: list[Clip]) -> None:
    known, seen = vocabulary(), set()
    for clip in made:
        for seed in range(60):
            text, _ = write_rationale(np.random.default_rng(seed), clip.evidence, clip.plan.emotion, 0.0)
            words = words_of(text)
            assert 25 <= len(text.split()) <= 45, text
            assert {word for word in words if word[0].isalpha()} <= known
            assert not set(words) & set(EMOTIONS) and "{" not in text and "face:" not in text
            seen.add(text)
            for item in clip.evidence:
                assert any(line in text for line in PARAPHRASES[PART_OF[item.modality]][item.cue]), text
    assert len(seen) > 600


def test_noise_puts_in_one_wrong_cue(made: list[Clip]) -> None:
    wrong_share = []
    for seed in range(1000):
        _, wrong = write_rationale(np.random.default_rng(seed), made[0].evidence, "happy", 0.08)
        wrong_share.append(wrong is not None)
    assert 0.05 < np.mean(wrong_share) < 0.11
    for clip in made:
        text, wrong = write_rationale(np.random.default_rng(0), clip.evidence, clip.plan.emotion, 1.0)
        for item in clip.evidence:
            part = PART_OF[item.modality]
            told = any(line in text for line in PARAPHRASES[part][item.cue])
            assert told == (item.modality != wrong)


def test_noise_leaves_the_media_alone(made: list[Clip]) -> None:
    clip = make_clip(made[0].plan, 3, "train", 1.0)
    assert clip.rationale_wrong is not None and clip.subtitle == made[0].subtitle
    assert np.array_equal(clip.frames, made[0].frames) and np.array_equal(clip.audio, made[0].audio)


def test_gold_response_and_strict_parse(made: list[Clip]) -> None:
    clip = next(c for c in made if c.plan.carrier == "text")
    text = gold_response(clip.evidence, clip.plan.emotion)
    said = EMOTIONS[clip.plan.emotion].words
    assert text == (
        f"<think>face: hidden; voice: noise; posture: blocked; words: {said}</think>"
        f"<answer>{clip.plan.emotion}</answer>"
    )
    assert parse_answer(text) == clip.plan.emotion and parse_answer(f" {text}\n") == clip.plan.emotion
    assert parse_answer("<think></think><answer>joy</answer>") == "joy"
    for bad in ("happy", "<answer>happy</answer>", text + "happy", text + text, text[:-1], "x" + text):
        assert parse_answer(bad) is None
    assert QUESTION.endswith("?")


def features(kind: Part, looks: Looks, cue: str, seed: int) -> np.ndarray:
    """A picture made small, or log band energies over time: what any simple reader sees."""
    rng = np.random.default_rng([seed, looks == "test"])
    look = draw_look(rng, looks)
    if kind == "voice":
        sound = speak(rng, look, cue, 0.1)[: 40 * 400].reshape(40, 400)
        power = np.abs(np.fft.rfft(sound * np.hanning(400)))[:, 2:122].reshape(40, 12, 10).sum(2)
        return np.log10(power + 1e-3).ravel()
    picture = draw_face_clip(rng, look, cue, 0.25)[12] if kind == "face" else draw_posture(rng, look, cue)
    grey = picture.astype(np.float64).mean(2).reshape(28, 4, 28, 4).mean((1, 3))
    edges = np.abs(np.diff(grey, axis=0))[:, :-1], np.abs(np.diff(grey, axis=1))[:-1]
    return np.concatenate([edge.ravel() for edge in edges])


@pytest.mark.parametrize(
    ("kind", "train_floor", "test_floor"), [("face", 0.8, 0.5), ("voice", 0.9, 0.8), ("posture", 0.9, 0.8)]
)
def test_a_simple_reader_tells_the_cues_apart(kind: Part, train_floor: float, test_floor: float) -> None:
    """Nearest centroid of train looks, on new train looks and on test looks; chance is 1/7 to 1/12."""
    cues = all_cues(kind)
    centres = np.stack([np.mean([features(kind, "train", cue, s) for s in range(12)], 0) for cue in cues])
    floors: dict[Looks, float] = {"train": train_floor, "test": test_floor}
    for looks, floor in floors.items():
        hits = [
            np.argmin(((centres - features(kind, looks, cue, 100 + seed)) ** 2).sum(1)) == index
            for index, cue in enumerate(cues)
            for seed in range(6)
        ]
        assert np.mean(hits) >= floor, (looks, np.mean(hits))


def test_the_onset_is_visible() -> None:
    rng = np.random.default_rng(0)
    look = draw_look(rng, "train")
    frames = draw_face_clip(rng, look, "gasp", 0.75).astype(int)
    step = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert 5 <= int(step.argmax()) + 1 <= 7


def test_a_folder_is_reused_or_refused(folder: Path, tmp_path: Path) -> None:
    stamp = (folder / "samples.jsonl").stat().st_mtime_ns
    assert "18 clips, train looks" in run(folder, CLIPS, 3)
    assert (folder / "samples.jsonl").stat().st_mtime_ns == stamp
    with pytest.raises(MerMiniError, match="choose another --out"):
        write_mer_mini(folder, CLIPS, 4)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MerMiniError, match="no mer-mini manifest"):
        write_mer_mini(tmp_path, 1, 0)
    with pytest.raises(MerMiniError, match="a file is in the way"):
        write_mer_mini(tmp_path / "notes.txt", 1, 0)


def test_a_cut_short_folder_is_finished_and_an_edited_one_refused(tmp_path: Path) -> None:
    samples = write_mer_mini(tmp_path / "out", 2, 0)
    whole = {path: path.read_bytes() for path in samples.parent.rglob("*") if path.is_file()}
    manifest = json.loads((samples.parent / "manifest.json").read_text())
    (samples.parent / "manifest.json").write_text(json.dumps(manifest | {"content": None, "samples": None}))
    samples.unlink()
    write_mer_mini(tmp_path / "out", 2, 0)
    assert {path: path.read_bytes() for path in whole} == whole
    samples.write_text(samples.read_text() + "\n")
    with pytest.raises(MerMiniError, match="changed since it was written"):
        write_mer_mini(tmp_path / "out", 2, 0)


@pytest.mark.parametrize(
    ("clips", "seed", "looks", "noise", "says"),
    [
        (0, 0, "train", 0.1, "0 clips"),
        (1, -1, "train", 0.1, "seed is -1"),
        (1, 0, "dev", 0.1, "write train or test"),
        (1, 0, "test", 1.5, "a share between 0 and 1"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, clips: int, seed: int, looks: Looks, noise: float, says: str
) -> None:
    with pytest.raises(MerMiniError, match=says):
        write_mer_mini(tmp_path / "out", clips, seed, looks, rationale_noise=noise)
    assert not (tmp_path / "out").exists()


def test_empty_cues_show_no_emotion() -> None:
    assert all(emotion_of_cue(part, EMPTY[part]) is None for part in PARTS)
    every = [cue for part in PARTS for cue in all_cues(part)]
    assert len(set(every)) == len(every)
