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
    first, second = sound(1.0, 0.1), sound(1.0, 0.2)
    size = FeatureExtractor(STUDENT).of_media((first,)).audio[0].values.nbytes
    monkeypatch.setattr(rollout.features, "CACHE_BYTES", size + 1)
    extractor = FeatureExtractor(STUDENT)
    one = extractor.of_media((first,)).audio[0]
    assert extractor.of_media((first,)).audio[0] is one
    extractor.of_media((second,))
    again = extractor.of_media((first,)).audio[0]
    assert again is not one and again.values.equal(one.values)
    assert extractor._cache.bytes == one.values.nbytes


def test_a_clip_larger_than_the_limit_is_made_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout.features, "CACHE_BYTES", 1)
    extractor = FeatureExtractor(STUDENT)
    assert len(extractor.of_media((sound(1.0, 0.1), sound(1.0, 0.2))).audio) == 2
    assert extractor._cache.bytes == 0
