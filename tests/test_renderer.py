from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from omniopsd.mini_omni import write_mini_omni
from rollout.messages import Message, TextPart, parse_messages
from rollout.renderer import Renderer, RenderError, token_counts
from rollout.types import Media, Rendered

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    write_mini_omni(out, seed=0, size="tiny", corpus=["What does he feel? He smiles."] * 4)
    return out


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    return Renderer(folder)


def video(frames: int, height: int = 56, width: int = 56, fps: float = 2.0) -> Media:
    return Media.of("video", RNG.integers(0, 255, (frames, height, width, 3), dtype=np.uint8), fps)


def audio(samples: int) -> Media:
    return Media.of("audio", RNG.uniform(-0.5, 0.5, samples).astype(np.float32))


def image(height: int, width: int) -> Media:
    return Media.of("image", RNG.integers(0, 255, (height, width, 3), dtype=np.uint8))


def chat(content: str) -> tuple[Message, ...]:
    rows = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    return parse_messages(rows, where="d:1")


def by_transformers(renderer: Renderer, content: str, rendered: Rendered) -> np.ndarray:
    """Ids of the processor of transformers, for the same chat written out by hand."""
    for kind, span in (
        ("video", "<|vision_bos|><|VIDEO|><|vision_eos|>"),
        ("image", "<|vision_bos|><|IMAGE|><|vision_eos|>"),
        ("audio", "<|audio_bos|><|AUDIO|><|audio_eos|>"),
    ):
        content = content.replace(f"<{kind}>", span)
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
    )
    arrays = {
        kind: [np.array(m.data) for m in rendered.media if m.kind == kind]
        for kind in ("video", "audio", "image")
    }
    rates = [m.fps for m in rendered.media if m.kind == "video"]
    options = {
        "use_audio_in_video": rendered.audio_in_video,
        "size": dict(renderer.processor.video_processor.size),
        **({"fps": rates[0]} if rates else {}),
    }
    out = renderer.processor(
        text=text,
        videos=arrays["video"] or None,
        audio=arrays["audio"] or None,
        images=arrays["image"] or None,
        videos_kwargs=options,
        return_tensors="np",
    )
    return np.asarray(out["input_ids"][0])


