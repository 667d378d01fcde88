"""The RAVDESS example: measuring, splitting, composing; and the real parts and clips when they are here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from omniopsd.answers import judge
from omniopsd.config_file import load_config
from omniopsd.samples import read_samples
from rollout.renderer import Renderer
from rollout.thinker import load_thinker
from rollout.types import Media

EXAMPLE = Path(__file__).parent.parent / "examples" / "ravdess"
sys.path.insert(0, str(EXAMPLE))  # the example's files import each other as scripts do

import calibrate_audio  # noqa: E402
import make_data  # noqa: E402
import student  # noqa: E402
import student_check  # noqa: E402
import student_parts  # noqa: E402
import voice_evidence  # noqa: E402
import whisper_ct2  # noqa: E402
from make_student import make_student  # noqa: E402

PARTS, DATA = "OMNIOPSD_RAVDESS_PARTS", "OMNIOPSD_RAVDESS_DATA"


def tone(pitch: float, seconds: float = 1.0, level: float = 0.3) -> np.ndarray:
    """A harmonic sound like a held vowel, silence of 0.2 s at both ends."""
    time = np.arange(int(seconds * voice_evidence.RATE)) / voice_evidence.RATE
    sound = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6))
    rest = np.zeros(int(0.2 * voice_evidence.RATE))
    return np.concatenate([rest, level * np.asarray(sound), rest]).astype(np.float32)


@pytest.mark.parametrize("pitch", [90.0, 180.0, 320.0, 480.0])
def test_pitch_is_that_of_the_tone(pitch: float) -> None:
    assert voice_evidence.measure(tone(pitch)).pitch == pytest.approx(pitch, rel=0.02)


def test_level_pace_and_melody() -> None:
    soft, loud = voice_evidence.measure(tone(200)), voice_evidence.measure(tone(200, level=0.6))
    assert loud.loudness - soft.loudness == pytest.approx(6.02, abs=0.1)
    assert voice_evidence.measure(tone(200, seconds=2)).pace == pytest.approx(7 / 2, rel=0.05)
    glide = np.concatenate([tone(150), tone(300)])
    assert soft.melody < 0.5 < 10 < voice_evidence.measure(glide).melody < 13


def test_cues_are_relative_to_the_speaker() -> None:
    clip = voice_evidence.measure(tone(240))
    low, high = (voice_evidence.typical([voice_evidence.measure(tone(hz))]) for hz in (160, 330))
    words = [{cue.name: cue.word for cue in voice_evidence.cues(clip, usual)} for usual in (low, high)]
    assert words[0]["pitch"] == "very high" and words[1]["pitch"] == "very low"
    assert words[0]["voice"] == words[0]["pace"] == "usual"


@pytest.mark.parametrize("audio", [np.zeros(16_000, np.float32), np.zeros(10, np.float32)])
def test_silence_is_refused(audio: np.ndarray) -> None:
    with pytest.raises(voice_evidence.EvidenceError, match="give a clip of speech"):
        voice_evidence.measure(audio)


def test_trim_keeps_the_voice() -> None:
    kept = voice_evidence.trim(tone(200))
    assert len(kept) == pytest.approx(voice_evidence.RATE * 1.1, rel=0.03)


def clips(actors: range = range(1, 21)) -> list[make_data.Clip]:
    names = [
        f"03-01-{emotion:02d}-01-01-{take:02d}-{actor:02d}"
        for actor in actors
        for emotion in range(1, 9)
        for take in (1, 2)
    ]
    return [make_data.clip_of(Path(f"{name}.wav")) for name in names]


def facts(*, told: bool = True) -> list[make_data.Facts]:
    cue = voice_evidence.Cue(name="pitch", word="high")
    return [make_data.Facts(clip=clip, cues=(cue,), told=told) for clip in clips()]


def test_no_speaker_and_no_clip_is_shared() -> None:
    parts = make_data.splits(facts())
    actors = {name: {one.clip.actor for one in part} for name, part in parts.items()}
    assert actors["coldstart"] == actors["train"] == set(range(1, 15))
    assert actors["tune"] == {15, 16} and actors["test"] == {17, 18, 19, 20}
    names = [one.clip.name for part in parts.values() for one in part]
    assert len(names) == len(set(names)) == 20 * 16


def test_limit_is_balanced_and_seeded() -> None:
    chosen = make_data.pick_balanced(facts(), 20, seed=3)
    counts = [sum(one.clip.emotion == emotion for one in chosen) for emotion in make_data.EMOTIONS]
    assert sorted(counts) == [2] * 4 + [3] * 4
    assert chosen == make_data.pick_balanced(facts(), 20, seed=3)
    assert chosen != make_data.pick_balanced(facts(), 20, seed=4)
    assert len(make_data.pick_balanced(facts(), None, seed=0)) == len(facts())


def test_a_reading_row_has_the_sound_of_another_clip() -> None:
    lessons = facts()
    rows = make_data.coldstart_rows(lessons, seed=0)
    reading, hearing = rows[: len(lessons)], rows[len(lessons) :]
    sounds = [row["audios"][0] for row in reading]
    assert len(set(sounds)) == len(lessons) == len(hearing)
    same = [one.clip.name in sound for one, sound in zip(lessons, sounds, strict=True)]
    assert sum(same) < 0.05 * len(lessons)
    for one, row in zip(lessons, reading, strict=True):
        assert row["rationale"] == one.rationale and one.clip.emotion in row["response"]
    assert not any("rationale" in row for row in hearing)


def test_a_blind_rationale_is_the_same_for_every_label() -> None:
    assert len({one.rationale for one in facts(told=False)}) == 1
    assert len({one.rationale for one in facts()}) == 2 * len(make_data.EMOTIONS)


@pytest.mark.parametrize("name", ["a.wav", "03-01-09-01-01-01-01.wav", "03-01-01-01-01-01.wav"])
def test_a_strange_name_is_refused(name: str) -> None:
    with pytest.raises(make_data.DataError, match="not a name of RAVDESS"):
        make_data.clip_of(Path(name))


def write_originals(folder: Path) -> None:
    """The layout of the download: 48 kHz wav files by actor."""
    for clip in clips(range(13, 19)):
        wave = tone(120 + 20 * clip.actor / 10 + 30 * clip.repetition, seconds=0.5)
        (folder / f"Actor_{clip.actor}").mkdir(parents=True, exist_ok=True)
        path = folder / f"Actor_{clip.actor}" / f"{clip.name}.wav"
        soundfile.write(path, np.repeat(wave, 3), 3 * voice_evidence.RATE, subtype="PCM_16")


def test_rows_are_samples_of_the_program(tmp_path: Path) -> None:
    write_originals(tmp_path / "raw")
    counts = make_data.make_data(tmp_path / "raw", tmp_path / "out", limit=8, seed=0)
    assert counts == {"train": 8, "sft": 8, "tune": 8, "test": 8, "coldstart": 16}
    for name in ("train", "tune", "test"):
        samples = read_samples(tmp_path / "out" / f"{name}.jsonl")
        assert {sample.labels[0] for sample in samples} == set(make_data.EMOTIONS)
        for sample in samples:
            assert (tmp_path / "out" / sample.inputs.paths.audios[0]).is_file()
            assert sample.rationale is not None and sample.labels[0] not in sample.rationale
    taught = read_samples(tmp_path / "out" / "sft.jsonl")
    assert [s.sample_id for s in taught] == [
        s.sample_id for s in read_samples(tmp_path / "out" / "train.jsonl")
    ]
    for sample in taught:
        assert sample.rationale is None and sample.response is not None
        assert judge(sample.response, sample.labels).correct


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(make_data.DataError, match=r"no clips\.csv and no"):
        make_data.read_clips(tmp_path)


@pytest.mark.parametrize("head_dim", [8, 16, 32, 64, 80, 96, 128])
def test_rope_sections_fill_half_a_head(head_dim: int) -> None:
    sections = student.mrope_sections(head_dim)
    assert sum(sections) == head_dim // 2 and min(sections) > 0
    assert student.mrope_sections(128) == [16, 24, 24]  # as Qwen2.5-Omni has them


def tiny_language(*, tied: bool = True) -> student_parts.Language:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    learner.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=specials))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learner, eos_token="<|im_end|>")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    return student_parts.Language(model=LlamaForCausalLM(config).eval(), tokenizer=tokenizer)


def tiny_whisper() -> WhisperEncoder:
    torch.manual_seed(2)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        num_mel_bins=80,
        max_source_positions=1500,
    )
    encoder = WhisperEncoder(config).eval()
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if name != "embed_positions.weight":
                weight += 0.2 * torch.randn_like(weight)  # fresh ones attend evenly and have zero biases
    return encoder


@pytest.mark.parametrize("tied", [True, False])
def test_the_student_keeps_what_its_parts_did(tmp_path: Path, tied: bool) -> None:
    language, whisper = tiny_language(tied=tied), tiny_whisper()
    report = make_student(language, whisper, tmp_path, dtype="float32")
    assert report["audio_difference"] < 1e-4
    thinker, renderer = load_thinker(tmp_path, "float32"), Renderer(tmp_path)
    assert ("lm_head.weight" in dict(thinker.named_parameters())) is not tied
    # new tokens take probability from the old ones, so compare the old ones among themselves
    ids = torch.tensor([renderer.encode_response("A high and quick voice.").tolist()])
    with torch.no_grad():
        theirs = language.model(input_ids=ids).logits.log_softmax(-1)
        ours = thinker(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[..., : theirs.shape[-1]]
    torch.testing.assert_close(ours.log_softmax(-1), theirs, atol=1e-4, rtol=0)


def test_the_check_sees_a_wrong_weight() -> None:
    language, whisper = tiny_language(), tiny_whisper()
    tokenizer = student.make_tokenizer(language.tokenizer)
    config = student.full_config(language.model.config, whisper.config, tokenizer, 5)
    thinker = student.compose(language, whisper, config, 0)
    with torch.no_grad():
        thinker.model.layers[1].self_attn.q_proj.bias += 0.5
        thinker.audio_tower.layers[0].fc1.bias += 0.5
    assert student_check.text_difference(thinker, language.model, tokenizer) > 1e-3
    assert student_check.audio_difference(thinker.audio_tower, whisper) > 1e-3


def test_calibrated_audio_differs_between_clips() -> None:
    language, whisper = tiny_language(), tiny_whisper()
    config = student.full_config(
        language.model.config, whisper.config, student.make_tokenizer(language.tokenizer), 2
    )
    thinker = student.compose(language, whisper, config, 0)
    extractor = WhisperFeatureExtractor(chunk_length=2)
    waves = [tone(hz, seconds=1.0) for hz in (110, 160, 230, 330)]
    mel = extractor(waves[0], sampling_rate=voice_evidence.RATE, return_tensors="pt").input_features[0]

    def likeness() -> float:
        """How much of the rows' energy is common to all of a clip, beside the mean text embedding."""
        with torch.no_grad():
            rows = thinker.audio_tower(mel[:, :140], feature_lens=torch.tensor([140])).last_hidden_state
            rows = rows - thinker.model.embed_tokens.weight.mean(0)
        return float(rows.mean(0).square().sum() / rows.square().sum(1).mean())

    before = likeness()
    torch.manual_seed(0)
    assert 0 < calibrate_audio.calibrate(thinker, waves, extractor) < 1
    assert likeness() < 0.5 * before


