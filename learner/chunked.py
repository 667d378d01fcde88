"""The token loss over all response rows, without ever holding the logits of more than one chunk.

    N   response rows     V   vocabulary     D   hidden width

At V = 152k the float32 logits of 2,048 rows are 1.25 GB, and a divergence needs several such arrays.
Here the rows are cut into chunks; each computes its logits, its loss and its statistics, keeps none of
the [rows,V] arrays, and computes them again in the backward pass.

    hidden [N,D] -> chunk 0 -> head -> log-probs -> divergence [n], statistics [n]
                    chunk 1 -> head -> ...
                    an empty chunk -> head on one zero row, times 0

Under ZeRO-3 every call of `head` gathers its weights from all ranks, so all ranks must make the same
number of calls, forward and backward: `chunks` is an argument, and an empty chunk still calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from learner.config import ObjectiveConfig
from learner.losses import (
    ObjectiveError,
    TeacherTargets,
    at_targets,
    divergence_of,
    importance_weight,
    log_softmax,
    teacher_logprobs,
)

T = TypeVar("T")
Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowOutcome:
    """The loss of N rows and what came of each.

    `loss` scalar with gradient: sum of weight x importance x token loss. The others are detached,
    float32 [N]: `divergence` (for `sampled`, whose loss is only a surrogate, log p - log q, the
    one-sample estimate of KL(p||q)), `student_logprobs` of the targets at the rollout's temperature,
    `teacher_logprobs` of the targets at the objective's (None without a teacher), `entropy` of the
    student at the objective's temperature in nats, `importance` (1 when off).
    """

    loss: Tensor
    divergence: Tensor
    student_logprobs: Tensor
    teacher_logprobs: Tensor | None
    entropy: Tensor
    importance: Tensor


def chunk_count(rows: int, row_chunk: int) -> int:
    """Chunks of at most `row_chunk` rows, at least 1. With more ranks take the largest of all ranks."""
    return max(1, -(-rows // row_chunk))


def chunked_rows(
    hidden: Tensor,
    head: Head,
    teacher: TeacherTargets,
    targets: Tensor,
    weights: Tensor,
    objective: ObjectiveConfig,
    rollout_logprobs: Tensor | None,
    rollout_temperature: float,
    chunks: int | None = None,
    vocab_size: int | None = None,
) -> RowOutcome:
    """The weighted loss of `hidden` [N,D] against `teacher`, in `chunks` calls of `head` ([n,D] -> [n,V]).

    `targets` int64 [N], `weights` float32 [N] (0 for rows that are not trained), `rollout_logprobs`
    float32 [N] at `rollout_temperature` (may be None when importance is off). `chunks` None: from
    `objective.row_chunk`. `head` is called once more for each chunk in the backward pass. `vocab_size`
    cuts padding rows off both heads. Raises ObjectiveError when a length is not N.
    """
    _check_lengths(len(hidden), teacher, targets, weights, rollout_logprobs)
    chunks = chunk_count(len(hidden), objective.row_chunk) if chunks is None else chunks
    bounds = [index * len(hidden) // chunks for index in range(chunks + 1)]
    idle: list[Tensor] = []
    done: list[tuple[Tensor, ...]] = []
    for start, stop in pairwise(bounds):
        if start == stop:
            idle.append(_recomputed(_idle_row(head), hidden[:0].sum(0, keepdim=True)))
            continue
        rows = _Rows(
            head, teacher.rows(start, stop), targets[start:stop], objective, rollout_temperature, vocab_size
        )
        done.append(_recomputed(rows, hidden[start:stop]))
    return _outcome(done, idle, weights, objective, rollout_logprobs)


class _Rows:
    """What one chunk computes from its hidden rows [n,D]; called again in the backward pass.

    Gives (token loss with gradient, log-probs of the targets, the same at the rollout's temperature,
    entropy, and, with a teacher, its log-probs of the targets), [n] each, all but the first detached.
    """

    def __init__(
        self,
        head: Head,
        teacher: TeacherTargets,
        targets: Tensor,
        objective: ObjectiveConfig,
        rollout_temperature: float,
        vocab_size: int | None,
    ) -> None:
        self.head, self.teacher, self.targets, self.objective = head, teacher, targets, objective
        self.rollout_temperature, self.vocab_size = rollout_temperature, vocab_size
        self.seen: tuple[Tensor, ...] | None = None

    def __call__(self, hidden: Tensor) -> tuple[Tensor, ...]:
        logits = self.head(hidden)
        lp = log_softmax(logits, self.objective.temperature, self.vocab_size)
        lq = teacher_logprobs(self.objective, self.teacher, self.vocab_size)
        if self.seen is None:  # the backward pass needs the loss alone
            self.seen = self._look(logits, lp, lq)
        del logits  # each [n,V] array that lives until the divergence adds to the peak
        return divergence_of(self.objective, lp, lq, self.teacher, self.targets), *self.seen

    @torch.no_grad()
    def _look(self, logits: Tensor, lp: Tensor, lq: Tensor | None) -> tuple[Tensor, ...]:
        own = sampled = at_targets(lp, self.targets)
        if self.rollout_temperature != self.objective.temperature:
            sampled = at_targets(log_softmax(logits, self.rollout_temperature, self.vocab_size), self.targets)
        p = lp.exp()
        entropy = torch.special.entr(p, out=p).sum(-1)
        if self.objective.divergence == "cross_entropy":
            return own, sampled, entropy
        theirs = self.teacher.logprobs if lq is None else at_targets(lq, self.targets)
        return (own, sampled, entropy) if theirs is None else (own, sampled, entropy, theirs)


def _idle_row(head: Head) -> Callable[[Tensor], Tensor]:
    def run(row: Tensor) -> Tensor:
        return 0.0 * head(row).float().sum()

    return run


def _recomputed(function: Callable[[Tensor], T], rows: Tensor) -> T:
    # With early stop the recomputation of an idle row ends inside the head, before the forward hook
    # that gives the head's gathered weights back has run. There is no dropout, so the random state need not be kept.
    result = checkpoint(function, rows, use_reentrant=False, preserve_rng_state=False, early_stop=False)
    return cast(T, result)


def _outcome(
    done: Sequence[tuple[Tensor, ...]],
    idle: Sequence[Tensor],
    weights: Tensor,
    objective: ObjectiveConfig,
    rollout_logprobs: Tensor | None,
) -> RowOutcome:
    if not done:
        none = weights.new_zeros(0, dtype=torch.float32)
        return RowOutcome(
            loss=torch.stack(list(idle)).sum(),
            divergence=none,
            student_logprobs=none,
            teacher_logprobs=None if objective.divergence == "cross_entropy" else none,
            entropy=none,
            importance=none,
        )
    loss, own, sampled, entropy, *theirs = (torch.cat(parts) for parts in zip(*done, strict=True))
    importance = _importance(objective, sampled, rollout_logprobs)
    divergence = own - theirs[0] if objective.divergence == "sampled" else loss.detach()
    return RowOutcome(
        loss=(weights * importance * loss).sum() + sum(idle),
        divergence=divergence.float(),
        student_logprobs=sampled.float(),
        teacher_logprobs=theirs[0].float() if theirs else None,
        entropy=entropy.float(),
        importance=importance.float(),
    )


def _importance(objective: ObjectiveConfig, sampled: Tensor, rollout_logprobs: Tensor | None) -> Tensor:
    if objective.importance == "off":
        return torch.ones_like(sampled)
    if rollout_logprobs is None:
        raise ObjectiveError(
            "objective.importance is capped, but the rows have no rollout log-probs: write importance: off"
        )
    return importance_weight(sampled, rollout_logprobs, objective.importance_cap)


def _check_lengths(
    rows: int, teacher: TeacherTargets, targets: Tensor, weights: Tensor, rollout_logprobs: Tensor | None
) -> None:
    given = {"targets": targets, "weights": weights, "rollout_logprobs": rollout_logprobs}
    given |= {"teacher hidden": teacher.hidden, "teacher topk_ids": teacher.topk_ids}
    given |= {"teacher logprobs": teacher.logprobs}
    for name, values in given.items():
        if values is not None and len(values) != rows:
            raise ObjectiveError(f"{name} has {len(values)} rows, the student's hidden states {rows}")
