"""Supervised answers as if they were rollouts: what cross_entropy learns to write, and the groups of a step.

    response    the row's own `response`
    label       <think></think><answer>label</answer>
    rationale   <think>rationale</think><answer>label</answer>

The baselines of the paper's comparison (supervised on labels, on rationale + answer) run on the same
prompts, learner, data order and evaluation as the distillation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from omniopsd.samples import Sample
from rollout.renderer import Renderer
from rollout.types import Prompt, Rendered, Rollout, RolloutGroup

Supervised = Literal["response", "label", "rationale"]


class SupervisedError(ValueError):
    """Rows that have nothing to learn from."""


def target_text(sample: Sample, supervised: Supervised) -> str:
    """The answer to learn. Raises SupervisedError when the row lacks a part of it."""
    if missing := _missing(sample, supervised):
        raise SupervisedError(
            f"{sample.where}: no {missing}, and objective.supervised is {supervised}; add it"
        )
    if supervised == "response":
        return str(sample.response)
    reasoning = str(sample.rationale).strip() if supervised == "rationale" else ""
    return f"<think>{reasoning}</think><answer>{', '.join(sample.labels)}</answer>"


def require_targets(samples: Sequence[Sample], supervised: Supervised) -> None:
    """Raises SupervisedError naming the first row without its target, and how many there are."""
    bare = [(sample, missing) for sample in samples if (missing := _missing(sample, supervised))]
    if bare:
        sample, missing = bare[0]
        raise SupervisedError(
            f"{sample.where}: no {missing} ({len(bare)} such rows), and objective.supervised is {supervised}; "
            "add it, or leave those rows out"
        )


def supervised_groups(
    step: int, version: int, samples: Mapping[str, Sample], prompts: Mapping[str, Prompt], renderer: Renderer,
    supervised: Supervised,
) -> dict[str, RolloutGroup]:  # fmt: skip
    """One group of one given answer for each sample, as the learner takes rollouts."""
    return {
        name: given_group(
            f"{step}/{name}/0",
            sample,
            prompts[name].rendered,
            renderer.encode_response(target_text(sample, supervised)),
            version,
        )
        for name, sample in samples.items()
    }


def given_group(
    rollout_id: str, sample: Sample, rendered: Rendered, ids: np.ndarray, version: int
) -> RolloutGroup:
    """A group of one "rollout" that holds the given ids; nobody sampled it, so its log-probs are 0."""
    rollout = Rollout(
        rollout_id=rollout_id,
        sample_id=sample.sample_id,
        index=0,
        response_ids=ids,
        rollout_logprobs=np.zeros(len(ids), np.float32),
        temperature=1.0,
        policy_version=version,
        finish="stop",
    )
    return RolloutGroup(
        sample_id=sample.sample_id, rollouts=(rollout,), media_use=rendered.media_use, seconds=0.0
    )


def _missing(sample: Sample, supervised: Supervised) -> str | None:
    if supervised == "response":
        return None if sample.response is not None else "response"
    if not sample.labels:
        return "labels"
    return "rationale" if supervised == "rationale" and not sample.rationale else None
