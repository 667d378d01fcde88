"""Decoding on actors: the same arrays, errors and training numbers as in the driver."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cluster.runtime import InlineRuntime
from omniopsd.build import groups_of, roles
from omniopsd.check import require_sound
from omniopsd.config import RunConfig
from omniopsd.metrics import read
from omniopsd.prompts import PromptBook, make_book
from omniopsd.train import train
from rollout.config import MediaConfig
from rollout.decode import MediaError
from rollout.decoders import DecodeJob, DecoderPool, DecodeWorker
from rollout.media import MediaPaths
from rollout.messages import MediaPart, Message
from tests.run_scene import run_config

NUMBERS = ("loss", "grad_norm", "divergence", "probe_difference", "response_length")


def book_of(config: RunConfig) -> PromptBook:
    renderer, samples, _ = require_sound(config)
    return make_book(config, samples, renderer)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where of every sample that an actor decodes."""
    seen: list[str] = []
    real = DecodeWorker.decode

    def decode(self: DecodeWorker, job: DecodeJob) -> object:
        seen.append(job.where)
        return real(self, job)

    monkeypatch.setattr(DecodeWorker, "decode", decode)
    return seen


def test_the_arrays_are_the_drivers_own_and_decoded_once(tmp_path: Path, decoded: list[str]) -> None:
    config = run_config(tmp_path)
    plain, book = book_of(config), book_of(config)
    pool = DecoderPool(InlineRuntime(), MediaConfig(max_frames=4, decoders=2))
    book.decode_with(pool)
    book.decode_ahead(book.samples[:3])
    book.decode_ahead(book.samples[:3])
    assert len(decoded) == 3
    for mine, theirs in zip(plain.samples, book.samples, strict=True):
        media, same = plain.media(mine), book.media(theirs)
        assert media and [one.digest for one in media] == [one.digest for one in same]
        for one, other in zip(media, same, strict=True):
            assert (one.kind, one.fps) == (other.kind, other.fps) and np.array_equal(one.data, other.data)
            assert not other.data.flags.writeable and other.data.flags.owndata
        assert book.media(theirs)[0].data is same[0].data, "kept between epochs"
        assert np.array_equal(plain.prompt(mine).rendered.token_ids, book.prompt(theirs).rendered.token_ids)
    assert sorted(decoded) == sorted(sample.where for sample in book.samples)


def test_a_file_that_changed_is_decoded_again(tmp_path: Path, decoded: list[str]) -> None:
    config = run_config(tmp_path)
    book = book_of(config)
    book.decode_with(DecoderPool(InlineRuntime(), MediaConfig(max_frames=4, decoders=1)))
    sample = book.samples[0]
    book.decode_ahead([sample])
    paths = sample.inputs.paths
    file = Path(paths.root) / (paths.videos or paths.audios or paths.images)[0]
    os.utime(file, ns=(1, 1))
    book.media(sample)
    assert len(decoded) == 2


def test_a_faulty_file_is_named_when_its_turn_has_come(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    plain, book = book_of(config), book_of(config)
    sample = book.samples[1]
    paths = sample.inputs.paths
    (Path(paths.root) / (paths.videos or paths.audios or paths.images)[0]).write_bytes(b"nothing")
    book.decode_with(DecoderPool(InlineRuntime(), MediaConfig(max_frames=4, decoders=1)))
    book.decode_ahead(book.samples)
    book.media(book.samples[0])
    with pytest.raises(MediaError) as expected:
        plain.media(plain.samples[1])
    with pytest.raises(MediaError) as error:
        book.media(sample)
    assert str(error.value) == str(expected.value) and sample.where in str(error.value)


def test_a_path_that_leads_outside_is_refused(tmp_path: Path) -> None:
    message = Message(role="user", parts=(MediaPart(kind="image"),))
    paths = MediaPaths(images=("../secret.png",), root=str(tmp_path))
    job = DecodeJob(messages=(message,), paths=paths, audio_in_video=False, where="d.jsonl:1")
    pool = DecoderPool(InlineRuntime(), MediaConfig(decoders=1))
    pool.ahead([job])
    with pytest.raises(MediaError, match=r"d\.jsonl:1: image '\.\./secret\.png' leads out"):
        pool.media(job)


@pytest.mark.slow
def test_a_run_has_the_same_numbers_with_and_without(tmp_path: Path) -> None:
    rows = []
    for kind, decoders in (("inline", 0), ("inline", 2), ("ray", 1)):
        config = run_config(
            tmp_path / f"{kind}-{decoders}",
            data={"media": {"max_frames": 4, "decoders": decoders}},
            rollout={"max_policy_lag": 1},
            objective={"importance": "capped"},
            runtime={"kind": kind} | ({"cpus": 5} if kind == "ray" else {}),
        )
        rows.append([[row[name] for name in NUMBERS] for row in read(train(config).metrics_path)])
    assert rows[1] == rows[0] and rows[2] == rows[0]


def test_programs_without_a_learner_reserve_neither_it_nor_decoders(tmp_path: Path) -> None:
    config = run_config(tmp_path, data={"media": {"decoders": 2}})
    names = [role.name for role in roles(config)]
    assert names == ["rollout", "teacher", "learner", "decoder"]
    assert [group.name for group in groups_of(config, ("rollout", "teacher"))] == ["rollout", "teacher"]
