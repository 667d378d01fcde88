r"""The learner's copy of the teacher's head, which turns the teacher's hidden rows into logits.

Teachers send hidden rows [T,D] instead of logits [T,V], so each rank keeps the head that belongs to
them: it follows the same pushes by the same rule, blends in float32 as the teacher does, and so
arrives at the same bytes. Scores made with any other head are refused by digest.

    push v1 ----> teacher: average <- mu average + (1-mu) new ----> TeacherScore.head_digest
             \--> learner: the same on the head alone         ----> digest(), must be equal
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from teacher.types import TeacherScore
from teacher.weights import Rule, blend, head_digest

HEAD_FILE = "teacher-head.safetensors"


class ForeignHead(ValueError):
    """Teacher scores that were made with another head than the learner holds."""


class TeacherHead:
    """The head [V,D] in the model's type, over a float32 average when the rule is "ema"."""

    def __init__(self, first: Tensor, rule: Rule, mu: float) -> None:
        """`first`: the head that student and teacher start from, in the model's type."""
        self.rule, self.mu = rule, mu
        self.weight = first.detach().clone()
        self._average = first.detach().float().clone() if rule == "ema" else None
        self._digest: str | None = None

    def to(self, device: torch.device) -> None:
        """Move to where the hidden rows will be."""
        self.weight = self.weight.to(device)
        if self._average is not None:
            self._average = self._average.to(device)

    @torch.no_grad()
    def follow(self, published: Tensor) -> None:
        """Take in the head of one push, exactly as the teachers do."""
        if self.rule == "frozen":
            return
        if self._average is None:
            self.weight.copy_(published)
        else:
            blend(self._average, published, self.mu)
            self.weight.copy_(self._average)
        self._digest = None

    def digest(self) -> str:
        """Content hash (hex) of the head as it is used."""
        if self._digest is None:
            self._digest = head_digest(self.weight)
        return self._digest

    def require_same(self, scores: Sequence[TeacherScore]) -> None:
        """Raises ForeignHead when a score with hidden rows names another head."""
        for score in scores:
            if score.hidden is not None and score.head_digest != self.digest():
                raise ForeignHead(
                    f"{score.rollout_id}: scored by teacher version {score.teacher_version} with head "
                    f"{score.head_digest}, the learner holds {self.digest()}: push the same versions to both"
                )

    def save(self, folder: Path) -> None:
        """Write the head, and the float32 average if the rule has one."""
        tensors = {"weight": self.weight}
        if self._average is not None:
            tensors["average"] = self._average
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / HEAD_FILE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take the head back from a checkpoint."""
        tensors = load_file(folder / HEAD_FILE)
        self.weight.copy_(tensors["weight"])
        if self._average is not None:
            self._average.copy_(tensors["average"])
        self._digest = None
