"""The media evidence: every kind of difference is named with sample, station and modality."""

from __future__ import annotations

import numpy as np
import pytest

from rollout.evidence import MediaMismatch, placeholder_rows, require_same_media
from rollout.types import Media, MediaUse, Modality, Rendered

VIDEO, AUDIO, IMAGE, TEXT = 7, 8, 9, 1
IDS: dict[Modality, int] = {"video": VIDEO, "audio": AUDIO, "image": IMAGE}


def use(kind: Modality, digest: str, tokens: int) -> MediaUse:
    return MediaUse(kind=kind, digest=digest, tokens=tokens)


EXPECTED = (use("video", "v", 4), use("audio", "a", 3), use("audio", "b", 2))


def test_the_same_media_pass_in_any_order_of_modalities():
    require_same_media(EXPECTED, EXPECTED, station="teacher", sample_id="s")
    moved = (EXPECTED[1], EXPECTED[0], EXPECTED[2])
    require_same_media(EXPECTED, moved, station="teacher", sample_id="s")
    require_same_media((), (), station="teacher", sample_id="s")


@pytest.mark.parametrize(
    ("used", "words"),
    [
        (EXPECTED[:2], "audio missing: 1 used, the prompt has 2"),
        (EXPECTED[1:], "video missing: 0 used, the prompt has 1"),
        ((*EXPECTED, use("image", "i", 1)), "image extra: 1 used, the prompt has 0"),
        ((use("video", "x", 4), *EXPECTED[1:]), "video 0 has digest x, the prompt says v"),
        ((EXPECTED[0], EXPECTED[2], EXPECTED[1]), "audio 0 has digest b"),
        ((*EXPECTED[:2], use("audio", "b", 3)), "audio 1 has 3 tokens, the prompt says 2"),
    ],
)
def test_each_difference_is_named(used, words):
    with pytest.raises(MediaMismatch, match=f"learner: sample clip-7: {words}"):
        require_same_media(EXPECTED, used, station="learner", sample_id="clip-7")


def rendered(ids: list[int], uses: tuple[MediaUse, ...], in_video: bool = False) -> Rendered:
    data = {
        "video": Media.of("video", np.zeros((2, 4, 4, 3), np.uint8), fps=2.0),
        "audio": Media.of("audio", np.zeros(9, np.float32)),
        "image": Media.of("image", np.zeros((4, 4, 3), np.uint8)),
    }
    return Rendered(
        token_ids=np.array(ids, np.int32),
        collapsed_ids=np.array([TEXT], np.int32),
        media=tuple(data[one.kind] for one in uses),
        media_use=uses,
        audio_in_video=in_video,
    )


def rows(prompt: Rendered) -> list[list[int]]:
    return [list(one) for one in placeholder_rows(prompt, IDS, station="rollout", sample_id="s")]


def test_placeholders_are_found_for_each_medium():
    uses = (use("audio", "a", 2), use("video", "v", 1), use("audio", "b", 1))
    assert rows(rendered([TEXT, AUDIO, AUDIO, VIDEO, TEXT, AUDIO], uses)) == [[1, 2], [3], [5]]
    assert rows(rendered([TEXT], ())) == []


def test_a_shared_span_is_told_apart():
    uses = (use("video", "v", 3), use("audio", "a", 2))
    assert rows(rendered([TEXT, VIDEO, VIDEO, AUDIO, VIDEO, AUDIO], uses, True)) == [[1, 2, 4], [3, 5]]


@pytest.mark.parametrize(("ids", "found"), [([TEXT], 0), ([AUDIO] * 3, 3)])
def test_placeholders_that_do_not_fit_the_media_are_refused(ids, found):
    with pytest.raises(MediaMismatch, match=f"rollout: sample s: audio: the prompt has {found} placeholder"):
        rows(rendered(ids, (use("audio", "a", 2),)))
