"""A small world for the learner's tests: a tiny model folder, groups of every modality, real scores."""

from __future__ import annotations

import faulthandler
import os
import pickle
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.runtime import InlineRef
from learner.config import LearnerConfig, ObjectiveConfig
from learner.group_input import GroupInput
from learner.plan import group_lengths, plan_step
from learner.types import StepPlan
from learner.worker import LearnerWorker
from omniopsd.mini_omni import write_mini_omni
from rollout.config import ModelConfig
from rollout.features import FeatureExtractor
from rollout.messages import MediaPart, Message, TextPart
from rollout.renderer import Renderer
from rollout.thinker import load_thinker
from rollout.types import Media, Rollout, RolloutGroup
from teacher.config import TeacherConfig
from teacher.transformers_scorer import TransformersScorer
from teacher.types import PrivilegedContext, ScoreRequest

Answer = dict[str, Any]
KINDS: dict[str, tuple[tuple[str, ...], bool]] = {
    "text": ((), False),
    "image": (("image",), False),
    "audio": (("audio",), False),
    "video": (("video",), False),
    "video+audio": (("video",), True),
}
STALL_SECONDS = 1200
SHARPER = 20.0  # the teacher's logits, so that it differs from an untrained student
EVERYTHING = (*KINDS, "image", "text", "video")


@dataclass(frozen=True)
class Scene:
    """A model folder and groups that were sampled and scored with its first weights."""

    model: ModelConfig
    kinds: tuple[str, ...]
    groups: tuple[GroupInput, ...]

    def plan(self, cells: Sequence[Sequence[Sequence[int]]], step: int = 1) -> StepPlan:
        """A plan with the given cells and the counts of all groups that they name."""
        named = [at for rank in cells for cell in rank for at in cell]
        lengths = [
            group_lengths(self.groups[at].prompt, self.groups[at].rollouts, train_truncated=True)
            for at in named
        ]
        whole = plan_step(step, lengths, 1, 10**6)
        return StepPlan(
            step=step,
            cells=tuple(tuple(tuple(cell) for cell in rank) for rank in cells),
            tokens=whole.tokens,
            sequences=whole.sequences,
        )

    def of(self, plan: StepPlan, rank: int) -> dict[int, GroupInput]:
        return {at: self.groups[at] for cell in plan.cells[rank] for at in cell}


def make_scene(
    folder: Path, kinds: Sequence[str] = EVERYTHING, dtype: str = "float32", seed: int = 0
) -> Scene:
    """Two responses of different length for each group; the teacher reads a rationale."""
    path = folder / "model"
    if not path.exists():
        write_mini_omni(path, seed=seed, size="tiny")
    renderer, extractor = Renderer(path), FeatureExtractor(path)
    teacher = load_thinker(path, dtype).requires_grad_(False)
    teacher.model.norm.weight.mul_(SHARPER)
    scorer = TransformersScorer(teacher, extractor, max_pack_tokens=4096)
    rng = np.random.default_rng(seed)
    groups = [_group(at, kind, renderer, scorer, rng) for at, kind in enumerate(kinds)]
    return Scene(ModelConfig(path=str(path), dtype=dtype), tuple(kinds), tuple(groups))


