"""A sentinel in every rationale and label reaches the teacher, and nothing that is the student's."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from omniopsd.config import RunConfig
from omniopsd.export import export_run
from omniopsd.rationales.requests import RequestBook
from omniopsd.samples import Sample, read_samples
from omniopsd.train import train
from rationale_cache.config import RationaleCacheConfig
from rationale_cache.keys import key_of
from rationale_cache.types import Cue, RationaleRecord, Verdict
from rationale_cache.writer import CacheWriter
from rollout.renderer import Renderer
from rollout.types import Prompt
from rollout.worker import RolloutWorker
from teacher.worker import TeacherWorker
from tests.run_scene import held_out, run_config

pytestmark = pytest.mark.slow
SENTINEL = "xyzzyq"


def marked(config: Any) -> Any:
    """The run with the sentinel in every rationale and label, of the held-out samples too."""
    files = {name: _mark(Path(getattr(config.data, name))) for name in ("train", "test")}
    return config.model_copy(update={"data": config.data.model_copy(update=files)})


def _mark(path: Path) -> str:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["rationale"] += f" {SENTINEL}"
        row["labels"] = [f"{label} {SENTINEL}" for label in row["labels"]]
    other = path.with_name("marked.jsonl")
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(other)


def cached(config: RunConfig, folder: Path) -> RunConfig:
    """The same run with its rationales in a cache, whose every field that has words carries the sentinel."""
    data = {name: _without_rationales(Path(getattr(config.data, name))) for name in ("train", "test")}
    cache = RationaleCacheConfig(
        path=str(folder / "cache"), model=f"observer-{SENTINEL}", base_url="http://x/v1"
    )
    config = config.model_copy(update={"data": config.data.model_copy(update=data), "rationale_cache": cache})
    book = RequestBook(cache, config.data.media)
    with CacheWriter(cache.path) as writer:
        for file in data.values():
            for sample in read_samples(file):
                writer.put(_record(book, sample))
    return config


def _record(book: RequestBook, sample: Sample) -> RationaleRecord:
    request = book.request(sample)
    return RationaleRecord(
        key=key_of(request),
        sample_id=sample.sample_id,
        dataset=f"{sample.dataset} {SENTINEL}",
        request=request,
        text=f"He smiles {SENTINEL}",
        cues=(Cue(modality="audio", text=f"laughs {SENTINEL}", start=0.5, end=1.0),),
        model_answered=f"model {SENTINEL}",
        finish_reason=f"stop {SENTINEL}",
        reply_hash=SENTINEL,
        made_at=datetime.now(UTC),
        verdicts=(Verdict(filter="language", passed=True, detail=SENTINEL),),
    )


def _without_rationales(path: Path) -> str:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    other = path.with_name("bare.jsonl")
    other.write_text("".join(json.dumps({**row, "rationale": None}) + "\n" for row in rows))
    return str(other)


def carries(value: Any, ids: np.ndarray) -> bool:
    """Whether any byte or token id of a message spells the sentinel."""
    if SENTINEL.encode() in cloudpickle.dumps(value):
        return True
    prompts = value if isinstance(value, list) else [value]
    return any(holds(p.rendered.token_ids, ids) or holds(p.rendered.collapsed_ids, ids) for p in prompts)


def holds(sequence: np.ndarray, ids: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(sequence), len(ids))
    return bool((windows == ids).all(axis=1).any())


@pytest.mark.parametrize("source", ["data file", "cache"])
def test_the_sentinel_stays_with_the_teacher(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = marked(
        run_config(tmp_path, teacher={"privilege": "rationale+label"}, data={"test": held_out(tmp_path)})
    )
    if source == "cache":
        config = cached(config, tmp_path)
    ids = Renderer(config.model.path)._encode(SENTINEL)
    seen: dict[str, list[bool]] = {"rollout": [], "teacher": []}

    for name in ("generate", "greedy", "score"):
        real = getattr(RolloutWorker, name)

        def watched(self, *args, real=real, **kwargs):  # type: ignore[no-untyped-def]
            first = args[0]
            prompts = [first] if isinstance(first, Prompt) else [ref.get() for ref in first]
            seen["rollout"].append(carries(prompts, ids) or SENTINEL.encode() in cloudpickle.dumps(args[1:]))
            return real(self, *args, **kwargs)

        monkeypatch.setattr(RolloutWorker, name, watched)

    score = TeacherWorker.score

    def scored(self, requests, *args):  # type: ignore[no-untyped-def]
        seen["teacher"].append(all(holds(r.context.rendered.token_ids, ids) for r in requests))
        return score(self, requests, *args)

    monkeypatch.setattr(TeacherWorker, "score", scored)
    run = train(config)
    assert seen["rollout"] and not any(seen["rollout"])
    assert seen["teacher"] and all(seen["teacher"]), (
        "the sentinel never reached the teacher: nothing was tested"
    )

    export_run(str(run.path), str(tmp_path / "out"))
    for file in (tmp_path / "out").iterdir():
        content = file.read_bytes()
        assert SENTINEL.encode() not in content
        assert str(tmp_path).encode() not in content


def test_a_rollout_worker_lets_only_student_prompts_in(tmp_path: Path) -> None:
    from cluster.runtime import InlineRef
    from rollout.types import RecordError
    from rollout.worker import _opened

    with pytest.raises(RecordError, match="only student prompts"):
        _opened([InlineRef("a privileged context")])  # type: ignore[list-item]
