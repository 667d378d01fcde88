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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from teacher.config import TeacherConfig
from teacher.shards import own_part, part_like, whole_tensors

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
    """Applies one rule to the parameters of one model, by name; to a rank's own parts where they are split.

    A blend of parts is the part of the blend, bit for bit, so pushes and files have whole tensors alone.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], config: TeacherConfig, *, writes: bool = True
    ) -> None:
        """`writes`: whether this rank writes the files; one of a teacher's ranks does."""
        self.config, self.version, self.writes = config, 0, writes
        self._parameters = dict(parameters)
        self._followed = {name: FollowedWeight(own_part(p), config) for name, p in parameters.items()}

    def follow(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Take in some of the student's new weights; raises KeyError for an unknown name."""
        for name, new in tensors:
            self._followed[name].follow(part_like(new, self._parameters[name]))

    def save(self, folder: Path) -> None:
        """Write what a resumed teacher cannot get from the first weights and the student's present ones.

        All ranks of a teacher must save together.
        """
        followed = self._followed.items()
        if self.config.weights == "ema":
            self._write(folder / AVERAGE_FILE, [(n, w.memory) for n, w in followed if w.memory is not None])
        if self.config.weights in COPIES:
            self._write(folder / COPY_FILE, [(n, w.weight.detach()) for n, w in followed])
        if self.writes:
            (folder / VERSION_FILE).write_text(json.dumps({"version": self.version}))

    def _write(self, file: Path, parts: Iterable[tuple[str, Tensor]]) -> None:
        kept = {}
        for name, whole in whole_tensors(parts, self._parameters):
            if self.writes:
                kept[name] = whole.cpu().contiguous()
        if self.writes:
            save_file(kept, file)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take an average (rule ema) or a copy (hard, gated) back from a checkpoint and use it."""
        self.version = int(json.loads((folder / VERSION_FILE).read_text())["version"])
        if self.config.weights == "ema":
            for name, part in self._read(folder / AVERAGE_FILE):
                followed = self._followed[name]
                assert followed.memory is not None
                followed.memory.copy_(part)
                followed.weight.copy_(part)
        if self.config.weights in COPIES:
            for name, part in self._read(folder / COPY_FILE):
                self._followed[name].weight.copy_(part)

    def _read(self, file: Path) -> Iterator[tuple[str, Tensor]]:
        """One tensor at a time: several ranks of one node read the same file."""
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                yield name, part_like(tensors.get_tensor(name), self._parameters[name])
