"""What a run costs in tokens, from some of its rendered prompts. Pure.

    P   prompt tokens     C   tokens of the teacher's context     G   rollouts of one sample

A step of B samples computes at most B (P + G x max_new_tokens) tokens for the student, with C in place
of P for the teacher: the G answers of a sample share one prefix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from omniopsd.config import RunConfig

KINDS = ("text", "video", "audio", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBudget:
    """`prompts` and `contexts`: tokens by modality of each sample that was rendered, in the same order."""

    prompts: tuple[dict[str, int], ...]
    contexts: tuple[dict[str, int], ...]

    def lines(self, config: RunConfig, *, trained: bool) -> Iterator[str]:
        """The table, as text lines; `trained` adds what one step costs."""
        rollout = config.rollout
        answers = rollout.rollouts_per_sample * rollout.max_new_tokens
        yield f"{'tokens':<18}{'mean':>9}{'longest':>9}   mean by modality"
        for name, counts in (("student prompt", self.prompts), ("teacher context", self.contexts)):
            if counts:
                sizes = [sum(count.values()) for count in counts]
                yield f"{name:<18}{mean(sizes):>9.0f}{max(sizes):>9}   {_by_kind(counts)}"
        yield f"{'answer':<18}{'':>9}{rollout.max_new_tokens:>9}   rollout.max_new_tokens"
        for name, counts in (("student", self.prompts), ("teacher", self.contexts)):
            if counts and trained:
                size = config.run.samples_per_step * (mean(sum(count.values()) for count in counts) + answers)
                yield f"{name + ', one step':<18}{'':>9}{size:>9.0f}   at most, with mean prompts"
        longest = _longest((*self.prompts, *self.contexts)) + rollout.max_new_tokens
        share = longest / config.model.max_context
        yield f"{'longest sequence':<18}{'':>9}{longest:>9}   {share:.0%} of model.max_context"

    def problems(self, config: RunConfig) -> Iterator[str]:
        """Limits that a full-length answer to a rendered prompt would break."""
        rollout = config.rollout
        group = _longest(self.prompts) + rollout.rollouts_per_sample * rollout.max_new_tokens
        if self.prompts and group > config.learner.max_pack_tokens:
            yield (
                f"learner.max_pack_tokens: {config.learner.max_pack_tokens} does not hold the longest sample "
                f"with {rollout.rollouts_per_sample} full answers ({group} tokens); write at least {group}"
            )


def _longest(counts: Sequence[dict[str, int]]) -> int:
    return max((sum(count.values()) for count in counts), default=0)


def _by_kind(counts: Sequence[dict[str, int]]) -> str:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return ", ".join(f"{kind} {total[kind] / len(counts):.0f}" for kind in KINDS if total[kind])
