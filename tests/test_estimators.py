"""Sampled forms: exact expectations by enumeration, variance 1/m, the traps, and off-policy weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learner.divergences import forward_kl, power, reverse_kl
from learner.estimators import draw_tokens, log_ratio, power_ratio, surrogate
from learner.importance import block_weight, gated_weight, importance_weight, ratio
from learner.losses import token_loss
from learner.objective_config import ObjectiveConfig
from learner.teacher_targets import ObjectiveError, TeacherTargets, log_softmax
from tests.distances import draw, finite_differences, logs, slope_of

N, V = 4, 7
NONE = torch.zeros(N, dtype=torch.long)


def expected(z: Tensor, loss: object) -> Tensor:
    """Gradient of E_p[loss of one sampled token], the sampling itself held fixed."""
    p = log_softmax(z).exp().detach()
    return slope_of(lambda x: (p * loss(log_softmax(x))).sum(-1), z)  # type: ignore[operator]


def test_the_sampled_reward_has_the_gradient_of_its_divergence() -> None:
    z, lq = draw(0, N, V), logs(1, N, V)
    found = expected(z, lambda lp: surrogate(lp, log_ratio(lp, lq)))
    torch.testing.assert_close(
        found, finite_differences(lambda x: reverse_kl(log_softmax(x), lq), z), rtol=0, atol=5e-10
    )
    for a in (0.2, 0.5, 1.0):
        found = expected(z, lambda lp, a=a: surrogate(lp, power_ratio(lp, lq, a)))
        wanted = finite_differences(lambda x, a=a: power(log_softmax(x), lq, a), z)
        torch.testing.assert_close(found, wanted, rtol=0, atol=5e-10)


def test_the_traps_train_something_else() -> None:
    """k1 trains nothing, k2 reverse KL, k3 forward KL: why the first and the last are refused."""
    z, lq = draw(0, N, V), logs(1, N, V)
    rkl = slope_of(lambda x: reverse_kl(log_softmax(x), lq), z)
    fkl = slope_of(lambda x: forward_kl(log_softmax(x), lq), z)
    assert expected(z, lambda lp: lp - lq).abs().max() < 1e-14
    torch.testing.assert_close(expected(z, lambda lp: 0.5 * (lp - lq) ** 2), rkl, rtol=0, atol=1e-13)
    k3 = expected(z, lambda lp: (lq - lp).exp() - 1 - (lq - lp))
    torch.testing.assert_close(k3, fkl, rtol=0, atol=1e-13)
    assert (k3 - rkl).abs().max() > 0.1


def test_power_ratio_is_bounded_and_keeps_the_sign() -> None:
    lp, lq = logs(0, 50, V, scale=20.0), logs(1, 50, V, scale=20.0)
    for a in (0.1, 0.5, 1.0):
        found = power_ratio(lp, lq, a)
        assert found.abs().max() <= 1 / a
        assert (found.sign() * (lq - lp).sign() >= 0).all()
    torch.testing.assert_close(power_ratio(lp, lq, 1e-8), lq - lp, rtol=1e-4, atol=1e-4)


def test_draws_follow_the_distribution_and_their_own_numbers() -> None:
    lp = logs(0, 1, V).expand(20_000, V)
    numbers = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(3))
    ids = draw_tokens(lp, numbers)
    share = torch.bincount(ids.flatten(), minlength=V).double() / ids.numel()
    torch.testing.assert_close(share, lp[0].exp(), rtol=0, atol=6e-3)
    again = torch.cat([draw_tokens(lp[:777], numbers[:777]), draw_tokens(lp[777:], numbers[777:])])
    assert torch.equal(ids, again)


def test_draws_never_take_a_token_of_no_mass_and_stand_the_ends() -> None:
    lp = torch.tensor([[-math.inf, math.log(0.25), math.log(0.75), -math.inf]])
    ids = draw_tokens(lp, torch.tensor([[0.0, 0.2499, 0.2501, 1 - 2**-24]]))
    assert ids.tolist() == [[1, 1, 2, 2]]
    sharp = torch.tensor([[0.0, -math.inf]])
    assert draw_tokens(sharp, torch.tensor([[0.0, 1 - 2**-24]])).tolist() == [[0, 0]]


@pytest.mark.parametrize("divergence", ["sampled", "power"])
def test_local_draws_are_unbiased_with_variance_one_over_m(divergence: str) -> None:
    z, lq = draw(0, 1, V), logs(1, 1, V)
    exact = reverse_kl if divergence == "sampled" else lambda lp, lq: power(lp, lq, 0.5)
    wanted = slope_of(lambda x: exact(log_softmax(x), lq), z)
    repeats, variances = 4000, []
    for m in (1, 4, 16):
        settings = ObjectiveConfig.model_validate({"divergence": divergence, "draws": m})
        numbers = torch.rand(repeats, m, generator=torch.Generator().manual_seed(m))
        many = z.expand(repeats, V).clone()
        slopes = slope_of(
            lambda x, settings=settings, numbers=numbers: (
                token_loss(
                    settings,
                    log_softmax(x),
                    lq.expand(repeats, V),
                    TeacherTargets(),
                    torch.zeros(repeats, dtype=torch.long),
                    numbers,
                ).loss
            ),
            many,
        )
        spread = slopes.var(0).sum().item()
        error = (slopes.mean(0) - wanted[0]).norm().item()
        assert error < 4 * math.sqrt(spread / repeats)
        variances.append(spread)
    assert variances[0] / variances[1] == pytest.approx(4, rel=0.15)
    assert variances[1] / variances[2] == pytest.approx(4, rel=0.15)


def test_draws_report_reverse_kl_and_clip_their_advantages() -> None:
    settings = ObjectiveConfig.model_validate(
        {"divergence": "sampled", "draws": 3, "clip": "advantage", "clip_at": 0.5}
    )
    lp, lq = logs(0, N, V), logs(1, N, V)
    numbers = torch.rand(N, 3, generator=torch.Generator().manual_seed(0))
    ids = draw_tokens(lp, numbers)
    gap = (lq - lp).gather(-1, ids)
    found = token_loss(settings, lp, lq, TeacherTargets(), NONE, numbers)
    torch.testing.assert_close(found.value, -gap.mean(-1))
    torch.testing.assert_close(found.touched, (gap.abs() > 0.5).double().mean(-1))
    wanted = (-gap.clamp(-0.5, 0.5) * lp.gather(-1, ids)).mean(-1)
    torch.testing.assert_close(found.loss, wanted)
    with pytest.raises(ObjectiveError, match="draws is 3, but the rows came without numbers"):
        token_loss(settings, lp, lq, TeacherTargets(), NONE)


def test_the_sampled_power_reward_needs_the_sampled_log_prob_alone() -> None:
    settings = ObjectiveConfig.model_validate({"divergence": "power", "power": 0.5, "support": "sampled"})
    lp, own = logs(0, N, V), torch.tensor([-0.5, -1.0, -2.0, -3.0]).double()
    targets = torch.tensor([0, 1, 2, 3])
    found = token_loss(settings, lp, None, TeacherTargets(logprobs=own), targets)
    said = lp.gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.loss, -(own.exp().sqrt() - said.exp().sqrt()) / 0.5 * said)
    torch.testing.assert_close(found.value, said - own)


# --- off-policy weights --------------------------------------------------------------------------


def test_the_ratio_makes_an_old_policy_unbiased_and_without_it_it_is_not() -> None:
    z, lq, old = draw(0, N, V), logs(1, N, V), logs(2, N, V)
    wanted = slope_of(lambda x: reverse_kl(log_softmax(x), lq), z)

    def stale(x: Tensor, corrected: bool) -> Tensor:
        lp = log_softmax(x)
        weight = ratio(lp, old) if corrected else torch.ones_like(lp)
        return (old.exp() * weight * surrogate(lp, log_ratio(lp, lq))).sum(-1)

    torch.testing.assert_close(slope_of(lambda x: stale(x, True), z), wanted, rtol=0, atol=1e-12)
    assert (slope_of(lambda x: stale(x, False), z) - wanted).abs().max() > 0.1


def test_caps_gates_and_blocks() -> None:
    student = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0], requires_grad=True)
    rolled = torch.log(torch.tensor([1.0, 0.5, 0.1, 2.0, 10.0]))
    assert importance_weight(student, rolled, 2.0).tolist() == pytest.approx([1, 2, 2, 0.5, 0.1])
    assert gated_weight(student, rolled, 0.5, 2.0).tolist() == pytest.approx([1, 2, 0, 0.5, 0])
    found = block_weight(student, rolled, [4, 1], 2)
    first, second = math.exp(-abs(math.log(2) / 2)), math.exp(-abs((math.log(10) - math.log(2)) / 2))
    mean = (first + second) / 2
    assert found.tolist() == pytest.approx([first / mean] * 2 + [second / mean] * 2 + [1.0])
    assert not found.requires_grad and not gated_weight(student, rolled, 0.5, 2.0).requires_grad
    extreme = torch.tensor([500.0, -500.0])
    assert torch.isfinite(block_weight(extreme, torch.zeros(2), [2], 1)).all()
    assert block_weight(torch.zeros(0), torch.zeros(0), [], 4).shape == (0,)


def test_block_weights_do_not_cross_responses() -> None:
    student, rolled = draw(0, 12).float(), draw(1, 12).float()
    alone = torch.cat(
        [block_weight(student[:5], rolled[:5], [5], 3), block_weight(student[5:], rolled[5:], [7], 3)]
    )
    assert torch.equal(block_weight(student, rolled, [5, 7], 3), alone)