def test_old_ids_stay_and_padding_is_not_the_end() -> None:
    source = tiny_language().tokenizer
    tokenizer = student.make_tokenizer(source)
    assert {token: tokenizer.get_vocab()[token] for token in source.get_vocab()} == source.get_vocab()
    added = sorted(tokenizer.convert_tokens_to_ids(token) for token in student.MEDIA_TOKENS.values())
    assert added == list(range(len(source), len(source) + 7))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_media_of_the_written_folder(tmp_path: Path) -> None:
    make_student(tiny_language(), tiny_whisper(), tmp_path, seconds=2, dtype="float32")
    row = {"role": "user", "content": make_data.QUESTION}
    from rollout.messages import parse_messages

    rendered = Renderer(tmp_path).render(
        parse_messages([row], where="x"), [Media.of("audio", tone(200, seconds=1.0))]
    )
    assert rendered.media_use[0].tokens == 35  # 1.4 s: 140 mel frames, halved twice


def as_ct2(encoder: WhisperEncoder) -> bytes:
    """The inverse of the reader, for an encoder with 2 layers."""
    state = {name: value.numpy().astype(np.float16) for name, value in encoder.state_dict().items()}
    out: dict[str, np.ndarray] = {"num_heads": np.array(2, np.int16)}
    out["position_encodings/encodings"] = state["embed_positions.weight"]
    out |= {
        f"{conv}/{kind}": state[f"{conv}.{kind}"]
        for conv in ("conv1", "conv2")
        for kind in ("weight", "bias")
    }

    def put(name: str, source: str, kinds: tuple[str, str]) -> None:
        out[f"{name}/{kinds[0]}"], out[f"{name}/{kinds[1]}"] = (
            state[f"{source}.weight"],
            state[f"{source}.bias"],
        )

    norm, linear = ("gamma", "beta"), ("weight", "bias")
    put("layer_norm", "layer_norm", norm)
    for i in range(2):
        put(f"layer_{i}/self_attention/layer_norm", f"layers.{i}.self_attn_layer_norm", norm)
        put(f"layer_{i}/ffn/layer_norm", f"layers.{i}.final_layer_norm", norm)
        put(f"layer_{i}/self_attention/linear_1", f"layers.{i}.self_attn.out_proj", linear)
        put(f"layer_{i}/ffn/linear_0", f"layers.{i}.fc1", linear)
        put(f"layer_{i}/ffn/linear_1", f"layers.{i}.fc2", linear)
        q, k, v = (state[f"layers.{i}.self_attn.{part}_proj.weight"] for part in "qkv")
        bias_q, bias_v = (state[f"layers.{i}.self_attn.{part}_proj.bias"] for part in "qv")
        out[f"layer_{i}/self_attention/linear_0/weight"] = np.concatenate([q, k, v])
        out[f"layer_{i}/self_attention/linear_0/bias"] = np.concatenate([bias_q, 0 * bias_q, bias_v])
    kinds = {np.dtype(np.float16): 4, np.dtype(np.int16): 2}
    body = b"".join(
        _ct2_name(f"encoder/{name}")
        + bytes([value.ndim])
        + np.array(value.shape, "<u4").tobytes()
        + bytes([kinds[value.dtype]])
        + np.uint32(value.nbytes).tobytes()
        + value.tobytes()
        for name, value in out.items()
    )
    head = np.uint32(6).tobytes() + _ct2_name("WhisperSpec") + np.array([3, len(out)], "<u4").tobytes()
    return head + body + np.uint32(0).tobytes()


