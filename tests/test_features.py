"""Tower inputs are kept up to a number of bytes, whatever the size of a clip."""

from __future__ import annotations

import numpy as np
import pytest

import rollout.features
from omniopsd.demo import STUDENT
from rollout.features import FeatureExtractor
from rollout.types import Media


def sound(seconds: float, pitch: float) -> Media:
    wave = np.sin(np.arange(int(16_000 * seconds)) * pitch).astype(np.float32)
    return Media.of("audio", wave)


def test_the_oldest_go_when_the_bytes_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = FeatureExtractor(STUDENT)
    first, second = sound(1.0, 0.1), sound(1.0, 0.2)
    one = extractor.of_media((first,)).audio[0]
    monkeypatch.setattr(rollout.features, "CACHE_BYTES", one.values.nbytes + 1)
    assert extractor.of_media((first,)).audio[0] is one
    extractor.of_media((second,))
    again = extractor.of_media((first,)).audio[0]
    assert again is not one and again.values.equal(one.values)
    assert extractor._cached_bytes == one.values.nbytes


def test_a_clip_larger_than_the_limit_is_made_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = FeatureExtractor(STUDENT)
    monkeypatch.setattr(rollout.features, "CACHE_BYTES", 1)
    assert len(extractor.of_media((sound(1.0, 0.1), sound(1.0, 0.2))).audio) == 2
    assert extractor._cached_bytes == 0
