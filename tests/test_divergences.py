"""The wider divergences, supports, targets and clips against naive float64 references and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learner.clipping import bregman, clip_advantage, clip_entries, entries
from learner.divergences import entropy, forward_kl, jsd, power, reverse_kl, topk_reverse_kl
from learner.losses import token_divergence, token_loss
from learner.objective_config import ObjectiveConfig
from learner.supports import Picked, pick, pick_by, renormalized, with_tail
from learner.targets import proximal, skewed
from learner.teacher_targets import TeacherTargets, log_softmax
from tests.distances import draw, finite_differences, logs, naive_entries, slope_of

N, V = 5, 11
KINDS: dict[str, dict[str, object]] = {
    "forward_kl": {"divergence": "forward_kl"},
    "reverse_kl": {"divergence": "reverse_kl"},
    "jsd": {"divergence": "jsd", "beta": 0.3},
    "jsd normalized": {"divergence": "jsd", "beta": 0.3, "normalize": True},
    "power .5": {"divergence": "power", "power": 0.5},
    "power 1": {"divergence": "power", "power": 1.0},
    "entropy_switched": {"divergence": "entropy_switched", "entropy_threshold": 1.5},
}
SUPPORTS: list[dict[str, object]] = [
    {"support": support, "top_k": 4, "tail": tail}
    for support in ("student_topk", "union")
    for tail in ("bucket", "renormalized")
]
TARGETS = torch.arange(N)


def objective(**fields: object) -> ObjectiveConfig:
    return ObjectiveConfig.model_validate(fields)


def loss_of(settings: ObjectiveConfig, z: Tensor, lq: Tensor) -> Tensor:
    return token_loss(settings, log_softmax(z, settings.temperature), lq, TeacherTargets(), TARGETS).loss


def rows(settings: ObjectiveConfig, z: Tensor, lq: Tensor) -> list[list[float]]:
    """Naive entries of every row."""
    pairs = zip(log_softmax(z).exp().tolist(), lq.exp().tolist(), strict=True)
    return [naive_entries(settings, p, q) for p, q in pairs]


@pytest.mark.parametrize("name", KINDS)
def test_value_equals_naive_reference(name: str) -> None:
    settings, z, lq = objective(**KINDS[name]), draw(0, N, V), logs(1, N, V)
    exact = torch.tensor([sum(row) for row in rows(settings, z, lq)], dtype=torch.float64)
    torch.testing.assert_close(loss_of(settings, z, lq), exact, rtol=0, atol=1e-13)
    if name == "entropy_switched":
        assert 0 < (entropy(lq) > 1.5).sum() < N  # both sides of the switch are seen


@pytest.mark.parametrize("name", KINDS)
def test_gradient_equals_finite_differences(name: str) -> None:
    settings, z, lq = objective(**KINDS[name]), draw(0, N, V), logs(1, N, V)
    found = slope_of(lambda x: loss_of(settings, x, lq), z)
    torch.testing.assert_close(
        found, finite_differences(lambda x: loss_of(settings, x, lq), z), rtol=0, atol=5e-10
    )
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith("power")])
@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_supports_have_exact_gradients(name: str, support: dict[str, object]) -> None:
    settings, z, lq = objective(**KINDS[name], **support), draw(0, N, V), logs(1, N, V)
    found = slope_of(lambda x: loss_of(settings, x, lq), z)
    torch.testing.assert_close(
        found, finite_differences(lambda x: loss_of(settings, x, lq), z), rtol=0, atol=1e-8
    )
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", KINDS)
def test_the_entries_sum_to_the_divergence_and_to_its_gradient(name: str) -> None:
    settings, lp, lq = objective(**KINDS[name]), logs(0, N, V), logs(1, N, V)
    found = entries(settings, lp, lq, entropy(lq))
    naive = torch.tensor(rows(settings, lp, lq), dtype=torch.float64)
    torch.testing.assert_close(found.values, naive, rtol=0, atol=1e-13)
    whole = token_loss(settings, lp, lq, TeacherTargets(), TARGETS).loss
    torch.testing.assert_close(found.values.sum(-1), whole, rtol=0, atol=1e-13)
    slope = slope_of(lambda x: token_loss(settings, x, lq, TeacherTargets(), TARGETS).loss, lp)
    torch.testing.assert_close(found.slopes, slope, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", KINDS)
def test_masses_of_zero_count_zero_without_nan(name: str) -> None:
    settings = objective(**KINDS[name])
    z = torch.tensor([[1.0, 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    lq = log_softmax(torch.tensor([[0.0, 2.0, -math.inf, -math.inf]], dtype=torch.float64))
    for clip in ("off", "pointwise", "soft"):
        one = settings.model_copy(update={"clip": clip, "clip_at": 0.1})
        loss = token_loss(one, log_softmax(z), lq, TeacherTargets(), TARGETS[:1]).loss
        slope = slope_of(
            lambda x, one=one: token_loss(one, log_softmax(x), lq, TeacherTargets(), TARGETS[:1]).loss, z
        )
        assert torch.isfinite(loss).all() and torch.isfinite(slope).all()


def test_the_power_divergence_is_reverse_kl_in_the_limit_and_never_negative() -> None:
    lp, lq = logs(0, 200, V, scale=4.0), logs(1, 200, V, scale=4.0)
    torch.testing.assert_close(power(lp, lq, 1e-7), reverse_kl(lp, lq), rtol=1e-5, atol=1e-6)
    for a in (0.1, 0.5, 1.0):
        assert (entries(objective(divergence="power", power=a), lp, lq).values >= -1e-15).all()
        assert power(lp, lp, a).abs().max() < 1e-15
    torch.testing.assert_close(power(lp, lq, 1.0), 0.5 * (lp.exp() - lq.exp()).pow(2).sum(-1))


def test_truncated_reverse_kl_needs_its_stop_gradient() -> None:
    """The exact gradient of the truncated sum has the captured mass's in it, which empties the top k."""
    z, lq = draw(0, N, V), logs(1, N, V)
    ids = lq.topk(4).indices

    def truncated(x: Tensor) -> Tensor:
        lp = log_softmax(x).gather(-1, ids)
        return (lp.exp() * (lp - lq.gather(-1, ids))).sum(-1)

    def mass(x: Tensor) -> Tensor:
        return log_softmax(x).gather(-1, ids).exp().sum(-1)

    found = slope_of(lambda x: topk_reverse_kl(*pick_by("teacher", log_softmax(x), lq, 4)), z)
    frozen = log_softmax(z).gather(-1, ids)

    def stopped(x: Tensor) -> Tensor:
        return (log_softmax(x).gather(-1, ids).exp() * (frozen - lq.gather(-1, ids))).sum(-1)

    torch.testing.assert_close(found, finite_differences(stopped, z), rtol=0, atol=5e-10)
    exact = finite_differences(truncated, z)
    torch.testing.assert_close(exact, found + slope_of(mass, z), rtol=0, atol=5e-10)
    torch.testing.assert_close(
        topk_reverse_kl(*pick_by("teacher", log_softmax(z), lq, 4)), truncated(z), rtol=0, atol=1e-14
    )


