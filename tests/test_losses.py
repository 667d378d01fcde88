"""Every loss against a naive float64 reference, finite differences, and the identities of the method."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from learner.divergences import forward_kl, jsd, reverse_kl
from learner.estimators import sampled_policy_gradient
from learner.importance import importance_weight
from learner.losses import cross_entropy, token_divergence
from learner.objective_config import ObjectiveConfig
from learner.supports import bucketed
from learner.teacher_targets import ObjectiveError, TeacherTargets, log_softmax
from tests.distances import draw, finite_differences, slope_of

N, V, D = 5, 11, 4
DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "jsd .1": lambda lp, lq: jsd(lp, lq, 0.1),
    "jsd .8": lambda lp, lq: jsd(lp, lq, 0.8),
}


def naive(name: str, p: list[float], q: list[float]) -> float:
    """One row, in Python floats, from probabilities."""
    if name == "forward_kl":
        return sum(b * math.log(b / a) for a, b in zip(p, q, strict=True) if b > 0)
    if name == "reverse_kl":
        return naive("forward_kl", q, p)
    beta = {"jsd": 0.5, "jsd .1": 0.1, "jsd .8": 0.8}[name]
    m = [(1 - beta) * a + beta * b for a, b in zip(p, q, strict=True)]
    return beta * naive("forward_kl", m, q) + (1 - beta) * naive("forward_kl", m, p)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_equals_naive_reference(name: str) -> None:
    lp, lq = log_softmax(draw(0, N, V)), log_softmax(draw(1, N, V))
    expected = [naive(name, p, q) for p, q in zip(lp.exp().tolist(), lq.exp().tolist(), strict=True)]
    exact = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(DIVERGENCES[name](lp, lq), exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("tau", [1.0, 0.7])
def test_gradient_equals_finite_differences(name: str, tau: float) -> None:
    lq = log_softmax(draw(1, N, V), tau)

    def loss(logits: Tensor) -> Tensor:
        return DIVERGENCES[name](log_softmax(logits, tau), lq)

    z = draw(0, N, V)
    torch.testing.assert_close(slope_of(loss, z), finite_differences(loss, z), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("k", [1, 4])
def test_bucketed_gradient_equals_finite_differences(name: str, k: int) -> None:
    values, ids = log_softmax(draw(1, N, V)).topk(k)

    def loss(logits: Tensor) -> Tensor:
        return DIVERGENCES[name](*bucketed(log_softmax(logits), ids, values))

    z = draw(0, N, V)
    torch.testing.assert_close(slope_of(loss, z), finite_differences(loss, z), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradient_holds_for_log_probs_that_do_not_sum_to_one(name: str) -> None:
    lp, lq = draw(0, N, V) - 3, log_softmax(draw(1, N, V))

    def loss(values: Tensor) -> Tensor:
        return DIVERGENCES[name](values, lq)

    torch.testing.assert_close(slope_of(loss, lp), finite_differences(loss, lp), rtol=1e-8, atol=1e-8)


def test_gradients_equal_their_closed_forms() -> None:
    z, lq = draw(0, N, V), log_softmax(draw(1, N, V))
    lp = log_softmax(z)
    p, q = lp.exp(), lq.exp()
    gap = lp - lq
    rkl = (p * gap).sum(-1, keepdim=True)
    lm = torch.log(0.7 * p + 0.3 * q)
    to_mean = (p * (lp - lm)).sum(-1, keepdim=True)
    pairs = [
        (slope_of(lambda x: forward_kl(log_softmax(x), lq), z), p - q),
        (slope_of(lambda x: reverse_kl(log_softmax(x), lq), z), p * (gap - rkl)),
        (slope_of(lambda x: jsd(log_softmax(x), lq, 0.3), z), 0.7 * p * (lp - lm - to_mean)),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_jsd_is_bounded_by_the_entropy_of_beta(beta: float) -> None:
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    near = jsd(log_softmax(draw(0, 200, V, scale=8.0)), log_softmax(draw(1, 200, V, scale=8.0)), beta)
    assert (near >= 0).all() and (near <= bound + 1e-12).all()
    apart = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    assert jsd(*apart, beta).item() == pytest.approx(bound, abs=1e-6)


def test_jsd_is_symmetric_at_one_half_only() -> None:
    lp, lq = log_softmax(draw(0, N, V)), log_softmax(draw(1, N, V))
    torch.testing.assert_close(jsd(lp, lq), jsd(lq, lp), rtol=0, atol=1e-14)
    assert (jsd(lp, lq, 0.1) - jsd(lq, lp, 0.1)).abs().max() > 1e-3
    torch.testing.assert_close(jsd(lp, lq, 0.1), jsd(lq, lp, 0.9), rtol=0, atol=1e-14)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_jsd_near_agreement_is_beta_one_minus_beta_of_kl(beta: float) -> None:
    z = draw(0, N, V)
    lp, lq = log_softmax(z), log_softmax(z + draw(1, N, V, scale=1e-4))
    ratio = jsd(lp, lq, beta) / forward_kl(lp, lq)
    torch.testing.assert_close(ratio, torch.full_like(ratio, beta * (1 - beta)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_distributions_give_no_loss_and_no_gradient(name: str, dtype: torch.dtype) -> None:
    z = draw(0, 64, 5000, scale=4.0).to(dtype)
    lq = log_softmax(z)
    assert DIVERGENCES[name](log_softmax(z), lq).abs().max() == 0
    noise = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    assert slope_of(lambda x: DIVERGENCES[name](log_softmax(x), lq), z).abs().max() < noise


def test_jsd_in_float32_is_accurate_near_agreement() -> None:
    z = draw(0, 64, 5000, scale=4.0)
    other = z + draw(1, 64, 5000, scale=1e-2)
    exact = jsd(log_softmax(z), log_softmax(other))
    lp, lq = log_softmax(z).float(), log_softmax(other).float()
    assert (jsd(lp, lq) - exact).abs().max() < 2e-8
    assert exact.mean() > 5e-6


@pytest.mark.parametrize("name", DIVERGENCES)
def test_zero_probabilities_count_zero_without_nan(name: str) -> None:
    z = torch.tensor([[1.0, 0.0, -math.inf, -math.inf]])
    other = log_softmax(torch.tensor([[0.0, 2.0, -math.inf, -math.inf]]))
    p, q = log_softmax(z).exp()[0, :2].tolist(), other.exp()[0, :2].tolist()
    assert DIVERGENCES[name](log_softmax(z), other).item() == pytest.approx(naive(name, p, q), abs=1e-6)
    slope = slope_of(lambda x: DIVERGENCES[name](log_softmax(x), other), z)
    assert torch.isfinite(slope).all() and (slope[0, 2:] == 0).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_huge_gaps_are_finite_in_float32(name: str) -> None:
    z, other = torch.tensor([[0.0, 300.0, -50.0]]), log_softmax(torch.tensor([[300.0, 0.0, -50.0]]))
    assert torch.isfinite(DIVERGENCES[name](log_softmax(z), other)).all()
    assert torch.isfinite(slope_of(lambda x: DIVERGENCES[name](log_softmax(x), other), z)).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_nan_is_never_hidden(name: str) -> None:
    good, bad = log_softmax(draw(0, 1, V)), torch.full((1, V), math.nan, dtype=torch.float64)
    assert DIVERGENCES[name](bad, good).isnan().all()
    assert DIVERGENCES[name](good, bad).isnan().all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_bucketed_is_a_lower_bound_that_grows_to_the_full_value(name: str) -> None:
    lp, lq = log_softmax(draw(0, 50, V)), log_softmax(draw(1, 50, V))
    full = DIVERGENCES[name](lp, lq)
    last = torch.zeros(50, dtype=torch.float64)
    for k in range(1, V + 1):
        values, ids = lq.topk(k)
        now = DIVERGENCES[name](*bucketed(lp, ids, values))
        assert (now >= last - 1e-12).all(), k
        last = now
    torch.testing.assert_close(last, full, rtol=0, atol=1e-6)
    assert (DIVERGENCES[name](*bucketed(lp, lq.topk(1)[1], lq.topk(1)[0])) < full).all()


def test_buckets_sum_to_one() -> None:
    lp, lq = log_softmax(draw(0, N, V)), log_softmax(draw(1, N, V))
    values, ids = lq.topk(3)
    for side in bucketed(lp, ids.int(), values):
        torch.testing.assert_close(side.exp().sum(-1), torch.ones(N).double(), rtol=0, atol=1e-12)


def test_sampled_gradient_is_unbiased_for_reverse_kl() -> None:
    z, lq = draw(0, N, V), log_softmax(draw(1, N, V))
    p = log_softmax(z).exp()

    def expected_loss(logits: Tensor) -> Tensor:
        return (p * sampled_policy_gradient(log_softmax(logits), lq)).sum(-1)

    found = slope_of(expected_loss, z)
    torch.testing.assert_close(
        found, slope_of(lambda x: reverse_kl(log_softmax(x), lq), z), rtol=0, atol=1e-13
    )
    useless = slope_of(lambda x: (p * (log_softmax(x) - lq)).sum(-1), z)
    assert useless.abs().max() < 1e-13 < found.abs().max()


def test_sampled_value_and_cross_entropy() -> None:
    lp = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = sampled_policy_gradient(lp, torch.tensor([-0.5, -4.0]))
    assert loss.tolist() == [0.5, -4.0]
    loss.sum().backward()
    assert lp.grad is not None and lp.grad.tolist() == [-0.5, 2.0]
    assert cross_entropy(lp).tolist() == [1.0, 2.0]


def test_importance_weight_is_capped_detached_and_finite() -> None:
    student = torch.tensor([0.0, -1.0, -500.0, 500.0], requires_grad=True)
    weight = importance_weight(student, torch.tensor([0.0, -1.0 + math.log(2), 0.0, 0.0]), 2.0)
    assert not weight.requires_grad
    assert weight.tolist() == pytest.approx([1.0, 0.5, math.exp(-20), 2.0])
    assert importance_weight(student, torch.zeros(4), 1e30)[3] == pytest.approx(math.exp(20))


def objective(**fields: object) -> ObjectiveConfig:
    return ObjectiveConfig.model_validate(fields)


def teacher_of(seed: int, k: int = 3) -> tuple[TeacherTargets, Tensor, Tensor]:
    """All kinds of targets at once, the teacher's logits [N,V], and the sampled ids [N]."""
    hidden, weight = draw(seed, N, D), draw(seed + 1, V, D)
    targets = torch.arange(N) % V
    lq = log_softmax(hidden @ weight.T)
    values, ids = lq.topk(k)
    own = lq.gather(-1, targets[:, None])[:, 0]
    teacher = TeacherTargets(
        hidden=hidden, head_weight=weight, topk_ids=ids, topk_logprobs=values, logprobs=own
    )
    return teacher, hidden @ weight.T, targets


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd"])
def test_token_divergence_full_and_topk(name: str) -> None:
    teacher, logits, targets = teacher_of(2)
    z = draw(0, N, V)
    full = token_divergence(objective(divergence=name, temperature=0.6), z, teacher, targets)
    torch.testing.assert_close(full, DIVERGENCES[name](log_softmax(z, 0.6), log_softmax(logits, 0.6)))
    top = token_divergence(objective(divergence=name, support="topk"), z, teacher, targets)
    assert teacher.topk_ids is not None and teacher.topk_logprobs is not None
    expected = DIVERGENCES[name](*bucketed(log_softmax(z), teacher.topk_ids, teacher.topk_logprobs))
    torch.testing.assert_close(top, expected)


