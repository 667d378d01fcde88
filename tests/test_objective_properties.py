"""Properties of the objectives on random inputs: bounds, limits, fixed points, lower bounds, invariance of the cut."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.divergences import forward_kl, jsd, power, reverse_kl
from learner.estimators import log_ratio, power_ratio, surrogate
from learner.losses import token_loss
from learner.objective_config import Aggregation, ObjectiveConfig
from learner.plan import GroupLengths, plan_step, policy_weights, token_weights
from learner.supports import pick_by, with_tail
from learner.targets import proximal, skewed
from learner.teacher_targets import TeacherTargets, log_softmax
from learner.types import RolloutSignal, StepPlan
from tests.distances import slope_of

seeds, sizes = st.integers(0, 2**31 - 1), st.integers(2, 40)
scales, betas = st.floats(0.1, 12.0), st.floats(0.02, 0.98)
quick = settings(max_examples=60, deadline=None)
ROWS = 6


def logs(seed: int, size: int, scale: float, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = scale * torch.randn(2, rows, size, generator=generator, dtype=torch.float64)
    lp, lq = torch.log_softmax(both, -1)
    return lp, lq


@given(seeds, sizes, scales, betas)
@quick
def test_jsd_lies_between_zero_and_the_entropy_of_beta(
    seed: int, size: int, scale: float, beta: float
) -> None:
    lp, lq = logs(seed, size, scale)
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    found = jsd(lp, lq, beta)
    assert (found >= -1e-13).all() and (found <= bound + 1e-12).all()
    torch.testing.assert_close(found, jsd(lq, lp, 1 - beta), rtol=0, atol=1e-12)
    assert (jsd(lp, lp, beta) == 0).all()


@given(seeds, sizes, st.floats(0.1, 3.0), betas)
@quick
def test_near_agreement_every_divergence_is_kl_times_its_factor(
    seed: int, size: int, scale: float, beta: float
) -> None:
    lp, noise = logs(seed, size, scale)
    lq = log_softmax(lp + 1e-4 * noise)
    kl = forward_kl(lp, lq)
    factors = {beta * (1 - beta): jsd(lp, lq, beta), 1.0: jsd(lp, lq, beta, normalize=True)}
    for factor, found in (*factors.items(), (1.0, reverse_kl(lp, lq))):
        torch.testing.assert_close(found, factor * kl, rtol=2e-2, atol=1e-15)


@given(seeds, sizes, st.floats(0.1, 5.0), st.floats(0.05, 1.0))
@quick
def test_sampled_rewards_are_unbiased(seed: int, size: int, scale: float, a: float) -> None:
    lp, lq = logs(seed, size, scale)
    p = lp.exp()
    for exact, reward in (
        (reverse_kl, log_ratio),
        (lambda x, y: power(x, y, a), lambda x, y: power_ratio(x, y, a)),
    ):
        wanted = slope_of(lambda x, exact=exact: exact(log_softmax(x), lq), lp)
        found = slope_of(
            lambda x, reward=reward: (p * surrogate(log_softmax(x), reward(log_softmax(x), lq))).sum(-1), lp
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


@given(seeds, st.integers(2, 12), st.integers(1, 32))
@settings(max_examples=15, deadline=None)
def test_m_local_draws_have_one_mth_of_the_variance(seed: int, size: int, m: int) -> None:
    lp, lq = logs(seed, size, 1.5, rows=1)
    own = lp.exp()[0]
    score = torch.eye(size).double() - own  # gradient of log p of each token
    terms = -(lq - lp)[0][:, None] * score
    mean = own @ terms
    one = (own @ (terms - mean).pow(2)).sum().item()
    repeats = 3000
    objective = ObjectiveConfig.model_validate({"divergence": "sampled", "draws": m})
    numbers = torch.rand(repeats, m, generator=torch.Generator().manual_seed(seed % 1000))
    slopes = slope_of(
        lambda x: token_loss(
            objective, log_softmax(x), lq.expand(repeats, -1), TeacherTargets(),
            torch.zeros(repeats, dtype=torch.long), numbers,
        ).loss,
        lp.expand(repeats, -1).clone(),
    )  # fmt: skip
    assert math.isclose(slopes.var(0).sum().item() * m, one, rel_tol=0.35, abs_tol=1e-12)


@given(seeds, st.integers(2, 30), st.floats(0.1, 6.0), betas)
@quick
def test_buckets_are_a_lower_bound_that_grows_with_k(seed: int, size: int, scale: float, beta: float) -> None:
    lp, lq = logs(seed, size, scale)
    for divergence in (forward_kl, reverse_kl, lambda x, y: jsd(x, y, beta)):
        whole = divergence(lp, lq)
        for by in ("teacher", "student", "union"):
            last = torch.zeros(ROWS).double()
            for k in range(1, size + 1, max(1, size // 5)):
                picked = pick_by(by, lp, lq, k)  # type: ignore[arg-type]
                now = divergence(*with_tail(picked))
                # a tail below 1e-7 is held there, which a large gap of the other side can show
                fine = torch.stack([side.exp().sum(-1) < 1 - 1e-6 for side in picked]).all(0)
                assert (now <= whole + 1e-5).all() and (now >= last - 1e-6)[fine].all()
                last = torch.where(fine, now, last)


def settle(divergence: str, teachers: Tensor, steps: int = 4000) -> Tensor:
    """The student [V] that descends the mean divergence to all teachers [K,V]."""
    objective = ObjectiveConfig.model_validate({"divergence": divergence, "beta": 0.5})
    z = torch.zeros(1, teachers.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [z], max_iter=steps, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        lp = log_softmax(z).expand(len(teachers), -1)
        targets = torch.zeros(len(teachers), dtype=torch.long)
        loss = token_loss(objective, lp, teachers, TeacherTargets(), targets).loss.mean()
        loss.backward()
        return loss.detach()

    optimizer.step(closure)  # type: ignore[arg-type]
    return log_softmax(z.detach())[0]


@given(seeds, st.integers(2, 8), st.integers(2, 4))
@settings(max_examples=12, deadline=None)
def test_fixed_points_of_several_teachers(seed: int, size: int, count: int) -> None:
    """One input, several privileged teachers: FKL settles at their mean, RKL at their normalised geometric mean.

    The mean is the widest: what a student without the privilege can know is an average of teachers.
    """
    teachers = logs(seed, size, 1.5, rows=count)[1]
    arithmetic = torch.logsumexp(teachers, 0) - math.log(count)
    geometric = log_softmax(teachers.mean(0))
    torch.testing.assert_close(settle("forward_kl", teachers), arithmetic, rtol=0, atol=1e-5)
    torch.testing.assert_close(settle("reverse_kl", teachers), geometric, rtol=0, atol=1e-5)
    assert _divergence("jsd", settle("jsd", teachers), teachers) <= min(
        _divergence("jsd", point, teachers) for point in (arithmetic, geometric)
    ) + 1e-9  # fmt: skip


def _divergence(name: str, student: Tensor, teachers: Tensor) -> float:
    objective = ObjectiveConfig.model_validate({"divergence": name})
    lp, targets = student.expand(len(teachers), -1), torch.zeros(len(teachers), dtype=torch.long)
    return float(token_loss(objective, lp, teachers, TeacherTargets(), targets).loss.mean())


@given(seeds, sizes, st.floats(0.1, 6.0), st.floats(0.02, 0.98))
@quick
def test_a_target_between_is_nearer_and_a_distribution(seed: int, size: int, scale: float, g: float) -> None:
    lp, lq = logs(seed, size, scale)
    for move in (skewed, proximal):
        target = move(lp, lq, g)
        torch.testing.assert_close(target.exp().sum(-1), torch.ones(ROWS).double(), rtol=0, atol=1e-10)
        assert (jsd(lp, target) <= jsd(lp, lq) + 1e-9).all()


@given(seeds, st.integers(2, 25), st.floats(0.1, 8.0), st.floats(1e-3, 2.0))
@quick
def test_clips_only_take_away(seed: int, size: int, scale: float, cap: float) -> None:
    lp, lq = logs(seed, size, scale)
    targets = torch.zeros(ROWS, dtype=torch.long)
    for name in ("forward_kl", "reverse_kl", "jsd", "power"):
        for clip in ("pointwise", "soft", "token", "bregman"):
            if clip == "bregman" and name in ("jsd", "power"):
                continue
            settings_of = {"divergence": name, "clip": clip, "clip_at": cap}
            objective = ObjectiveConfig.model_validate(settings_of)
            plain = ObjectiveConfig.model_validate({"divergence": name})
            found = token_loss(objective, lp, lq, TeacherTargets(), targets)
            whole = token_loss(plain, lp, lq, TeacherTargets(), targets).loss
            assert (found.removed >= -1e-12).all()
            torch.testing.assert_close(found.loss + found.removed, whole, rtol=0, atol=1e-9)
            assert ((found.touched == 0) == (found.removed <= 1e-15)).all()
            if clip == "bregman":
                assert (found.loss >= -1e-12).all()


# --- one denominator -----------------------------------------------------------------------------


@st.composite
def step(draw: st.DrawFn) -> tuple[list[GroupLengths], list[list[RolloutSignal]]]:
    """Groups with token weights, some of them 0, and advantages."""
    groups, signals = [], []
    for _ in range(draw(st.integers(1, 8))):
        responses = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
        own = [
            RolloutSignal(
                weights=np.array(
                    draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=n, max_size=n)), np.float32
                ),
                advantage=draw(st.floats(-2, 2)),
            )
            for n in responses
        ]
        trained = tuple(draw(st.lists(st.booleans(), min_size=len(responses), max_size=len(responses))))
        counts = tuple(int((s.weights > 0).sum()) for s in own if s.weights is not None)
        groups.append(GroupLengths(draw(st.integers(1, 20)), responses, trained, counts))
        signals.append(own)
    return groups, signals


steps = step().filter(lambda pair: any(any(group.trained) for group in pair[0]))


def naive(
    groups: list[GroupLengths], signals: list[list[RolloutSignal]], aggregation: str, loss: list[np.ndarray]
) -> tuple[float, float]:
    """Token loss and reward term of the whole step at once, as the formulas say."""
    rows, all_rows = [], []
    for group, own, values in zip(groups, signals, loss, strict=True):
        parts = np.split(values, np.cumsum(group.responses)[:-1])
        for part, signal, trained in zip(parts, own, group.trained, strict=True):
            assert signal.weights is not None and signal.advantage is not None
            if trained:
                all_rows.append((np.full(len(part), signal.advantage), part))
            if trained and (signal.weights > 0).any():
                rows.append((signal.weights.astype(np.float64), part))
    sums = [np.array([float((w * part).sum()) for w, part in table]) for table in (rows, all_rows)]
    counts = [np.array([int((w > 0).sum()) for w, _ in rows]), np.array([len(part) for _, part in all_rows])]
    found = []
    for total, count in zip(sums, counts, strict=True):
        if not len(total):
            found.append(0.0)
        elif aggregation == "token_mean":
            found.append(float(total.sum() / count.sum()))
        elif aggregation == "fixed":
            found.append(float((total / 16).mean()))
        else:
            found.append(float((total / count).mean()))
    return found[0], found[1]


def cut(
    plan: StepPlan,
    groups: list[GroupLengths],
    signals: list[list[RolloutSignal]],
    aggregation: Aggregation,
    loss: list[np.ndarray],
) -> tuple[float, float]:
    """The same, summed cell by cell as ranks and micro-batches do."""
    total, term = 0.0, 0.0
    for at in (at for rank in plan.cells for cell in rank for at in cell):
        group, own = groups[at], signals[at]
        weights = token_weights(plan, group.responses, group.trained, aggregation, own, 16)
        advantages = [signal.advantage or 0.0 for signal in own]
        reward = policy_weights(plan, group.responses, group.trained, aggregation, advantages, 16)
        total += float((weights.astype(np.float64) * loss[at]).sum())
        term += float((reward.astype(np.float64) * loss[at]).sum())
    return total, term


@given(steps, st.integers(1, 4), seeds, st.sampled_from(["seq_mean", "token_mean", "fixed"]))
@settings(max_examples=150, deadline=None)
def test_masks_and_weights_leave_no_trace_of_the_cut(
    pair: tuple[list[GroupLengths], list[list[RolloutSignal]]],
    ranks: int,
    seed: int,
    aggregation: Aggregation,
) -> None:
    groups, signals = pair
    rng = np.random.default_rng(seed)
    loss = [rng.normal(size=sum(group.responses)) for group in groups]
    wanted = naive(groups, signals, aggregation, loss)
    for micro in (50, 500):
        plan = plan_step(1, groups, ranks, micro)
        np.testing.assert_allclose(
            cut(plan, groups, signals, aggregation, loss), wanted, rtol=1e-5, atol=1e-6
        )
