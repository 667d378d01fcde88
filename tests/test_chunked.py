"""The chunked loss equals the loss over all rows at once, for any number of chunks, on less memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from learner.chunked import PolicyTerm, RowOutcome, chunk_count, chunked_rows
from learner.importance import importance_weight
from learner.losses import token_divergence
from learner.objective_config import ObjectiveConfig
from learner.teacher_targets import ObjectiveError, TeacherTargets, log_softmax

V, D, K = 13, 6, 4
OBJECTIVES: list[dict[str, object]] = [
    {"divergence": "jsd"},
    {"divergence": "forward_kl", "temperature": 0.8},
    {"divergence": "reverse_kl", "support": "topk"},
    {"divergence": "jsd", "importance": "capped", "importance_cap": 1.2},
    {"divergence": "sampled", "support": "sampled"},
    {"divergence": "sampled", "support": "full", "temperature": 1.3},
    {"divergence": "cross_entropy"},
    {"divergence": "forward_kl", "clip": "soft", "tokens": {"entropy_gate": 0.7, "entropy_floor": 0.2}},
    {"divergence": "jsd", "support": "union", "top_k": 4, "target": "skewed", "importance": "gated"},
    {"divergence": "entropy_switched", "entropy_threshold": 1.2, "support": "student_topk", "top_k": 5},
    {"divergence": "power", "draws": 3, "clip": "advantage", "clip_at": 0.3, "importance": "block"},
]


class CountingHead(nn.Module):
    """A head that records the rows of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(7, V, D))
        self.calls: list[int] = []
        self.entered, self.left = 0, 0
        self.register_forward_pre_hook(lambda *_: self._count("entered"))
        self.register_forward_hook(lambda *_: self._count("left"))

    def forward(self, hidden: Tensor) -> Tensor:
        self.calls.append(len(hidden))
        return hidden @ self.weight.T

    def _count(self, name: str) -> None:
        setattr(self, name, getattr(self, name) + 1)


