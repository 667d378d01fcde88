"""The cold start: supervised training through the learner, before any distillation.

The rows of `data.train` have a `response` each. A row without a rationale is trained on the student's
prompt; a row with one is trained on the teacher's context, which teaches the model to read evidence.
The paper starts from a cold-started checkpoint too (its recipe is not published).
"""

from __future__ import annotations

from pathlib import Path

from cluster.runtime import Runtime, start_runtime
from learner.group import LearnerGroup
from learner.group_input import GroupInput
from learner.plan import group_lengths, plan_step
from omniopsd.config import RunConfig
from omniopsd.order import DataOrder
from omniopsd.progress import TrainProgress
from omniopsd.prompts import PromptBook, make_book
from omniopsd.samples import Sample, read_samples
from omniopsd.supervised import Supervised, given_group, require_targets, target_text
from rollout.renderer import Renderer
from rollout.types import Rendered, RolloutGroup


class ColdStartError(ValueError):
    """A config or a row that supervised training cannot use."""


def coldstart(config: RunConfig, out: str | Path) -> list[float]:
    """Train `config.model.path` on given responses and write the result to the folder `out`.

    Gives the loss of every step (nats per token). Raises ColdStartError.
    """
    out = Path(out)
    if out.exists():
        raise ColdStartError(f"{out}: exists already; choose another folder or remove it")
    if config.objective.divergence != "cross_entropy":
        raise ColdStartError(
            f"objective.divergence is {config.objective.divergence!r}: a cold start needs cross_entropy"
        )
    if config.rationale_cache is not None:
        raise ColdStartError(
            "a cold start reads the data file alone: export the cache, and leave rationale_cache out"
        )
    samples = read_samples(config.data.train)
    require_targets(samples, config.objective.supervised)
    teacher = config.teacher.model_copy(update={"privilege": "none"})
    book = make_book(config, samples, Renderer(config.model.path), teacher)
    runtime = start_runtime(config.runtime)
    try:
        return _train(config, runtime, book, samples, out)
    finally:
        runtime.shutdown()


def _train(
    config: RunConfig, runtime: Runtime, book: PromptBook, samples: tuple[Sample, ...], out: Path
) -> list[float]:
    learner = LearnerGroup(
        runtime, config.model, config.learner, config.objective, config.teacher, config.weights
    )
    learner.wait_ready()
    run = config.run
    order = DataOrder(len(samples), per_step=run.samples_per_step, seed=run.seed, shuffle=config.data.shuffle)
    losses = []
    with TrainProgress(run.steps) as progress:
        progress.stage("cold start")
        for step in range(1, run.steps + 1):
            groups = [
                _group(step, samples[at], book, config.objective.supervised) for at in order.claim(step)
            ]
            lengths = [group_lengths(prompt, group, train_truncated=True) for prompt, group in groups]
            plan = plan_step(
                step,
                lengths,
                config.learner.ranks,
                config.learner.max_pack_tokens,
                config.learner.micro_batches,
            )
            result = learner.step(
                plan,
                {at: GroupInput(prompt=prompt, rollouts=group) for at, (prompt, group) in enumerate(groups)},
            )
            losses.append(result.loss)
            progress.step(step, {"loss": result.loss})
    learner.save_model(str(out))
    return losses


def _group(
    step: int, sample: Sample, book: PromptBook, supervised: Supervised
) -> tuple[Rendered, RolloutGroup]:
    """One row: its prompt, and a group of one "rollout" that holds the given response."""
    ids = book.renderer.encode_response(target_text(sample, supervised))
    rendered = _rendered(sample, book)
    return rendered, given_group(f"{step}/{sample.sample_id}/0", sample, rendered, ids, 0)


def _rendered(sample: Sample, book: PromptBook) -> Rendered:
    if sample.rationale is None:
        return book.prompt(sample).rendered
    return book.with_evidence(sample, sample.rationale)