# --- supports ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["teacher", "student", "union"])
def test_a_support_is_the_likeliest_tokens_once_each(by: str) -> None:
    lp, lq = logs(0, N, V), logs(1, N, V)
    picked = pick_by(by, lp, lq, 3)  # type: ignore[arg-type]
    for row in range(N):
        theirs, own = (set(side[row].topk(3).indices.tolist()) for side in (lq, lp))
        wanted = {"teacher": theirs, "student": own, "union": own | theirs}[by]
        real = ~picked.lp[row].isneginf()
        assert int(real.sum()) == len(wanted)
        for side, source in ((picked.lp, lp), (picked.lq, lq)):
            values = sorted(side[row][real].tolist())
            assert values == pytest.approx(sorted(source[row, list(wanted)].tolist()))
            assert side[row][~real].isneginf().all()


def test_a_small_vocabulary_is_taken_whole() -> None:
    lp, lq = logs(0, N, V), logs(1, N, V)
    for by in ("teacher", "student", "union"):
        found = forward_kl(*renormalized(pick_by(by, lp, lq, 100)))  # type: ignore[arg-type]
        torch.testing.assert_close(found, forward_kl(lp, lq), rtol=0, atol=1e-12)


def test_tail_and_renormalized_sides_sum_to_one() -> None:
    picked = pick_by("union", logs(0, N, V), logs(1, N, V), 3)
    for side in (*with_tail(picked), *renormalized(picked)):
        torch.testing.assert_close(side.exp().sum(-1), torch.ones(N).double(), rtol=0, atol=1e-12)


