"""The teacher's head on the learner's side goes the teacher's way, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from learner.head import ForeignHead, TeacherHead
from teacher.config import TeacherConfig
from teacher.types import TeacherRule, TeacherScore
from teacher.weights import TeacherWeights, head_digest


def pushes(dtype: torch.dtype, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(7, 5, generator=generator).to(dtype) for _ in range(count + 1)]


def config(rule: str, ema: float = 0.9) -> TeacherConfig:
    return TeacherConfig(weights=rule, ema=ema)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", get_args(TeacherRule))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_has_the_digest_of_a_teacher_that_got_the_same_pushes(rule: str, dtype: torch.dtype) -> None:
    first, *later = pushes(dtype)
    model = torch.nn.Linear(5, 7, bias=False)
    model.weight = torch.nn.Parameter(first.clone(), requires_grad=False)
    teacher, head = (
        TeacherWeights(dict(model.named_parameters()), config(rule)),
        TeacherHead(first, config(rule)),
    )
    for new in later:
        if rule != "frozen":
            teacher.follow([("weight", new)])
        head.follow(new)
        assert head.digest() == head_digest(model.weight)
    assert (head.digest() == head_digest(first)) == (rule == "frozen")


def test_the_average_is_float32_below_a_bfloat16_head() -> None:
    first = torch.ones(2, 2, dtype=torch.bfloat16)
    head = TeacherHead(first, config("ema", 0.999))
    for _ in range(20):  # each step moves by 0.001, less than bfloat16 can hold at 1
        head.follow(torch.full_like(first, 2.0))
    assert head.weight.float() == pytest.approx(1 + (1 - 0.999**20), abs=0.005)
    assert head.weight.float().min() > 1.0


def test_a_checkpoint_brings_back_average_and_digest(tmp_path: Path) -> None:
    first, second, third, _ = pushes(torch.bfloat16)
    head = TeacherHead(first, config("ema"))
    head.follow(second)
    head.save(tmp_path)
    again = TeacherHead(first, config("ema"))
    again.load(tmp_path)
    assert again.digest() == head.digest()
    head.follow(third)
    again.follow(third)
    assert again.digest() == head.digest()


def test_hidden_rows_of_another_head_are_refused() -> None:
    first, second, *_ = pushes(torch.float32)
    score = TeacherScore(
        rollout_id="s1-0",
        teacher_version=4,
        head_digest=head_digest(second),
        logprobs=np.zeros(1, np.float32),
        topk_ids=None,
        topk_logprobs=None,
        hidden=np.zeros((1, 5), np.float32),
    )
    with pytest.raises(ForeignHead, match="s1-0.*version 4"):
        TeacherHead(first, config("live")).require_same([score])
    TeacherHead(second, config("live")).require_same([score])
