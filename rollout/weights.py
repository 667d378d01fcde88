"""Weights on the wire: the form, the digest, the chunks, and what a receiver has seen of one version.

The digest covers name, dtype, shape and bytes of every tensor in the order of sending, so sender and
receiver compute it while the tensors stream by and neither holds the whole model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from rollout.thinker import PREFIX
from rollout.types import WeightReceipt, WeightUpdate, WireTensor

TIED_HEAD = "lm_head.weight"


class WeightFault(RuntimeError):
    """A push of weights that did not arrive whole, or whose receiver holds something else."""


def to_wire(name: str, tensor: torch.Tensor) -> WireTensor:
    """A tensor as bytes; shares memory with a contiguous CPU tensor, so put it away before it changes."""
    plain = tensor.detach().cpu().contiguous()
    return WireTensor(
        name=name,
        dtype=str(plain.dtype).removeprefix("torch."),
        shape=tuple(plain.shape),
        data=plain.reshape(-1).view(torch.uint8).numpy(),
    )


def from_wire(wire: WireTensor) -> torch.Tensor:
    """The tensor again, in memory of its own. Raises WeightFault when the bytes do not fill the shape."""
    dtype = getattr(torch, wire.dtype)
    wanted = int(np.prod(wire.shape, dtype=np.int64)) * dtype.itemsize
    if wire.data.nbytes != wanted:
        raise WeightFault(
            f"{wire.name}: {wire.data.nbytes} bytes arrived, {wire.dtype} {wire.shape} has {wanted}"
        )
    if wanted == 0:  # torch cannot view no bytes as another type
        return torch.empty(wire.shape, dtype=dtype)
    return torch.from_numpy(np.array(wire.data, copy=True)).view(dtype).reshape(wire.shape)


def chunk_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]], chunk_bytes: int
) -> Iterator[list[WireTensor]]:
    """Lists of wire tensors of at most `chunk_bytes`, in order; a larger tensor travels alone."""
    chunk: list[WireTensor] = []
    size = 0
    for name, tensor in tensors:
        wire = to_wire(name, tensor)
        if chunk and size + wire.data.nbytes > chunk_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append(wire)
        size += wire.data.nbytes
    if chunk:
        yield chunk


class WeightDigest:
    """Running hash of a stream of wire tensors; equal on both ends when the streams are equal."""

    def __init__(self) -> None:
        self._state = hashlib.blake2b(digest_size=16)

    def add(self, wire: WireTensor) -> None:
        """Take in the next tensor of the stream."""
        data = np.ascontiguousarray(wire.data)
        head = f"{len(wire.name)}:{wire.name}|{wire.dtype}|{wire.shape}|{data.nbytes}|"
        self._state.update(head.encode())
        self._state.update(data.data)

    def hexdigest(self) -> str:
        """Hash of everything so far (hex, 16 bytes)."""
        return self._state.hexdigest()


class IncomingWeights:
    """What one receiver has seen of one version; `close` is the gate before the version counts."""

    def __init__(self, version: int, expected: frozenset[str], receiver: str = "a receiver") -> None:
        """`expected`: the names that a whole model has (see `weight_names`); errors name the receiver."""
        self.version, self._expected, self._receiver = version, expected, receiver
        self._digest = WeightDigest()
        self._seen: set[str] = set()

    def add(self, wire: WireTensor) -> None:
        """Note one tensor. Raises WeightFault on one that comes twice."""
        if wire.name in self._seen:
            raise WeightFault(f"{self._receiver}: version {self.version}: {wire.name} came twice")
        self._digest.add(wire)
        self._seen.add(wire.name)

    def close(self, version: int, digest: str) -> str:
        """The digest of what came. Raises WeightFault on another version or digest, or a hole."""
        if version != self.version:
            raise WeightFault(
                f"{self._receiver}: version {self.version} was started and version {version} finished"
            )
        missing = sorted(self._expected - self._seen)
        extra = sorted(self._seen - self._expected - {TIED_HEAD})
        if missing or extra:
            raise WeightFault(
                f"{self._receiver}: version {version}: {len(missing)} tensors missing {missing[:3]}, "
                f"{len(extra)} unknown {extra[:3]}"
            )
        mine = self._digest.hexdigest()
        if mine != digest:
            raise WeightFault(
                f"{self._receiver}: version {version}: the weights that came have digest {mine}, sent was {digest}"
            )
        return mine


def require_receipts(receipts: Sequence[WeightReceipt], update: WeightUpdate) -> None:
    """Raises WeightFault naming every receiver that does not hold the update's version and bytes."""
    wrong = [
        f"{receipt.receiver} (version {receipt.version}, digest {receipt.digest})"
        for receipt in receipts
        if (receipt.version, receipt.digest) != (update.version, update.digest)
    ]
    if wrong:
        raise WeightFault(
            f"version {update.version} with digest {update.digest} was pushed, but {', '.join(wrong)} holds another"
        )


def weight_names(model_path: str | Path) -> frozenset[str]:
    """Thinker names of all weights of a model folder, without a tied head; reads headers only."""
    names: set[str] = set()
    for file in sorted(Path(model_path).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names |= {name.removeprefix(PREFIX) for name in tensors.keys() if name.startswith(PREFIX)}  # noqa: SIM118
    config = json.loads((Path(model_path) / "config.json").read_text())
    thinker = config.get("thinker_config", {})
    text = thinker.get("text_config", {})
    if thinker.get("tie_word_embeddings", text.get("tie_word_embeddings", False)):
        names.discard(TIED_HEAD)
    return frozenset(names)