class Case:
    """Inputs of N rows, float64."""

    def __init__(self, rows: int, fields: dict[str, object]) -> None:
        self.objective = ObjectiveConfig.model_validate(fields)
        self.hidden = draw(0, rows, D).requires_grad_()
        self.head = CountingHead()
        self.targets = torch.arange(rows) % V
        self.weights = draw(3, rows).abs() * (torch.arange(rows) % 3 > 0)
        self.rollout_logprobs = draw(4, rows) - 3
        self.temperature = 0.9
        numbers = torch.rand(rows, self.objective.draws, generator=torch.Generator().manual_seed(9))
        self.uniforms = numbers if self.objective.draws else None
        self.teacher = self._teacher(rows)

    def _teacher(self, rows: int) -> TeacherTargets:
        if self.objective.divergence == "cross_entropy":
            return TeacherTargets()
        hidden, weight = draw(1, rows, D), draw(2, V, D)
        lq = log_softmax(hidden @ weight.T)
        own = lq.gather(-1, self.targets[:, None])[:, 0]
        if self.objective.transport == "full":
            return TeacherTargets(hidden=hidden, head_weight=weight, logprobs=own)
        if self.objective.support == "topk":
            values, ids = lq.topk(K)
            return TeacherTargets(topk_ids=ids, topk_logprobs=values, logprobs=own)
        return TeacherTargets(logprobs=own)

    def chunked(self, chunks: int | None, policy: PolicyTerm | None = None) -> RowOutcome:
        return chunked_rows(
            self.hidden,
            self.head,
            self.teacher,
            self.targets,
            self.weights,
            self.objective,
            self.rollout_logprobs,
            self.temperature,
            chunks,
            uniforms=self.uniforms,
            policy=policy,
        )

    def whole(self) -> Tensor:
        """The same loss, written without chunks."""
        logits = self.hidden @ self.head.weight.T
        found = token_divergence(self.objective, logits, self.teacher, self.targets, uniforms=self.uniforms)
        return (self.weights * self.importance(logits) * self.gate() * found).sum()

    def importance(self, logits: Tensor) -> Tensor:
        settings = self.objective
        own = log_softmax(logits, self.temperature).gather(-1, self.targets[:, None])[:, 0].detach()
        if settings.importance == "capped":
            return importance_weight(own, self.rollout_logprobs, settings.importance_cap)
        if settings.importance == "gated":
            moved = (own - self.rollout_logprobs).exp()
            return torch.where((moved >= 0.5) & (moved <= 2.0), moved, torch.zeros_like(moved))
        return torch.ones_like(own)  # and for block: one response, shorter than a block

    def gate(self) -> Tensor:
        b = self.objective.tokens.entropy_gate
        if not b or self.teacher.hidden is None or self.teacher.head_weight is None:
            return torch.ones(1, dtype=torch.float64)
        lq = log_softmax(self.teacher.hidden @ self.teacher.head_weight.T)
        return torch.exp(b * (lq.exp() * lq).sum(-1)).clamp(min=self.objective.tokens.entropy_floor)

    def gradients(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        self.hidden.grad = self.head.weight.grad = None
        loss.backward()
        assert self.hidden.grad is not None and self.head.weight.grad is not None
        return self.hidden.grad.clone(), self.head.weight.grad.clone()


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("fields", OBJECTIVES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 2, 9])
@pytest.mark.parametrize("chunks", [1, 2, 3, 9, 12])
def test_equal_to_the_unchunked_loss_and_gradients(fields: dict[str, object], rows: int, chunks: int) -> None:
    case = Case(rows, fields)
    outcome = case.chunked(chunks)
    expected = case.whole()
    torch.testing.assert_close(outcome.loss, expected, rtol=0, atol=1e-12, check_dtype=False)
    for found, right in zip(case.gradients(outcome.loss), case.gradients(expected), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-12)
    if rows > 2:
        assert case.hidden.grad is not None and case.hidden.grad.abs().max() > 1e-3


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 12])
@pytest.mark.parametrize("chunks", [1, 3, 5])
def test_head_is_called_once_a_chunk_forward_and_backward(rows: int, chunks: int) -> None:
    case = Case(rows, OBJECTIVES[0])
    outcome = case.chunked(chunks)
    largest = max(1, -(-rows // chunks))
    assert len(case.head.calls) == chunks and max(case.head.calls) == largest
    assert min(case.head.calls) >= 1
    outcome.loss.backward()
    assert len(case.head.calls) == 2 * chunks and max(case.head.calls) == largest
    assert case.head.entered == case.head.left == 2 * chunks  # no call is cut off before its hooks


@pytest.mark.parametrize("fields", OBJECTIVES, ids=str)
def test_row_arrays(fields: dict[str, object]) -> None:
    case = Case(9, fields)
    outcome = case.chunked(4)
    logits = (case.hidden @ case.head.weight.T).detach()
    at = torch.arange(9)
    lp = log_softmax(logits, case.objective.temperature)
    arrays = {
        "student_logprobs": log_softmax(logits, 0.9)[at, case.targets],
        "entropy": -(lp.exp() * lp).sum(-1),
        "importance": torch.ones(9),
        "divergence": token_divergence(
            case.objective, logits, case.teacher, case.targets, uniforms=case.uniforms
        ),
        "gate": case.gate().expand(9),
    }
    if case.objective.importance != "off":
        arrays["importance"] = case.importance(logits)
    if case.objective.importance == "capped":
        assert 0 < (arrays["importance"] == 1.2).sum() < 9
    if case.teacher.hidden is not None and case.teacher.head_weight is not None:
        lq = log_softmax(case.teacher.hidden @ case.teacher.head_weight.T, case.objective.temperature)
        arrays["teacher_logprobs"] = lq[at, case.targets]
    elif case.teacher.logprobs is not None:
        arrays["teacher_logprobs"] = case.teacher.logprobs
    else:
        assert outcome.teacher_logprobs is None
    if case.uniforms is not None:  # checked in test_estimators
        del arrays["divergence"]
    elif case.objective.divergence == "sampled":
        arrays["divergence"] = lp[at, case.targets] - arrays["teacher_logprobs"]
    for name, expected in arrays.items():
        found = getattr(outcome, name)
        assert found.dtype == torch.float32 and not found.requires_grad
        torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("chunks", [1, 3])
def test_the_policy_term_is_the_surrogate_of_the_sampled_tokens(clip: float | None, chunks: int) -> None:
    """At the rollout's temperature, under the importance weight or PPO's bound, beside the divergence."""
    case = Case(9, {"divergence": "jsd", "importance": "off" if clip else "capped"})
    advantages = draw(8, 9)
    policy = PolicyTerm(weights=advantages, ratio_clip=clip)
    logits = case.hidden @ case.head.weight.T
    lp = log_softmax(logits, 0.9).gather(-1, case.targets[:, None])[:, 0]
    if clip is None:
        term = -(advantages * case.importance(logits) * lp).sum()
    else:
        moved = (lp - case.rollout_logprobs).exp()
        term = -torch.minimum(moved * advantages, moved.clamp(0.8, 1.2) * advantages).sum()
    wanted = case.whole() + term
    outcome = case.chunked(chunks, policy)
    torch.testing.assert_close(outcome.loss, wanted, rtol=0, atol=1e-10)
    for found, right in zip(case.gradients(outcome.loss), case.gradients(wanted), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-10)
    assert outcome.ratio_clipped.any() == (clip is not None)


def test_a_sampled_padding_row_is_no_signal_and_its_log_prob_is_the_engines() -> None:
    case = Case(5, {"divergence": "sampled", "support": "full"})
    case.targets = torch.tensor([0, 12, 3, 12, 1])
    outcome = chunked_rows(
        case.hidden, case.head, case.teacher, case.targets, torch.ones(5, dtype=torch.float64), case.objective,
        None, 1.0, 2, vocab_size=9,
    )  # fmt: skip
    outcome.loss.backward()
    assert case.hidden.grad is not None
    assert (case.hidden.grad.abs().sum(-1) == 0).tolist() == [False, True, False, True, False]
    whole = log_softmax((case.hidden @ case.head.weight.T).detach())
    wanted = whole.gather(-1, case.targets[:, None])[:, 0].float()
    torch.testing.assert_close(outcome.student_logprobs, wanted)
    assert outcome.teacher_gain[1] == outcome.teacher_gain[3] == 0 and outcome.teacher_gain[0] != 0


def test_weighted_divergence_is_the_loss() -> None:
    case = Case(9, OBJECTIVES[0])
    outcome = case.chunked(2)
    assert (case.weights * outcome.divergence).sum().item() == pytest.approx(outcome.loss.item(), rel=1e-6)


def test_no_rows_give_empty_arrays_and_a_loss_that_reaches_the_trunk() -> None:
    case = Case(0, OBJECTIVES[0])
    trunk = torch.ones(1, dtype=torch.float64, requires_grad=True)
    case.hidden = torch.zeros(0, D, dtype=torch.float64) * trunk
    outcome = case.chunked(2)
    assert outcome.loss.item() == 0 and outcome.loss.dtype == torch.float32
    outcome.loss.backward()
    assert trunk.grad is not None and trunk.grad.item() == 0
    assert case.head.weight.grad is not None and (case.head.weight.grad == 0).all()
    for values in (outcome.divergence, outcome.student_logprobs, outcome.entropy, outcome.importance):
        assert values.shape == (0,) and values.dtype == torch.float32


def test_frozen_head_still_gives_a_gradient_to_the_rows() -> None:
    case = Case(5, OBJECTIVES[0])
    _, expected = case.head.weight.requires_grad_(False), case.whole()
    expected.backward()
    right = case.hidden.grad
    case.hidden.grad = None
    case.chunked(8).loss.backward()
    torch.testing.assert_close(case.hidden.grad, right)
    assert len(case.head.calls) == 16


def test_padding_vocabulary_gets_no_gradient() -> None:
    case = Case(5, OBJECTIVES[0])
    chunked_rows(
        case.hidden,
        case.head,
        case.teacher,
        case.targets % 9,
        torch.ones(5, dtype=torch.float64),
        case.objective,
        None,
        1.0,
        2,
        vocab_size=9,
    ).loss.backward()
    assert case.head.weight.grad is not None
    assert (case.head.weight.grad[9:] == 0).all() and (case.head.weight.grad[:9] != 0).any()


def test_no_gradient_mode_works() -> None:
    case = Case(5, OBJECTIVES[0])
    with torch.no_grad():
        loss = case.chunked(2).loss
    assert not loss.requires_grad and loss.item() == pytest.approx(case.whole().item())


def test_chunks_come_from_row_chunk_when_not_given() -> None:
    case = Case(9, {"divergence": "jsd", "row_chunk": 4})
    case.chunked(None)
    assert case.head.calls == [3, 3, 3]
    assert [chunk_count(rows, 4) for rows in (0, 1, 4, 5)] == [1, 1, 1, 2]


def test_wrong_lengths_and_missing_rollout_logprobs_are_refused() -> None:
    case = Case(5, OBJECTIVES[3])
    case.rollout_logprobs = None  # type: ignore[assignment]
    with pytest.raises(ObjectiveError, match="write importance: off"):
        case.chunked(2)
    case.targets = case.targets[:4]
    with pytest.raises(ObjectiveError, match="targets has 4 rows, the student's hidden states 5"):
        case.chunked(2)
