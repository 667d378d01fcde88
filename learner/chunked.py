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

from learner.divergences import entropy
from learner.importance import block_weight, gated_weight, importance_weight, ratio
from learner.losses import at_targets, contrast_target, teacher_logprobs, token_loss
from learner.objective_config import ObjectiveConfig
from learner.teacher_targets import ObjectiveError, TeacherTargets, log_softmax

T = TypeVar("T")
OVERLAP_K = 10
Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyTerm:
    """The reward term of N rows: sum of `weights` x surrogate of the sampled token.

    `weights` float32 [N] hold advantage x alpha over the step's denominator, 0 for rows that are not trained.
    `ratio_clip`: PPO's epsilon, or None for the plain policy gradient under the importance weight.
    """

    weights: Tensor
    ratio_clip: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowOutcome:
    """The loss of N rows and what came of each.

    `loss` scalar with gradient: sum of weight x importance x gate x token loss, and the policy term. The
    others are detached, float32 [N]: `divergence` (for an estimator, whose loss is only a surrogate,
    log p - log q, the estimate of KL(p||q)), `student_logprobs` of the targets at the rollout's temperature
    (over all rows of the head, as the engine samples), `teacher_logprobs` of the targets at the
    objective's (None without a teacher), `teacher_gain` (those less the student's under the same
    softmax, 0 without a teacher), `entropy` of the student at the objective's temperature in nats,
    `teacher_entropy` likewise and `topk_overlap` (share of the ten likeliest tokens that teacher and student
    have in common), None where the teacher's distribution is not known,
    `importance` (1 when off), `clipped` (0 or 1, the share of its draws) and `clip_removed` by
    `objective.clip`, `gate` (the entropy gate, 1 when off), `ratio_clipped` (1 where PPO's bound holds).
    """

    loss: Tensor
    divergence: Tensor
    student_logprobs: Tensor
    teacher_logprobs: Tensor | None
    teacher_gain: Tensor
    entropy: Tensor
    teacher_entropy: Tensor | None
    topk_overlap: Tensor | None
    importance: Tensor
    clipped: Tensor
    clip_removed: Tensor
    gate: Tensor
    ratio_clipped: Tensor


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
    *,
    policy: PolicyTerm | None = None,
    uniforms: Tensor | None = None,
    lengths: Sequence[int] | None = None,
) -> RowOutcome:
    """The weighted loss of `hidden` [N,D] against `teacher`, in `chunks` calls of `head` ([n,D] -> [n,V]).

    `targets` int64 [N], `weights` float32 [N] (0 for rows that are not trained), `rollout_logprobs`
    float32 [N] at `rollout_temperature` (may be None when importance is off). `chunks` None: from
    `objective.row_chunk`. `head` is called once more for each chunk in the backward pass. `vocab_size`
    cuts padding rows off both heads (not for cross_entropy, which must push them down). `uniforms` [N,m]
    are the random numbers of `objective.draws`; `lengths` of the responses that make up the rows, for
    importance: block. Raises ObjectiveError when a length is not N.
    """
    _check_lengths(len(hidden), teacher, targets, weights, rollout_logprobs, uniforms)
    chunks = chunk_count(len(hidden), objective.row_chunk) if chunks is None else chunks
    cut = None if objective.divergence == "cross_entropy" else vocab_size
    bounds = [index * len(hidden) // chunks for index in range(chunks + 1)]
    idle: list[Tensor] = []
    done: list[tuple[Tensor, ...]] = []
    for start, stop in pairwise(bounds):
        if start == stop:
            idle.append(_recomputed(_idle_row(head), hidden[:0].sum(0, keepdim=True)))
            continue
        rows = _Rows(
            head,
            teacher.rows(start, stop),
            targets[start:stop],
            objective,
            rollout_temperature,
            cut,
            uniforms=None if uniforms is None else uniforms[start:stop],
            policy=policy is not None,
        )
        done.append(_recomputed(rows, hidden[start:stop]))
    return _outcome(done, idle, weights, objective, rollout_logprobs, policy, lengths)


class _Rows:
    """What one chunk computes from its hidden rows [n,D]; called again in the backward pass.

    Gives (token loss with gradient, log-prob of the target for the policy term with gradient, value,
    clipped, removed, log-probs of the targets at the rollout's temperature, entropy, gate, and, with a
    teacher, its log-probs of the targets and those less the student's), [n] each, all but the first two
    detached.
    """

    def __init__(
        self,
        head: Head,
        teacher: TeacherTargets,
        targets: Tensor,
        objective: ObjectiveConfig,
        rollout_temperature: float,
        vocab_size: int | None,
        *,
        uniforms: Tensor | None,
        policy: bool,
    ) -> None:
        self.head, self.teacher, self.targets, self.objective = head, teacher, targets, objective
        self.rollout_temperature, self.vocab_size = rollout_temperature, vocab_size
        self.uniforms, self.policy = uniforms, policy
        self.seen: tuple[Tensor, ...] | None = None

    def __call__(self, hidden: Tensor) -> tuple[Tensor, ...]:
        logits = self.head(hidden)
        lp = log_softmax(logits, self.objective.temperature, self.vocab_size)
        lq = teacher_logprobs(self.objective, self.teacher, self.vocab_size)
        seen = self._look(logits, lp, lq) if self.seen is None else self.seen
        lq = contrast_target(self.objective, lp, lq, self.teacher, self.vocab_size)
        own = self._sampled(logits, lp) if self.policy else lp.new_zeros(len(lp))
        del logits  # each [n,V] array that lives until the divergence adds to the peak
        loss, *facts = token_loss(self.objective, lp, lq, self.teacher, self.targets, self.uniforms)
        if self.seen is None:  # the backward pass needs the losses alone
            self.seen = (*facts, *seen)
        return loss, own, *self.seen

    @torch.no_grad()
    def _look(self, logits: Tensor, lp: Tensor, lq: Tensor | None) -> tuple[Tensor, ...]:
        sampled, student_entropy = self._sampled(logits, lp), entropy(lp)
        gate = torch.ones_like(sampled)
        if self.objective.tokens.entropy_gate and lq is not None:
            gate = entropy_gate(entropy(lq), self.objective)
        seen: tuple[Tensor, ...] = (sampled, student_entropy, gate)
        if not self.objective.has_teacher:
            return seen
        theirs = self.teacher.logprobs if lq is None else at_targets(lq, self.targets)
        if theirs is None:
            return seen
        seen = (*seen, theirs, theirs - at_targets(lp, self.targets))
        return seen if lq is None else (*seen, entropy(lq), topk_overlap(lp, lq))

    def _sampled(self, logits: Tensor, lp: Tensor) -> Tensor:
        """Log-probs of the targets under the distribution that the engine sampled: all rows of the head."""
        whole = lp.shape[-1] == logits.shape[-1]
        if whole and self.rollout_temperature == self.objective.temperature:
            return at_targets(lp, self.targets)
        return at_targets(log_softmax(logits, self.rollout_temperature), self.targets)


def topk_overlap(lp: Tensor, lq: Tensor, k: int = OVERLAP_K) -> Tensor:
    """Share of the k likeliest tokens that two [N,V] have in common -> [N]."""
    k = min(k, lp.shape[-1])
    ours, theirs = lp.topk(k).indices, lq.topk(k).indices
    return (ours[:, :, None] == theirs[:, None, :]).any(-1).float().mean(-1)


def entropy_gate(teacher_entropy: Tensor, objective: ObjectiveConfig) -> Tensor:
    """max(exp(-b H), floor) -> [N]: less where the teacher is unsure (SRPO, arXiv 2604.02288)."""
    gate = torch.exp(-objective.tokens.entropy_gate * teacher_entropy)
    return gate.clamp(min=objective.tokens.entropy_floor)


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
    policy: PolicyTerm | None,
    lengths: Sequence[int] | None,
) -> RowOutcome:
    if not done:
        return _no_rows(torch.stack(list(idle)).sum(), weights, objective)
    loss, own, divergence, clipped, removed, sampled, student_entropy, gate, *theirs = (
        torch.cat(parts) for parts in zip(*done, strict=True)
    )
    importance = _importance(objective, sampled, rollout_logprobs, lengths)
    total = (weights * importance * gate * loss).sum() + sum(idle)
    bound = torch.zeros_like(sampled)
    if policy is not None:
        term, bound = policy_gradient(own, policy, importance, rollout_logprobs)
        total = total + term
    return RowOutcome(
        loss=total,
        divergence=divergence.float(),
        student_logprobs=sampled.float(),
        teacher_logprobs=theirs[0].float() if theirs else None,
        teacher_gain=theirs[1].float() if theirs else torch.zeros_like(sampled).float(),
        entropy=student_entropy.float(),
        teacher_entropy=theirs[2].float() if len(theirs) > 2 else None,
        topk_overlap=theirs[3] if len(theirs) > 2 else None,
        importance=importance.float(),
        clipped=clipped.float(),
        clip_removed=removed.float(),
        gate=gate.float(),
        ratio_clipped=bound.float(),
    )