def test_an_id_beyond_the_vocabulary_has_no_mass() -> None:
    lp, lq = logs(0, 1, 4), logs(1, 1, 5)[:, :4]
    picked = pick(lp, torch.tensor([[0, 4]]), torch.tensor([[-0.7, -3.0]]))
    assert picked.lp[0, 1].isneginf() and picked.lq[0, 1].isneginf()
    assert torch.isfinite(jsd(*with_tail(picked))).all() and len(lq)


def test_renormalized_reverse_kl_is_blind_to_the_tail() -> None:
    """What the documentation warns of: moving mass out of the top k costs nothing without the bucket."""
    lq = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).double().log()
    away = torch.tensor([[0.05, 0.03, 0.46, 0.46]]).double().log()
    picked = Picked(away[:, :2], lq[:, :2])
    assert reverse_kl(*renormalized(picked)).item() == pytest.approx(0.0, abs=1e-12)
    assert reverse_kl(*with_tail(picked)).item() > 1.0


# --- targets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("g", [0.2, 0.7])
def test_targets_between_student_and_teacher(g: float) -> None:
    z, lq = draw(0, N, V), logs(1, N, V)
    lp = log_softmax(z)
    p, q = lp.exp(), lq.exp()
    mixed = p ** (1 - g) * q**g
    torch.testing.assert_close(skewed(lp, lq, g).exp(), mixed / mixed.sum(-1, keepdim=True))
    torch.testing.assert_close(proximal(lp, lq, g).exp(), (1 - g) * p + g * q)
    pairs = [("forward_kl", "proximal", forward_kl), ("reverse_kl", "skewed", reverse_kl)]
    for name, target, plain in pairs:
        moved = objective(divergence=name, target=target, target_weight=g)
        found = slope_of(lambda x, moved=moved: loss_of(moved, x, lq), z)
        wanted = g * slope_of(lambda x, plain=plain: plain(log_softmax(x), lq), z)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("target", ["skewed", "proximal"])
def test_targets_are_constants_of_the_step(target: str) -> None:
    settings = objective(divergence="jsd", target=target, target_weight=0.4)
    z, lq = draw(0, N, V), logs(1, N, V)
    move = skewed if target == "skewed" else proximal
    fixed = move(log_softmax(z), lq, 0.4)
    found = slope_of(lambda x: loss_of(settings, x, lq), z)
    torch.testing.assert_close(
        found, finite_differences(lambda x: jsd(log_softmax(x), fixed), z), rtol=0, atol=5e-10
    )


def test_targets_stand_a_teacher_that_excludes_tokens() -> None:
    lp, lq = logs(0, 1, 3), torch.tensor([[0.0, -math.inf, -math.inf]]).double()
    assert skewed(lp, lq, 0.5).exp().tolist() == [[1.0, 0.0, 0.0]]
    assert torch.isfinite(reverse_kl(lp, proximal(lp, lq, 0.5))).all()
    assert reverse_kl(lp, proximal(lp, lq, 0.5)).item() <= math.log(2)


