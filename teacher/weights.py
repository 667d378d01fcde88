"""What the teacher's weights are: frozen, live, or a moving average of the student's.

The teachers receive the same push as the rollout engines, and follow it by their own rule; an
average needs no traffic of its own. It is kept in float32: a blend of one part in a thousand is
lost in bfloat16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Rule = Literal["frozen", "live", "ema"]
AVERAGE_FILE = "average.safetensors"


def blend(average: Tensor, new: Tensor, mu: float) -> None:
    """In place and in float32: average <- mu * average + (1 - mu) * new (paper, section 3.3)."""
    average.mul_(mu).add_(new.float(), alpha=1.0 - mu)


def head_digest(head: Tensor) -> str:
    """Content hash (hex) of a head as it is used: type, shape and every byte."""
    content = head.detach().cpu().contiguous()
    text = f"{content.dtype}|{tuple(content.shape)}|".encode()
    return hashlib.blake2b(text + content.view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()


class TeacherWeights:
    """Applies one rule to the parameters of one model."""

    def __init__(self, model: torch.nn.Module, rule: Rule, mu: float) -> None:
        self.rule, self.mu, self.version = rule, mu, 0
        self._parameters = dict(model.named_parameters())
        self._average: dict[str, Tensor] = {}
        if rule == "ema":
            self._average = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def follow(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Take in some of the student's new weights; raises KeyError for an unknown name."""
        for name, new in tensors:
            parameter = self._parameters[name]
            if self.rule == "live":
                parameter.copy_(new)
            elif self.rule == "ema":
                blend(self._average[name], new, self.mu)
                parameter.copy_(self._average[name])

    def save(self, folder: Path) -> None:
        """Write the float32 average, if the rule has one."""
        if self._average:
            save_file(self._average, folder / AVERAGE_FILE)

    @torch.no_grad()
    def load(self, folder: Path, version: int) -> None:
        """Take the average (rule ema) back from a checkpoint and use it."""
        self.version = version
        if not self._average:
            return
        for name, tensor in load_file(folder / AVERAGE_FILE).items():
            self._average[name].copy_(tensor)
            self._parameters[name].copy_(tensor)