@pytest.mark.parametrize("support", ["full", "topk", "sampled"])
def test_token_divergence_sampled_and_cross_entropy(support: str) -> None:
    teacher, logits, targets = teacher_of(2)
    z = draw(0, N, V)
    own = log_softmax(z)[torch.arange(N), targets]
    found = token_divergence(objective(divergence="sampled", support=support), z, teacher, targets)
    torch.testing.assert_close(
        found, sampled_policy_gradient(own, log_softmax(logits)[torch.arange(N), targets])
    )
    plain = objective(divergence="cross_entropy", support=support)
    torch.testing.assert_close(token_divergence(plain, z, TeacherTargets(), targets), -own)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd"])
def test_padding_vocabulary_is_cut_from_both_models(name: str) -> None:
    teacher, _, targets = teacher_of(2)
    z = draw(0, N, V)
    cut = objective(divergence=name)
    assert teacher.hidden is not None and teacher.head_weight is not None
    small = TeacherTargets(hidden=teacher.hidden, head_weight=teacher.head_weight[:7])
    found = token_divergence(cut, z, teacher, targets, vocab_size=7)
    torch.testing.assert_close(found, token_divergence(cut, z[:, :7], small, targets))
    masked = z.clone()
    masked[:, 7:] = -math.inf
    minus = log_softmax(teacher.hidden @ teacher.head_weight.T + (masked - z))
    torch.testing.assert_close(found, DIVERGENCES[name](log_softmax(masked), minus))
    with pytest.raises(ObjectiveError, match="vocab_size 12 is above the head's 11 rows"):
        token_divergence(cut, z, teacher, targets, vocab_size=12)


