"""Memory of the machines beside the models: the driver, cached tower inputs, and Ray's object store. Pure."""

from __future__ import annotations

from omniopsd.build import has_pool
from omniopsd.planning.calibration import Role
from omniopsd.planning.estimate import Estimate, Known, estimate
from omniopsd.planning.memory import BYTES
from omniopsd.planning.situation import Situation
from rollout.features import CACHE_BYTES

DRIVER_BYTES = 1.0e9
"""The driver's process with its libraries (measured on x86-64, rounded): an assumption elsewhere."""
STORE_SHARE = 0.3
"""Part of a node's memory that Ray takes for its object store when nobody says otherwise."""


def driver_memory(one: Situation) -> list[Estimate]:
    """The driver: its process, and decoded media up to `data.media.cache_bytes`."""
    measured = one.calibration
    process = (
        Known(value=measured.driver_bytes, source="measured")
        if measured is not None and measured.gpu is None
        else Known(value=DRIVER_BYTES, source="assumption")
    )
    return [
        estimate("driver process", "bytes", "process", process=process),
        estimate(
            "decoded media",
            "bytes",
            "min(cache_bytes, samples * media)",
            cache_bytes=one.config.data.media.cache_bytes,
            samples=one.workload.samples,
            media=_rendered(one.workload.mean("media_bytes")),
        ),
    ]


def feature_cache(one: Situation, role: Role) -> Estimate | None:
    """Tower inputs that an actor keeps up to a limit (`rollout.features`); vLLM keeps none."""
    config = one.config
    engine = {"rollout": config.rollout.engine, "teacher": config.teacher.scorer, "learner": "transformers"}[
        role
    ]
    if engine == "vllm":
        return None
    return estimate(
        "tower inputs",
        "bytes",
        "min(limit, samples * 4 * (patches * patch + frames * bins))",
        "once an epoch has gone by",
        samples=one.workload.samples,
        limit=CACHE_BYTES,
        patches=_rendered(one.workload.mean("patches")),
        patch=one.shape.vision.input_numbers,
        frames=_rendered(one.workload.mean("frames")),
        bins=one.shape.audio.input_numbers,
    )


def teacher_payload(one: Situation) -> Estimate:
    """What the scores of one answer carry, by what the objective needs of the teacher."""
    transport, answer = one.config.objective.transport, _answer(one)
    if transport == "full":
        return estimate(
            "teacher payload",
            "bytes",
            "T * (D * b + 4)",
            "one answer: hidden rows and log-probs",
            T=answer,
            D=one.shape.text.width,
            b=BYTES[one.config.model.dtype],
        )
    if transport == "topk":
        return estimate(
            "teacher payload",
            "bytes",
            "T * (K * 8 + 4)",
            "one answer: top-k ids and log-probs",
            T=answer,
            K=one.config.objective.top_k,
        )
    return estimate("teacher payload", "bytes", "T * 4", "one answer: log-probs", T=answer)


def object_store(one: Situation) -> list[Estimate]:
    """Objects of the steps in flight: prompts with their media, contexts with the same, scores, one push."""
    config, pool = one.config, has_pool(one.config)
    samples, ahead = config.run.samples_per_step, 1 + config.rollout.max_policy_lag
    media = _rendered(one.workload.mean("media_bytes"))
    parts = [
        estimate(
            "prompts in flight",
            "bytes",
            "samples * steps * media",
            samples=samples,
            steps=ahead,
            media=media,
        )
    ]
    if pool:
        parts += [
            estimate(
                "contexts in flight",
                "bytes",
                "samples * contexts * media",
                samples=samples,
                contexts=1 + (config.objective.contrast is not None),
                media=media,
            ),
            estimate(
                "scores in flight",
                "bytes",
                "samples * G * payload",
                samples=samples,
                G=config.rollout.rollouts_per_sample,
                payload=teacher_payload(one).known,
            ),
        ]
    if config.weights.transport == "object_store" or one.follows:
        parts.append(
            estimate("push chunks", "bytes", "N * b", N=one.shape.parameters, b=BYTES[config.model.dtype])
        )
    return parts


def _answer(one: Situation) -> Known:
    answers = one.workload.answers
    return Known(value=answers.mean, source="measured" if answers.measured else "exact")


def _rendered(value: float) -> Known:
    return Known(value=float(value), source="rendered")