def _group(
    at: int, kind: str, renderer: Renderer, scorer: TransformersScorer, rng: np.random.Generator
) -> GroupInput:
    parts, both = KINDS[kind]
    media = tuple(medium for part in parts for medium in _media(part, both, rng))
    placeholders = tuple(MediaPart(kind=part) for part in parts)
    prompt, context = (
        renderer.render(
            [Message(role="user", parts=(*placeholders, TextPart(text=text)))], media, audio_in_video=both
        )
        for text in (f"q{at}", f"q{at} hint {'abc' * (at + 1)}")
    )
    responses = [rng.integers(0, 200, int(rng.integers(3, 9))).astype(np.int32) for _ in range(2)]
    rollouts = tuple(
        Rollout(
            rollout_id=f"{at}-{index}",
            sample_id=f"s{at}",
            index=index,
            response_ids=ids,
            rollout_logprobs=-rng.uniform(4, 7, len(ids)).astype(np.float32),
            temperature=1.0,
            policy_version=0,
            finish="stop",
        )
        for index, ids in enumerate(responses)
    )
    request = ScoreRequest(
        context=PrivilegedContext(
            sample_id=f"s{at}", rendered=context, privilege="rationale", evidence_id=f"s{at}"
        ),
        rollout_ids=tuple(rollout.rollout_id for rollout in rollouts),
        responses=tuple(responses),
    )
    scores = scorer.score([request], support="full", top_k=8, temperature=1.0)
    group = RolloutGroup(sample_id=f"s{at}", rollouts=rollouts, media_use=prompt.media_use, seconds=0.0)
    return GroupInput(prompt=prompt, rollouts=group, scores=InlineRef(scores), score_index=0)


def _media(kind: str, with_audio: bool, rng: np.random.Generator) -> list[Media]:
    if kind == "image":
        return [Media.of("image", rng.integers(0, 255, (56, 56, 3), dtype=np.uint8))]
    sound = Media.of("audio", (0.1 * rng.standard_normal(8000)).astype(np.float32))
    if kind == "audio":
        return [sound]
    film = Media.of("video", rng.integers(0, 255, (4, 56, 56, 3), dtype=np.uint8), fps=2.0)
    return [film, sound] if with_audio else [film]


def worker(
    scene: Scene, rank: int, learner: LearnerConfig, address: tuple[str, int], **others: Any
) -> LearnerWorker:
    """A rank that is set up; `objective` and `teacher` may be given."""
    one = LearnerWorker(
        rank,
        scene.model,
        learner,
        others.get("objective", ObjectiveConfig()),
        others.get("teacher", TeacherConfig(weights="frozen")),
    )
    one.setup(*address)
    return one


def free_address() -> tuple[str, int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return "127.0.0.1", int(listener.getsockname()[1])


def keep_gradients(one: LearnerWorker) -> dict[str, torch.Tensor]:
    """Full gradients by name, filled in by the next step just before it updates."""
    from deepspeed.utils import safe_get_full_grad

    kept: dict[str, torch.Tensor] = {}
    step = one.engine.step

    def recording(number: int) -> float:
        for name, parameter in one.policy.thinker.named_parameters():
            if parameter.requires_grad:
                kept[name] = safe_get_full_grad(parameter).detach().clone()
        return step(number)

    one.engine.step = recording  # type: ignore[method-assign]
    return kept


def full_weights(one: LearnerWorker) -> dict[str, torch.Tensor]:
    """All published weights by name, copied."""
    return {name: tensor.clone() for name, tensor in one.engine.weights(one.policy.sources)}


def run_ranks(
    scene: Scene, ranks: int, job: Callable[[Scene, int, tuple[str, int]], Answer], folder: Path
) -> list[Answer]:
    """Run `job` in `ranks` new processes and give their answers; a rank that fails or stalls fails the test."""
    (folder / "scene.pkl").write_bytes(pickle.dumps(scene))
    context = torch.multiprocessing.get_context("spawn")
    address, end = free_address(), time.monotonic() + STALL_SECONDS
    processes = [context.Process(target=_rank, args=(job, rank, address, folder)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    stalled = [process for process in processes if process.exitcode is None]
    for process in stalled:
        process.kill()
    assert not stalled, f"{len(stalled)} of {ranks} ranks stalled"
    assert all(process.exitcode == 0 for process in processes), [process.exitcode for process in processes]
    return [torch.load(folder / f"answer-{rank}.pt", weights_only=False) for rank in range(ranks)]


def _rank(
    job: Callable[[Scene, int, tuple[str, int]], Answer], rank: int, address: tuple[str, int], folder: Path
) -> None:
    faulthandler.dump_traceback_later(STALL_SECONDS - 20)  # a stalled rank says where
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    scene = pickle.loads((folder / "scene.pkl").read_bytes())
    torch.save(job(scene, rank, address), folder / f"answer-{rank}.pt")
