"""What the teacher's weights are: frozen, live, an average, copies, or a point near the first ones.

The teachers receive the same push as the rollout engines, and follow it by their own rule; no rule
needs traffic of its own. When a push concerns the teachers at all is `teacher.refresh`'s to say: the
rules `live`, `hard` and `gated` differ in that alone, and each takes in what it is given.

    rule           memory (float32)     after a push of theta
    frozen         -                    (never pushed)
    live           -                    theta
    hard, gated    -                    theta
    ema            the average          memory <- mu memory + (1 - mu) theta; memory
    trust_region   the first weights    memory + trust (theta - memory)

The memory is float32: a blend of one part in a thousand is lost in bfloat16.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from teacher.config import TeacherConfig

AVERAGE_FILE = "average.safetensors"
COPY_FILE = "copy.safetensors"
VERSION_FILE = "version.json"
COPIES = ("hard", "gated")


def blend(average: Tensor, new: Tensor, mu: float) -> None:
    """In place and in float32: average <- mu * average + (1 - mu) * new (paper, section 3.3)."""
    average.mul_(mu).add_(new.float(), alpha=1.0 - mu)


def head_digest(head: Tensor) -> str:
    """Content hash (hex) of a head as it is used: type, shape and every byte."""
    content = head.detach().cpu().contiguous()
    text = f"{content.dtype}|{tuple(content.shape)}|".encode()
    return hashlib.blake2b(text + content.view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()


class FollowedWeight:
    """One weight under a rule: `weight` in the model's type, over a float32 memory where the rule has one."""

    def __init__(self, weight: Tensor, config: TeacherConfig) -> None:
        self.weight, self.config = weight, config
        remembers = config.weights in ("ema", "trust_region")
        self.memory = weight.detach().float().clone() if remembers else None

    @torch.no_grad()
    def follow(self, new: Tensor) -> None:
        """Take in the student's new value; teacher and learner arrive at the same bytes."""
        rule = self.config.weights
        if rule == "frozen":
            return
        if self.memory is None:
            self.weight.copy_(new)
        elif rule == "ema":
            blend(self.memory, new, self.config.ema)
            self.weight.copy_(self.memory)
        else:
            self.weight.copy_(self.memory.lerp(new.float(), self.config.trust))

    def to(self, device: torch.device) -> None:
        """Move both."""
        self.weight = self.weight.to(device)
        self.memory = self.memory.to(device) if self.memory is not None else None


class TeacherWeights:
    """Applies one rule to the parameters of one model, by name."""

    def __init__(self, parameters: Mapping[str, Tensor], config: TeacherConfig) -> None:
        self.config, self.version = config, 0
        self._followed = {name: FollowedWeight(p, config) for name, p in parameters.items()}

    def follow(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Take in some of the student's new weights; raises KeyError for an unknown name."""
        for name, new in tensors:
            self._followed[name].follow(new)

    def save(self, folder: Path) -> None:
        """Write what a resumed teacher cannot get from the first weights and the student's present ones."""
        if self.config.weights == "ema":
            average = {name: w.memory for name, w in self._followed.items() if w.memory is not None}
            save_file(average, folder / AVERAGE_FILE)
        if self.config.weights in COPIES:
            copies = {name: w.weight.detach().contiguous() for name, w in self._followed.items()}
            save_file(copies, folder / COPY_FILE)
        (folder / VERSION_FILE).write_text(json.dumps({"version": self.version}))

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take an average (rule ema) or a copy (hard, gated) back from a checkpoint and use it."""
        self.version = int(json.loads((folder / VERSION_FILE).read_text())["version"])
        if self.config.weights == "ema":
            for name, tensor in load_file(folder / AVERAGE_FILE).items():
                followed = self._followed[name]
                assert followed.memory is not None
                followed.memory.copy_(tensor)
                followed.weight.copy_(tensor)
        if self.config.weights in COPIES:
            for name, tensor in load_file(folder / COPY_FILE).items():
                self._followed[name].weight.copy_(tensor)
