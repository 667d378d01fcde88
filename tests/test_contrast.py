"""Targets from two teacher forwards: the formulas, and a whole run under each kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from learner.chunked import chunked_rows
from learner.contrast import anchored, contrasted, corrected
from learner.losses import token_divergence
from learner.objective_config import ContrastConfig, ObjectiveConfig
from learner.teacher_targets import ObjectiveError, TeacherTargets
from omniopsd.config_file import ConfigError
from omniopsd.metrics import read
from omniopsd.train import train
from teacher.pool import TeacherPool
from tests.distances import draw, logs
from tests.run_scene import run_config

N, V, D = 5, 11, 4
KINDS = ("anchored", "reference_only", "wrong_rationale")


def naive(
    kind: str, p: np.ndarray, q: np.ndarray, o: np.ndarray, lam: float, b: float, c: float
) -> np.ndarray:
    rows = []
    for row in range(N):
        if kind == "anchored":
            mass = [o[row, v] * (q[row, v] / o[row, v]) ** lam for v in range(V)]
        else:
            mass = [
                p[row, v] * np.exp(c * np.tanh(np.log(q[row, v] / o[row, v]) / (b * c))) for v in range(V)
            ]
        rows.append([one / sum(mass) for one in mass])
    return np.array(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_that_of_its_formula(kind: str) -> None:
    lp, lq, lo = logs(1, N, V), logs(2, N, V), logs(3, N, V)
    contrast = ContrastConfig(kind=kind, lam=0.3, b=0.7, bound=2.0)  # type: ignore[arg-type]
    wanted = naive(kind, *(one.exp().numpy() for one in (lp, lq, lo)), 0.3, 0.7, 2.0)
    assert contrasted(contrast, lp, lq, lo).exp().numpy() == pytest.approx(wanted, abs=1e-12)


def test_the_ends_of_the_anchor() -> None:
    lq, lo = logs(2, N, V), logs(3, N, V)
    assert torch.allclose(anchored(lq, lo, 1.0), lq) and torch.allclose(anchored(lq, lo, 0.0), lo)


def test_evidence_that_adds_nothing_leaves_the_student_where_it_is() -> None:
    lp, lq = logs(1, N, V), logs(2, N, V)
    assert torch.allclose(corrected(lp, lq, lq, 1.0, 10.0), lp)


def test_a_large_ratio_is_bounded() -> None:
    lq = torch.tensor([[0.999, 0.001]]).double().log()
    lo = torch.tensor([[1e-30, 1 - 1e-30]]).double().log()
    lp = torch.full((1, 2), 0.5).double().log()
    odds = corrected(lp, lq, lo, 1.0, 3.0)
    assert float(odds[0, 0] - odds[0, 1]) <= 6.0 + 1e-9


def targets(hidden: torch.Tensor | None) -> TeacherTargets:
    return TeacherTargets(
        hidden=draw(4, N, D), head_weight=draw(5, V, D), contrast_hidden=hidden, logprobs=draw(6, N)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("divergence", ["jsd", "forward_kl", "reverse_kl"])
def test_the_gradient_is_that_of_a_constant_target(kind: str, divergence: str) -> None:
    """Finite differences with the student's part of the target held where it was."""
    objective = ObjectiveConfig(divergence=divergence, contrast={"kind": kind})  # type: ignore[arg-type]
    logits, ids = draw(7, N, V).requires_grad_(), torch.arange(N)
    teacher = targets(draw(8, N, D))
    token_divergence(objective, logits, teacher, ids).sum().backward()
    lp, head = logits.detach().log_softmax(-1), teacher.head_weight
    assert head is not None and teacher.hidden is not None and teacher.contrast_hidden is not None
    lq, lo = ((rows @ head.T).log_softmax(-1) for rows in (teacher.hidden, teacher.contrast_hidden))
    fixed = contrasted(objective.contrast, lp, lq, lo)  # type: ignore[arg-type]
    plain = objective.model_copy(update={"contrast": None})
    constant = TeacherTargets(
        hidden=fixed, head_weight=torch.eye(V, dtype=torch.float64), logprobs=draw(6, N)
    )
    for at in [(0, 0), (2, 5), (4, 10)]:
        step = torch.zeros(N, V, dtype=torch.float64)
        step[at] = 1e-6
        up, down = (
            token_divergence(plain, logits.detach() + sign * step, constant, ids).sum() for sign in (1, -1)
        )
        assert float(logits.grad[at]) == pytest.approx(float(up - down) / 2e-6, abs=1e-8)  # type: ignore[index]


def test_chunks_change_nothing_and_the_gain_stays_the_privileged_teachers() -> None:
    objective = ObjectiveConfig(contrast={"kind": "wrong_rationale"})  # type: ignore[arg-type]
    teacher, head, hidden = targets(draw(8, N, D)), draw(9, V, D), draw(10, N, D)
    given = (teacher, torch.arange(N), torch.ones(N).double(), objective, None, 1.0)
    whole, cut = (chunked_rows(hidden, lambda rows: rows @ head.T, *given, chunks=n) for n in (1, 3))
    assert torch.allclose(whole.loss, cut.loss)
    plain = chunked_rows(
        hidden, lambda rows: rows @ head.T, *given[:3], ObjectiveConfig(), None, 1.0, chunks=1
    )
    assert torch.equal(whole.teacher_gain, plain.teacher_gain) and not torch.allclose(whole.loss, plain.loss)


def test_a_missing_second_score_is_refused() -> None:
    objective = ObjectiveConfig(contrast={"kind": "anchored"})  # type: ignore[arg-type]
    with pytest.raises(ObjectiveError, match="second context"):
        token_divergence(objective, draw(7, N, V), targets(None), torch.arange(N))


REFUSED = [
    ({"objective": {"contrast": {"kind": "anchored"}, "support": "topk"}}, "whole distributions"),
    (
        {"objective": {"contrast": {"kind": "wrong_rationale"}}, "teacher": {"privilege": "label"}},
        "the right one",
    ),
    (
        {
            "objective": {"contrast": {"kind": "anchored", "partial": "label"}},
            "teacher": {"privilege": "label"},
        },
        "same",
    ),
    ({"objective": {"contrast": {"kind": "anchored", "b": 2.0}}}, "no effect with kind: anchored"),
    (
        {"objective": {"contrast": {"kind": "reference_only", "lam": 2.0}}},
        "no effect with kind: reference_only",
    ),
]


@pytest.mark.parametrize(("sections", "words"), REFUSED)
def test_settings_that_contradict_each_other(sections: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        run_config(tmp_path, **sections)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_asks_the_teacher_twice_and_trains(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    score = TeacherPool.score

    def noted(self, requests):  # type: ignore[no-untyped-def]
        asked.append(
            [(r.context.evidence_id, r.context.sample_id, len(r.context.rendered.media)) for r in requests]
        )
        return score(self, requests)

    monkeypatch.setattr(TeacherPool, "score", noted)
    config = run_config(tmp_path, run={"steps": 2}, objective={"contrast": {"kind": kind}})
    rows = read(train(config).metrics_path)
    assert all(np.isfinite(row["loss"]) and row["loss"] != 0 for row in rows)
    first, second = asked[0][0], asked[1][0]
    assert first[0] == first[1] == second[1] and first[2] > 0
    assert second[2] == (0 if kind == "reference_only" else first[2])
    assert {"anchored": "", "reference_only": first[1]}.get(kind, second[0]) == second[0]
    assert (second[0] != first[1]) == (kind != "reference_only")
