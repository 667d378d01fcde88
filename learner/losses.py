"""The token loss of an objective: support, target, divergence or estimator, and clipping, in that order.

    N   response rows     V   vocabulary     K   top-k     D   hidden width     m   draws
    p, lp   student and its log     q, lq   teacher and its log, always detached     tau   temperature

The parts are pure functions of their own: `divergences`, `estimators`, `supports`, `targets`, `clipping`.
All log-probabilities are natural and at least float32 (float64 stays float64). The loss is not rescaled
by tau^2.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from learner.clipping import Clipped, bregman, clip_advantage, clip_entries, clip_tokens, entries
from learner.contrast import contrasted
from learner.divergences import entropy, entropy_switched, forward_kl, jsd, power, reverse_kl, topk_reverse_kl
from learner.estimators import draw_tokens, log_ratio, power_ratio, surrogate
from learner.objective_config import ObjectiveConfig
from learner.supports import Picked, pick, pick_by, renormalized, with_tail
from learner.targets import proximal, skewed
from learner.teacher_targets import ObjectiveError, TeacherTargets, log_softmax, teacher_logits

PICKED_BY: dict[str, Literal["student", "union"]] = {"student_topk": "student", "union": "union"}


class TokenLoss(NamedTuple):
    """One number for each row, [N].

    `loss` has gradient. Detached: `value`, the divergence to report (for a surrogate, whose value means
    nothing, log p - log q of the tokens it looked at), `touched` by a clip (0 or 1), and `removed` by it.
    """

    loss: Tensor
    value: Tensor
    touched: Tensor
    removed: Tensor


def cross_entropy(lp: Tensor) -> Tensor:
    """-lp at the target ids [N] -> [N]."""
    return -lp


def token_divergence(
    objective: ObjectiveConfig,
    student_logits: Tensor,
    teacher: TeacherTargets,
    targets: Tensor,
    vocab_size: int | None = None,
    uniforms: Tensor | None = None,
) -> Tensor:
    """The objective's loss for each row -> [N], with gradient to `student_logits` [N,V].

    `targets` int64 [N] are the response ids. Raises ObjectiveError when `teacher` lacks what the
    objective needs, or knows it only at another temperature.
    """
    cut = None if objective.divergence == "cross_entropy" else vocab_size
    lp = log_softmax(student_logits, objective.temperature, cut)
    lq = teacher_logprobs(objective, teacher, vocab_size)
    lq = contrast_target(objective, lp, lq, teacher, vocab_size)
    return token_loss(objective, lp, lq, teacher, targets, uniforms).loss


def teacher_logprobs(
    objective: ObjectiveConfig, teacher: TeacherTargets, vocab_size: int | None = None
) -> Tensor | None:
    """The teacher's full log-probs [N,V] at the objective's temperature; None where it needs none."""
    if not objective.has_teacher:
        return None
    if objective.transport == "full":
        hidden = _need(teacher.hidden, objective, "hidden and head_weight")
        weight = _need(teacher.head_weight, objective, "hidden and head_weight")
        return log_softmax(teacher_logits(hidden, weight[:vocab_size]), objective.temperature, vocab_size)
    if objective.temperature != 1.0:
        raise ObjectiveError(
            f"objective.temperature is {objective.temperature} with support: {objective.support}, but the teacher "
            "sends those scores at temperature 1: write temperature: 1.0, or support: full"
        )
    return None


def contrast_target(
    objective: ObjectiveConfig,
    lp: Tensor,
    lq: Tensor | None,
    teacher: TeacherTargets,
    vocab_size: int | None = None,
) -> Tensor | None:
    """What the divergence matches: `lq` itself [N,V], or with `objective.contrast` what the two contexts make."""
    if objective.contrast is None:
        return lq
    hidden = _need(teacher.contrast_hidden, objective, "hidden rows under the second context")
    weight = _need(teacher.head_weight, objective, "hidden and head_weight")
    lo = log_softmax(teacher_logits(hidden, weight[:vocab_size]), objective.temperature, vocab_size)
    return contrasted(objective.contrast, lp, _need(lq, objective, "hidden and head_weight"), lo)


def token_loss(
    objective: ObjectiveConfig,
    lp: Tensor,
    lq: Tensor | None,
    teacher: TeacherTargets,
    targets: Tensor,
    uniforms: Tensor | None = None,
) -> TokenLoss:
    """The loss from log-probs: lp [N,V], lq [N,V] or None as `contrast_target` gives it.

    `uniforms` [N,m] in [0,1) are the random numbers of `draws`.
    """
    if objective.divergence == "none":
        return _plain(0.0 * at_targets(lp, targets))
    if objective.divergence == "cross_entropy":
        return _plain(cross_entropy(at_targets(lp, targets)))
    if objective.estimates:
        return _estimated(objective, lp, lq, teacher, targets, uniforms)
    if objective.support == "sampled":
        raise ObjectiveError(
            f"objective.divergence is {objective.divergence} with support: sampled, which knows one token a row: "
            "write divergence: sampled, or support: full or topk"
        )
    return _distance(objective, lp, lq, teacher)


def at_targets(logprobs: Tensor, targets: Tensor) -> Tensor:
    """Pick the log-prob of one id in each row: [N,V] and int64 [N] -> [N].

    An id beyond V (a padding row of the head) has no log-prob here and counts 0: equal for student and
    teacher, so it is no signal.
    """
    inside = targets < logprobs.shape[-1]
    picked = logprobs.gather(-1, targets.clamp(max=logprobs.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
    return torch.where(inside, picked, torch.zeros_like(picked))


def _plain(loss: Tensor) -> TokenLoss:
    value = loss.detach()
    nothing = torch.zeros_like(value)
    return TokenLoss(loss, value, nothing, nothing)


def _estimated(
    objective: ObjectiveConfig,
    lp: Tensor,
    lq: Tensor | None,
    teacher: TeacherTargets,
    targets: Tensor,
    uniforms: Tensor | None,
) -> TokenLoss:
    if objective.draws:
        if uniforms is None or lq is None:
            raise ObjectiveError(f"objective.draws is {objective.draws}, but the rows came without numbers")
        ids = draw_tokens(lp, uniforms)
        own, theirs = lp.gather(-1, ids), lq.gather(-1, ids)
    else:
        own = at_targets(lp, targets)
        theirs = at_targets(lq, targets) if lq is not None else _need(teacher.logprobs, objective, "logprobs")
    advantage = (
        power_ratio(own, theirs, objective.power)
        if objective.divergence == "power"
        else log_ratio(own, theirs)
    )
    value = (own - theirs).detach()
    clipped = Clipped(advantage, torch.zeros_like(value), torch.zeros_like(value))
    if objective.clip == "advantage":
        clipped = clip_advantage(advantage, objective.clip_at)
    loss = surrogate(own, clipped.loss)
    if not objective.draws:
        return TokenLoss(loss, value, clipped.touched.to(value.dtype), clipped.removed)
    touched, removed = clipped.touched.to(value.dtype).mean(-1), clipped.removed.mean(-1)
    return TokenLoss(loss.mean(-1), value.mean(-1), touched, removed)


def _distance(
    objective: ObjectiveConfig, lp: Tensor, lq: Tensor | None, teacher: TeacherTargets
) -> TokenLoss:
    unsure = None
    if objective.divergence == "entropy_switched":
        unsure = entropy(_need(lq, objective, "hidden and head_weight"))
    lp, lq = _supported(objective, lp, lq, teacher)
    if lp.shape != lq.shape:
        raise ObjectiveError(
            f"student log-probs are {tuple(lp.shape)} and the teacher's {tuple(lq.shape)}: "
            "both need the same rows and vocabulary"
        )
    if objective.target != "teacher":
        move = skewed if objective.target == "skewed" else proximal
        lq = move(lp, lq, objective.target_weight)
    clipped = _clipped(objective, lp, lq, unsure)
    value = clipped.loss.detach()
    return TokenLoss(clipped.loss, value, clipped.touched.to(value.dtype), clipped.removed)


def _supported(
    objective: ObjectiveConfig, lp: Tensor, lq: Tensor | None, teacher: TeacherTargets
) -> tuple[Tensor, Tensor]:
    """Both sides on the objective's support."""
    if objective.support == "full":
        return lp, _need(lq, objective, "hidden and head_weight")
    picked: Picked
    if objective.support == "topk":
        ids = _need(teacher.topk_ids, objective, "topk_ids and topk_logprobs")
        picked = pick(lp, ids, _need(teacher.topk_logprobs, objective, "topk_ids and topk_logprobs"))
    else:
        whole = _need(lq, objective, "hidden and head_weight")
        picked = pick_by(PICKED_BY[objective.support], lp, whole, objective.top_k)
    if objective.divergence == "topk_reverse_kl":
        return picked
    return with_tail(picked) if objective.tail == "bucket" else renormalized(picked)