def test_low_precision_is_cast_to_float32_before_the_softmax() -> None:
    z = draw(0, N, V).bfloat16()
    assert log_softmax(z).dtype == torch.float32
    torch.testing.assert_close(log_softmax(z), torch.log_softmax(z.float(), -1))
    hidden, weight = draw(1, N, D).bfloat16(), draw(2, 40_000, D).bfloat16()
    wide = torch.zeros(N, 40_000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        teacher = TeacherTargets(hidden=hidden, head_weight=weight)
        found = token_divergence(objective(), wide, teacher, torch.zeros(N, dtype=torch.long))
    torch.testing.assert_close(found, jsd(log_softmax(wide), log_softmax(hidden.float() @ weight.float().T)))


def test_objectives_the_teacher_cannot_serve_are_refused() -> None:
    z, targets = draw(0, N, V), torch.zeros(N, dtype=torch.long)
    teacher, _, _ = teacher_of(2)
    cases: list[tuple[dict[str, object], TeacherTargets, str]] = [
        ({}, TeacherTargets(), "needs the teacher's hidden and head_weight"),
        ({"support": "topk"}, TeacherTargets(), "needs the teacher's topk_ids"),
        ({"divergence": "sampled", "support": "sampled"}, TeacherTargets(), "needs the teacher's logprobs"),
        ({"support": "sampled"}, teacher, "write divergence: sampled"),
        ({"support": "topk", "temperature": 0.5}, teacher, "write temperature: 1.0, or support: full"),
    ]
    for fields, given, words in cases:
        with pytest.raises(ObjectiveError, match=words):
            token_divergence(objective(**fields), z, given, targets)
    with pytest.raises(ObjectiveError, match="the same rows and vocabulary"):
        token_divergence(objective(), z[:, :5], teacher, targets)


def test_teacher_targets_check_themselves() -> None:
    with pytest.raises(ObjectiveError, match="only one of hidden and head_weight"):
        TeacherTargets(hidden=torch.zeros(2, D))
    with pytest.raises(ObjectiveError, match="different numbers of rows"):
        TeacherTargets(hidden=torch.zeros(2, D), head_weight=torch.zeros(V, D), logprobs=torch.zeros(3))
    teacher, _, _ = teacher_of(2)
    part = teacher.rows(1, 3)
    assert part.hidden is not None and len(part.hidden) == 2 and part.head_weight is teacher.head_weight
