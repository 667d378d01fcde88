"""The learner's side of a weight push: full tensors, cut into chunks, with one digest over all.

All ranks take part in every chunk (ZeRO-3 gathers), rank 0 keeps it. The cut is known before the
first tensor is gathered, so the driver can ask for chunk after chunk while receivers already read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from learner.policy import WeightSource
from rollout.types import WireTensor
from rollout.weights import WeightDigest, to_wire


class PublishError(ValueError):
    """Chunks of one version asked for out of order."""


def chunk_cuts(sources: Sequence[WeightSource], item_bytes: int, chunk_bytes: int) -> list[tuple[int, int]]:
    """Spans of `sources` of at most `chunk_bytes` each; a larger tensor travels alone."""
    cuts: list[tuple[int, int]] = []
    start = size = 0
    for at, source in enumerate(sources):
        own = source.numbers * item_bytes
        if at > start and size + own > chunk_bytes:
            cuts.append((start, at))
            start, size = at, 0
        size += own
    return [*cuts, (start, len(sources))] if sources else cuts


class Publication:
    """One version on its way out."""

    def __init__(self, version: int, cuts: Sequence[tuple[int, int]]) -> None:
        self.version, self.cuts = version, cuts
        self._next = 0
        self._digest = WeightDigest()

    def span(self, index: int) -> tuple[int, int]:
        """The sources of chunk `index`; raises PublishError unless it is the next one."""
        if index != self._next:
            raise PublishError(f"version {self.version}: chunk {index} asked for, {self._next} is next")
        self._next += 1
        return self.cuts[index]

    def pack(self, tensors: Iterable[tuple[str, Tensor]]) -> list[WireTensor]:
        """Wire form of one chunk, taken into the digest."""
        wires = [to_wire(name, tensor) for name, tensor in tensors]
        for wire in wires:
            self._digest.add(wire)
        return wires

    def digest(self) -> str:
        """Hash over all chunks; raises PublishError while some are missing."""
        if self._next != len(self.cuts):
            raise PublishError(f"version {self.version}: {self._next} of {len(self.cuts)} chunks were sent")
        return self._digest.hexdigest()