def _clipped(objective: ObjectiveConfig, lp: Tensor, lq: Tensor, unsure: Tensor | None) -> Clipped:
    if objective.clip in ("pointwise", "soft"):
        found = entries(objective, lp, lq, unsure)
        return clip_entries(lp, found, objective.clip, objective.clip_at)
    if objective.clip == "bregman":
        kind = cast(Literal["forward_kl", "reverse_kl"], objective.divergence)
        return clip_entries(lp, bregman(kind, lp, lq), "bregman", objective.clip_at)
    loss = _divergence(objective, lp, lq, unsure)
    if objective.clip == "token":
        return clip_tokens(loss, objective.clip_at)
    nothing = torch.zeros_like(loss.detach())
    return Clipped(loss, nothing, nothing)


def _divergence(objective: ObjectiveConfig, lp: Tensor, lq: Tensor, unsure: Tensor | None) -> Tensor:
    match objective.divergence:
        case "forward_kl":
            return forward_kl(lp, lq)
        case "reverse_kl":
            return reverse_kl(lp, lq)
        case "power":
            return power(lp, lq, objective.power)
        case "topk_reverse_kl":
            return topk_reverse_kl(lp, lq)
        case "entropy_switched":
            assert unsure is not None
            return entropy_switched(lp, lq, unsure, objective.entropy_threshold)
        case _:
            return jsd(lp, lq, objective.beta, objective.normalize)


def _need(value: Tensor | None, objective: ObjectiveConfig, name: str) -> Tensor:
    if value is None:
        raise ObjectiveError(
            f"objective {objective.divergence} with support: {objective.support} needs the teacher's {name}, "
            "which were not sent: give the teacher the same objective.support"
        )
    return value
