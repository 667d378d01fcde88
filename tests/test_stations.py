"""Media evidence: other audio at any one station stops the run, naming sample, station and modality."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from learner.worker import LearnerWorker
from omniopsd.train import train
from rollout.evidence import MediaMismatch
from rollout.features import FeatureExtractor
from rollout.types import Media, Rendered
from rollout.worker import RolloutWorker
from teacher.worker import TeacherWorker
from tests.run_scene import run_config

pytestmark = pytest.mark.slow
Fault = Callable[[tuple[Media, ...]], tuple[Media, ...]]


def dropped(media: tuple[Media, ...]) -> tuple[Media, ...]:
    return tuple(medium for medium in media if medium.kind != "audio")


def swapped(media: tuple[Media, ...]) -> tuple[Media, ...]:
    other = np.full(16000, 0.1, np.float32)
    return tuple(
        # the old digest stays on it: a station must look at the sound, not at the label
        dataclasses.replace(medium, data=other) if medium.kind == "audio" else medium
        for medium in media
    )


def shortened(media: tuple[Media, ...]) -> tuple[Media, ...]:
    return tuple(
        dataclasses.replace(medium, data=medium.data[:8000]) if medium.kind == "audio" else medium
        for medium in media
    )


class Faulty(FeatureExtractor):
    """The real extractor of one station, fed with something else."""

    fault: Fault

    def features(self, rendered: Rendered):  # type: ignore[no-untyped-def]
        return self.of_media(self.fault(rendered.media))


@pytest.mark.parametrize("fault", [dropped, swapped, shortened])
@pytest.mark.parametrize("station", ["rollout", "teacher", "learner"])
def test_other_audio_stops_the_run(
    station: str, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = {"rollout": RolloutWorker, "teacher": TeacherWorker, "learner": LearnerWorker}[station]
    start = cls.__init__

    def faulty_start(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        start(self, *args, **kwargs)
        holder = {
            "rollout": lambda: (self.engine, "_extractor"),
            "teacher": lambda: (self.scorer, "features"),
        }
        target, name = holder.get(station, lambda: (self, "features"))()
        extractor = Faulty(args[1].path)
        extractor.fault = staticmethod(fault)  # type: ignore[assignment]
        setattr(target, name, extractor)

    monkeypatch.setattr(cls, "__init__", faulty_start)
    with pytest.raises(MediaMismatch, match=rf"{station}: sample mer-mini-\S+: audio"):
        train(run_config(tmp_path))
    assert (
        not (tmp_path / "runs" / "small" / "metrics.jsonl").exists()
        or not (tmp_path / "runs" / "small" / "metrics.jsonl").read_text()
    )