def policy_gradient(
    lp: Tensor, policy: PolicyTerm, importance: Tensor, rollout_logprobs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The reward term (a sum, with gradient to lp [N]) and where PPO's bound took the gradient away [N].

    - sum w r lp with r the importance weight, detached (paper: r = 1); with `ratio_clip` eps
    - sum min(r w, clip(r, 1-eps, 1+eps) w) with r = p / p_rollout (PPO; GRPO's objective).
    """
    if policy.ratio_clip is None:
        return -(policy.weights * importance * lp).sum(), torch.zeros_like(importance)
    if rollout_logprobs is None:
        raise ObjectiveError("objective.reward.ratio_clip is set, but the rows have no rollout log-probs")
    moved = ratio(lp, rollout_logprobs)
    # the value r with the gradient r grad(lp), finite where exp would not be
    moving = moved * (lp - lp.detach() + 1.0)
    held = moved.clamp(1.0 - policy.ratio_clip, 1.0 + policy.ratio_clip)
    bound = held * policy.weights < moved * policy.weights
    return -torch.where(bound, held * policy.weights, moving * policy.weights).sum(), bound


def _no_rows(loss: Tensor, weights: Tensor, objective: ObjectiveConfig) -> RowOutcome:
    none = weights.new_zeros(0, dtype=torch.float32)
    return RowOutcome(
        loss=loss,
        divergence=none,
        student_logprobs=none,
        teacher_logprobs=none if objective.has_teacher else None,
        teacher_gain=none,
        entropy=none,
        teacher_entropy=None,
        topk_overlap=None,
        importance=none,
        clipped=none,
        clip_removed=none,
        gate=none,
        ratio_clipped=none,
    )


def _importance(
    objective: ObjectiveConfig,
    sampled: Tensor,
    rollout_logprobs: Tensor | None,
    lengths: Sequence[int] | None,
) -> Tensor:
    if objective.importance in ("off", "uncorrected"):
        return torch.ones_like(sampled)
    if rollout_logprobs is None:
        raise ObjectiveError(
            f"objective.importance is {objective.importance}, but the rows have no rollout log-probs: "
            "write importance: off"
        )
    if objective.importance == "gated":
        return gated_weight(
            sampled, rollout_logprobs, objective.importance_floor, objective.importance_cap
        ).to(sampled.dtype)
    if objective.importance == "block":
        spans = [len(sampled)] if lengths is None else lengths
        return block_weight(sampled, rollout_logprobs, spans, objective.importance_block)
    return importance_weight(sampled, rollout_logprobs, objective.importance_cap)


def _check_lengths(
    rows: int,
    teacher: TeacherTargets,
    targets: Tensor,
    weights: Tensor,
    rollout_logprobs: Tensor | None,
    uniforms: Tensor | None,
) -> None:
    given = {"targets": targets, "weights": weights, "rollout_logprobs": rollout_logprobs}
    given |= {"teacher hidden": teacher.hidden, "teacher topk_ids": teacher.topk_ids}
    given |= {"teacher logprobs": teacher.logprobs, "uniforms": uniforms}
    for name, values in given.items():
        if values is not None and len(values) != rows:
            raise ObjectiveError(f"{name} has {len(values)} rows, the student's hidden states {rows}")