# --- clipping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["pointwise", "soft"])
def test_clipped_value_and_gradient(name: str, kind: str) -> None:
    settings, z, lq, cap = (
        objective(**KINDS[name], clip=kind, clip_at=0.05),
        draw(0, N, V),
        logs(1, N, V),
        0.05,
    )
    naive = torch.tensor(rows(settings, z, lq), dtype=torch.float64)
    found = token_loss(settings, log_softmax(z), lq, TeacherTargets(), TARGETS)
    torch.testing.assert_close(found.loss, naive.clamp(max=cap).sum(-1), rtol=0, atol=1e-13)
    torch.testing.assert_close(found.removed, (naive - cap).clamp(min=0).sum(-1), rtol=0, atol=1e-13)
    assert found.touched.tolist() == (naive > cap).any(-1).double().tolist() and found.touched.any()
    slope = slope_of(lambda x: loss_of(settings, x, lq), z)
    if kind == "pointwise":  # min(l, c) is differentiable away from c
        torch.testing.assert_close(
            slope, finite_differences(lambda x: loss_of(settings, x, lq), z), rtol=0, atol=5e-10
        )
    else:
        scale = torch.where(naive > cap, cap / naive, torch.ones_like(naive))

        def scaled(x: Tensor) -> Tensor:
            found = entries(settings, log_softmax(x), lq, entropy(lq)).values
            return (scale * found).sum(-1)

        torch.testing.assert_close(slope, finite_differences(scaled, z), rtol=0, atol=5e-10)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_bregman_entries_are_never_negative_and_sum_to_the_same(name: str) -> None:
    lp, lq = logs(0, 200, V), logs(1, 200, V)
    plain, mended = entries(objective(divergence=name), lp, lq), bregman(name, lp, lq)  # type: ignore[arg-type]
    assert plain.values.min() < -0.01 and mended.values.min() >= -1e-15
    torch.testing.assert_close(mended.values.sum(-1), plain.values.sum(-1), rtol=0, atol=1e-12)
    z = draw(0, N, V)
    settings = objective(divergence=name, clip="bregman", clip_at=0.05)
    found = slope_of(lambda x: loss_of(settings, x, lq[:N]), z)
    torch.testing.assert_close(
        found, finite_differences(lambda x: loss_of(settings, x, lq[:N]), z), rtol=0, atol=5e-10
    )
    high = settings.model_copy(update={"clip_at": 1e9})
    bare = objective(divergence=name)
    for one in (high, bare):
        torch.testing.assert_close(
            slope_of(lambda x, one=one: loss_of(one, x, lq[:N]), z),
            slope_of(lambda x: loss_of(bare, x, lq[:N]), z),
            rtol=0,
            atol=1e-13,
        )


def test_a_pointwise_cap_can_make_a_kl_negative_and_bregman_cannot() -> None:
    lp, lq = logs(0, 500, V, scale=4.0), logs(1, 500, V, scale=4.0)
    plain = clip_entries(lp, entries(objective(divergence="forward_kl"), lp, lq), "pointwise", 0.05)
    assert plain.loss.min() < -0.01
    assert (clip_entries(lp, bregman("forward_kl", lp, lq), "bregman", 0.05).loss >= 0).all()


def test_a_token_cap_bounds_the_sum_and_stops_its_gradient() -> None:
    settings, z, lq = objective(clip="token", clip_at=0.2), draw(0, 40, V), logs(1, 40, V)
    targets = torch.zeros(40, dtype=torch.long)
    found = token_loss(settings, log_softmax(z), lq, TeacherTargets(), targets)
    plain = jsd(log_softmax(z), lq)
    above = plain > 0.2
    assert 0 < above.sum() < 40 and found.touched.bool().tolist() == above.tolist()
    torch.testing.assert_close(found.loss, plain.clamp(max=0.2))
    torch.testing.assert_close(found.removed, (plain - 0.2).clamp(min=0))
    slope = slope_of(lambda x: token_loss(settings, log_softmax(x), lq, TeacherTargets(), targets).loss, z)
    assert (slope[above] == 0).all() and (slope[~above] != 0).any()


def test_an_advantage_is_clipped_on_both_sides() -> None:
    clipped = clip_advantage(torch.tensor([-7.0, -1.0, 0.5, 3.0]), 2.0)
    assert clipped.loss.tolist() == [-2.0, -1.0, 0.5, 2.0]
    assert clipped.touched.tolist() == [True, False, False, True] and clipped.removed.tolist() == [5, 0, 0, 1]


def test_temperature_reaches_every_part() -> None:
    settings = objective(divergence="forward_kl", support="union", top_k=3, temperature=0.7, clip="soft")
    hidden, weight, z = draw(3, N, 4), draw(4, V, 4), draw(0, N, V)
    teacher = TeacherTargets(hidden=hidden, head_weight=weight)
    found = token_divergence(settings, z, teacher, TARGETS)
    lp, lq = log_softmax(z, 0.7), log_softmax(hidden @ weight.T, 0.7)
    picked = with_tail(pick_by("union", lp, lq, 3))
    wanted = entries(objective(divergence="forward_kl"), *picked).values.clamp(max=0.05).sum(-1)
    torch.testing.assert_close(found, wanted)