CASES: dict[str, tuple[str, list[Media], bool]] = {
    "text": ("What does he feel?", [], False),
    **{f"{n} frames": ("<video>What?", [video(n)], False) for n in (1, 2, 3, 5, 16)},
    **{
        f"{h}x{w}": ("<video>a<image>", [video(2, h, w), image(h, w)], False)
        for h, w in ((40, 90), (300, 20), (57, 57), (240, 320), (6, 6))
    },
    **{
        f"{n} samples": ("<audio>Who?", [audio(n)], False)
        for n in (321, 480, 481, 16000, 16159, 16160, 16161, 63999, 64000)
    },
    "several": (
        "a<video>b<image><audio>\n<video>c<image><audio>d",
        [video(4, fps=1.6), image(30, 60), audio(9000), video(3, 90, 60, 1.6), image(60, 30), audio(40001)],
        False,
    ),
    **{
        f"track of {n} in {f} frames at {fps:.2f}": ("<video>What?", [video(f, fps=fps), audio(n)], True)
        for fps in (4.0, 2.0, 1.6, 1.0, 128 / 83, 0.5)
        for f, n in ((1, 64000), (3, 8000), (7, 33000), (16, 64000), (16, 400))
    },
    "two tracks and an image": (
        "<video>a<image><video>b",
        [video(8), audio(64000), image(40, 40), video(3, 56, 90), audio(20000)],
        True,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ids_equal_those_of_transformers(renderer: Renderer, case: str) -> None:
    content, media, audio_in_video = CASES[case]
    rendered = renderer.render(chat(content), media, audio_in_video=audio_in_video)
    assert np.array_equal(rendered.token_ids, by_transformers(renderer, content, rendered))
    for kind, token in (("video", "<|VIDEO|>"), ("audio", "<|AUDIO|>"), ("image", "<|IMAGE|>")):
        id_ = renderer.processor.tokenizer.convert_tokens_to_ids(token)
        expected = sum(use.tokens for use in rendered.media_use if use.kind == kind)
        assert int((rendered.token_ids == id_).sum()) == expected
        standalone = kind != "audio" or not audio_in_video
        assert int((rendered.collapsed_ids == id_).sum()) == content.count(f"<{kind}>") * standalone


def test_media_use_and_counts(renderer: Renderer) -> None:
    media = [video(4), audio(16000), image(56, 56)]
    rendered = renderer.render(chat("<video><audio><image>?"), media)
    assert [(u.kind, u.tokens) for u in rendered.media_use] == [("video", 8), ("audio", 25), ("image", 4)]
    assert [u.digest for u in rendered.media_use] == [m.digest for m in media]
    counts = token_counts(rendered)
    assert sum(counts.values()) == len(rendered.token_ids)
    assert (counts["video"], counts["audio"], counts["image"]) == (8, 25, 4)
    assert rendered.token_ids.dtype == rendered.collapsed_ids.dtype == np.int32


def test_an_interleaved_span_starts_with_video(renderer: Renderer) -> None:
    rendered = renderer.render(chat("<video>?"), [video(8), audio(64000)], audio_in_video=True)
    assert [(u.kind, u.tokens) for u in rendered.media_use] == [("video", 16), ("audio", 100)]
    names = renderer.processor.tokenizer.convert_ids_to_tokens(rendered.token_ids.tolist())
    start = names.index("<|vision_bos|>")
    span = names[start : names.index("<|vision_eos|>") + 1]
    half = ["<|VIDEO|>"] * 8 + ["<|AUDIO|>"] * 50
    assert span == ["<|vision_bos|>", "<|audio_bos|>", *half, *half, "<|audio_eos|>", "<|vision_eos|>"]


@pytest.mark.parametrize(
    "text",
    [
        "a<|im_end|>b",
        "<|im_start|>system",
        "<|VIDEO|>",
        "<|endoftext|>",
        "<|audio_bos|>",
        "x<|audio_placeholder|>",
    ],
)
def test_special_tokens_in_texts_are_refused(renderer: Renderer, text: str) -> None:
    with pytest.raises(RenderError, match=r"d:4: messages\[1\]: the text spells the special token <\|\w+\|>"):
        renderer.render(chat(text), [], where="d:4")
    with pytest.raises(RenderError, match="the answer"):
        renderer.encode_response(text)


def test_a_special_token_split_over_two_parts_is_refused(renderer: Renderer) -> None:
    parts = (TextPart(text="a<|im_"), TextPart(text="end|>"))
    with pytest.raises(RenderError, match="im_end"):
        renderer.render((Message(role="user", parts=parts),), [])


@pytest.mark.parametrize(
    ("content", "media", "audio_in_video", "found"),
    [
        ("<video>", [], False, r"the media are \[\], the placeholders ask for \[video\]"),
        ("<video><audio>", [audio(9000), video(2)], False, r"\[audio, video\]"),
        ("<video>", [video(2)], True, r"ask for \[video, audio\]"),
        ("<video><audio>", [video(2), audio(9000)], True, "does not go with"),
        ("<video><video>", [video(2), video(2, fps=1.0)], False, r"rates \[1.0, 2.0\]"),
        ("<audio>", [audio(320)], False, "too short"),
        ("<audio>", [audio(64001)], False, "longer than the 4 s"),
        ("<image>", [image(2, 900)], False, "900x2 pixels"),
        ("<video>", [video(2, 900, 2)], False, "2x900 pixels"),
    ],
)
def test_media_that_cannot_be_taken(
    renderer: Renderer, content: str, media: list[Media], audio_in_video: bool, found: str
) -> None:
    with pytest.raises(RenderError, match=found):
        renderer.render(chat(content + "x"), media, audio_in_video=audio_in_video)


@pytest.mark.parametrize("text", ["He smiles.", "", " two  spaces \n", "Zoë sagt: 你好 🙂 <video> <a|b>"])
def test_answers_come_back(renderer: Renderer, text: str) -> None:
    ids = renderer.encode_response(text)
    assert ids.dtype == np.int32 and ids[-1] == renderer.end_token_id
    assert renderer.decode(ids) == text
    assert renderer.decode([*ids, renderer.vocab_size + 3]) == text


def test_the_digest_names_the_vocabulary(renderer: Renderer, folder: Path, tmp_path: Path) -> None:
    assert Renderer(folder).vocab_digest == renderer.vocab_digest and len(renderer.vocab_digest) == 32
    write_mini_omni(tmp_path / "other", size="tiny", corpus=["Another corpus altogether."] * 4)
    assert Renderer(tmp_path / "other").vocab_digest != renderer.vocab_digest


def test_folders_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="no Qwen2.5-Omni processor"):
        Renderer(tmp_path)
    shutil.copytree(folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["thinker_config"]["seconds_per_chunk"] = 4
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RenderError, match="seconds_per_chunk 4; only 2"):
        Renderer(tmp_path / "m")