def _ct2_name(name: str) -> bytes:
    return np.uint16(len(name) + 1).tobytes() + name.encode() + b"\0"


def test_whisper_from_ctranslate2_pieces(tmp_path: Path) -> None:
    encoder = tiny_whisper().half().float()  # the file holds float16
    content = as_ct2(encoder)
    pieces = [tmp_path / "model.bin.part1", tmp_path / "model.bin.part2"]
    for piece, part in zip(pieces, (content[:5000], content[5000:]), strict=True):
        piece.write_bytes(part)
    read = whisper_ct2.load_ct2_encoder(pieces)
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = encoder(mel).last_hidden_state, read(mel).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(whisper_ct2.Ct2Error, match="bytes early"):
        whisper_ct2.load_ct2_encoder(pieces[:1])


def test_missing_parts_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(student_parts.PartsError, match="--language"):
        student_parts.load_language(None, str(tmp_path))
    with pytest.raises(student_parts.PartsError, match="--audio"):
        student_parts.load_whisper(None, str(tmp_path))


def test_the_yaml_files_are_configs() -> None:
    config = load_config(EXAMPLE / "run.yaml")
    assert config.run.steps >= 20 and config.data.test is not None
    first = load_config(EXAMPLE / "coldstart.yaml")
    assert first.objective.divergence == "cross_entropy"
    assert "audio" in first.learner.freeze and "audio" in config.learner.freeze  # trained along, it goes deaf
    assert first.teacher.template == config.teacher.template  # what it learned to read


def _folder(name: str) -> str:
    folder = os.environ.get(name)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{name} names no folder: see examples/ravdess/README.md")
    return folder


@pytest.mark.slow
def test_the_real_parts_compose(tmp_path: Path) -> None:
    parts = _folder(PARTS)
    report: dict[str, Any] = make_student(
        student_parts.load_language(None, parts), student_parts.load_whisper(None, parts), tmp_path
    )
    assert report["parameters"] == 155_039_552
    assert (
        report["text_logprob_difference"] < 1e-3
        and report["media_token_share"] < 1e-3
        and report["audio_difference"] < 1e-3
    )


@pytest.mark.slow
def test_the_real_clips_give_rows(tmp_path: Path) -> None:
    counts = make_data.make_data(_folder(DATA), tmp_path, limit=16, seed=0)
    assert counts == {"train": 16, "sft": 16, "tune": 16, "test": 16, "coldstart": 32}
    assert len(read_samples(tmp_path / "test.jsonl")) == 16
