r"""The learner's copy of the teacher's head, which turns the teacher's hidden rows into logits.

Teachers send hidden rows [T,D] instead of logits [T,V], so each rank keeps the head that belongs to
them: it follows the same pushes by the same rule and code as the teacher, and so arrives at the same
bytes. Scores made with any other head are refused by digest.

    push v1 ----> teacher: average <- mu average + (1-mu) new ----> TeacherScore.head_digest
             \--> learner: the same on the head alone         ----> digest(), must be equal
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from teacher.config import TeacherConfig
from teacher.types import TeacherScore
from teacher.weights import FollowedWeight, head_digest

HEAD_FILE = "teacher-head.safetensors"


class ForeignHead(ValueError):
    """Teacher scores that were made with another head than the learner holds."""


class TeacherHead:
    """The head [V,D] in the model's type, with the float32 memory that the teacher's rule may have."""

    def __init__(self, first: Tensor, teacher: TeacherConfig) -> None:
        """`first`: the head that student and teacher start from, in the model's type."""
        self._followed = FollowedWeight(first.detach().clone(), teacher)
        self._digest: str | None = None

    @property
    def weight(self) -> Tensor:
        """The head as it is used."""
        return self._followed.weight

    def to(self, device: torch.device) -> None:
        """Move to where the hidden rows will be."""
        self._followed.to(device)

    def follow(self, published: Tensor) -> None:
        """Take in the head of one push, exactly as the teachers do."""
        self._followed.follow(published)
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
        """Write the head, and the float32 memory if the rule has one."""
        tensors = {"weight": self.weight}
        if self._followed.memory is not None:
            tensors["memory"] = self._followed.memory
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / HEAD_FILE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take the head back from a checkpoint."""
        tensors = load_file(folder / HEAD_FILE)
        self.weight.copy_(tensors["weight"])
        if self._followed.memory is not None:
            self._followed.memory.copy_(tensors["memory"])
        self._digest = None
