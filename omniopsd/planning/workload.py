"""What one step has to compute, from rendered samples: tokens, patches, frames, bytes of media."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from learner.plan import GroupLengths, plan_step
from omniopsd.config import RunConfig
from omniopsd.order import DataOrder
from omniopsd.planning.calibration import Calibration
from omniopsd.prompts import PromptBook
from omniopsd.samples import Sample
from rollout.features import FeatureExtractor
from rollout.types import Rendered


class WorkloadError(ValueError):
    """Samples that cannot be planned with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """One rendered sample: prompt and context tokens, tower inputs (patches, mel frames), and bytes of its media.

    `second` counts the tokens of `objective.contrast`'s context, 0 without one.
    """

    prompt: int
    context: int
    second: int
    patches: int
    frames: int
    media_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Tokens of an answer: their mean, and that of the longest answer in one generate call."""

    mean: float
    longest: float
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`sizes` of the rendered samples out of `samples` in the data; answers as given, or at their limit."""

    sizes: tuple[SampleSize, ...]
    samples: int
    answers: Answers
    limit: int

    def mean(self, name: str) -> float:
        """Mean of one field over the rendered samples."""
        return mean(getattr(size, name) for size in self.sizes)

    def longest(self, name: str) -> int:
        """Largest value of one field."""
        return max(getattr(size, name) for size in self.sizes)

    def step_lengths(self, config: RunConfig, answer: int, *, worst: bool = False) -> list[GroupLengths]:
        """Groups of one step, the rendered samples in turn (`worst`: the longest ones first)."""
        sizes = sorted(self.sizes, key=lambda size: -size.prompt) if worst else list(self.sizes)
        rollouts = config.rollout.rollouts_per_sample
        return [
            GroupLengths(sizes[at % len(sizes)].prompt, (answer,) * rollouts, (True,) * rollouts)
            for at in range(config.run.samples_per_step)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """How a step is laid out on the busiest rank: rows and tokens of each micro-batch, padding counted."""

    rows: tuple[int, ...]
    width: tuple[int, ...]
    groups: tuple[int, ...]
    responses: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that the busiest rank computes."""
        return sum(rows * width for rows, width in zip(self.rows, self.width, strict=True))

    @property
    def largest(self) -> int:
        """The micro-batch with the most tokens x row length: what memory must hold."""
        return max(
            range(len(self.rows)), key=lambda at: (self.rows[at] * self.width[at] ** 2, self.width[at])
        )


def cells(config: RunConfig, lengths: Sequence[GroupLengths]) -> Cells:
    """The real layout of `learner.plan` for a step of these groups. Raises PlanError where it does not fit."""
    learner = config.learner
    plan = plan_step(1, lengths, learner.ranks, learner.max_pack_tokens, learner.micro_batches)
    costs = [group.prompt + sum(group.responses) for group in lengths]
    busiest = max(plan.cells, key=lambda rank: sum(costs[at] for cell in rank for at in cell))
    filled = [cell for cell in busiest if cell]
    if learner.packing:
        rows, width = [1] * len(filled), [sum(costs[at] for at in cell) for cell in filled]
    else:
        rows, width = [len(cell) for cell in filled], [max(costs[at] for at in cell) for cell in filled]
    responses = [sum(sum(lengths[at].responses) for at in cell) for cell in filled]
    return Cells(
        rows=tuple(rows),
        width=tuple(width),
        groups=tuple(map(len, filled)),
        responses=tuple(responses),
    )


def answers(config: RunConfig, given: float | None, calibration: Calibration | None) -> Answers:
    """What the user says; else what was measured, if it was under the same limit; else the limit itself."""
    limit = config.rollout.max_new_tokens
    if given is not None:
        if given > limit:
            raise WorkloadError(
                f"--answer-tokens: {given:g} is above rollout.max_new_tokens, which is {limit}; give less"
            )
        return Answers(mean=given, longest=float(limit), measured=False)
    if calibration is not None:
        seen = calibration.answers
        return Answers(mean=min(seen.mean, limit), longest=min(seen.longest, limit), measured=True)
    return Answers(mean=float(limit), longest=float(limit), measured=False)


def measure(
    config: RunConfig, book: PromptBook, extractor: FeatureExtractor, lengths: Answers, limit: int
) -> Workload:
    """Render up to `limit` samples, spread over the data, as a run would. Raises what rendering raises."""
    if not book.samples:
        raise WorkloadError(f"data.train {config.data.train}: no sample is left to train on")
    count = min(limit, len(book.samples))
    chosen = [book.samples[at * len(book.samples) // count] for at in range(count)]
    run = config.run  # a step that is larger than the data is refused as a run would refuse it
    DataOrder(len(book.samples), per_step=run.samples_per_step, seed=run.seed, shuffle=config.data.shuffle)
    return Workload(
        sizes=tuple(_size(config, book, extractor, sample) for sample in chosen),
        samples=len(book.samples),
        answers=lengths,
        limit=config.rollout.max_new_tokens,
    )


def _size(config: RunConfig, book: PromptBook, extractor: FeatureExtractor, sample: Sample) -> SampleSize:
    prompt = book.prompt(sample).rendered
    scored = config.objective.has_teacher
    contrast = config.objective.contrast is not None
    patches, frames = _tower_inputs(prompt, extractor)
    return SampleSize(
        prompt=len(prompt.token_ids),
        context=len(book.context(sample).rendered.token_ids) if scored else 0,
        second=len(book.second_context(sample).rendered.token_ids) if contrast else 0,
        patches=patches,
        frames=frames,
        media_bytes=sum(medium.data.nbytes for medium in prompt.media),
    )


def _tower_inputs(prompt: Rendered, extractor: FeatureExtractor) -> tuple[int, int]:
    features = extractor.features(prompt)
    return (
        sum(item.values.shape[0] for item in features.vision),
        sum(item.values.shape[1] for item in features.audio),
    )
