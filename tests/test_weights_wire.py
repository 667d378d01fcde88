"""The wire form of weights, the digest over a stream, and the gate before a version counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rollout.types import WeightReceipt, WeightUpdate, WireTensor
from rollout.weights import (
    IncomingWeights,
    WeightDigest,
    WeightFault,
    chunk_tensors,
    from_wire,
    require_receipts,
    to_wire,
    weight_names,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0, 4)])
def test_a_tensor_survives_the_wire(dtype, shape):
    tensor = (torch.randn(shape) * 9).to(dtype)
    back = from_wire(to_wire("a.weight", tensor))
    assert back.dtype == dtype and back.shape == tensor.shape and torch.equal(back, tensor)


def test_a_view_is_sent_as_it_looks():
    tensor = torch.arange(12.0).reshape(3, 4).t()[1:]
    assert torch.equal(from_wire(to_wire("t", tensor)), tensor)


def test_read_only_bytes_give_a_tensor_of_its_own():
    wire = to_wire("t", torch.zeros(3))
    wire.data.flags.writeable = False
    from_wire(wire).add_(1)
    assert from_wire(wire).sum() == 0


def test_bytes_that_do_not_fill_the_shape_are_refused():
    wire = WireTensor(name="w", dtype="float32", shape=(4,), data=np.zeros(12, np.uint8))
    with pytest.raises(WeightFault, match="w: 12 bytes arrived, float32 .* has 16"):
        from_wire(wire)


def test_chunks_keep_the_order_and_the_limit():
    tensors = [(f"t{i}", torch.zeros(n)) for i, n in enumerate([3, 3, 10, 1, 1, 1])]
    chunks = [[wire.name for wire in chunk] for chunk in chunk_tensors(tensors, 24)]
    assert chunks == [["t0", "t1"], ["t2"], ["t3", "t4", "t5"]]
    assert list(chunk_tensors([], 24)) == []


def test_the_digest_sees_every_part_of_a_tensor_and_the_order():
    def digest(*wires: WireTensor) -> str:
        state = WeightDigest()
        for wire in wires:
            state.add(wire)
        return state.hexdigest()

    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    base = digest(to_wire("a", zero), to_wire("b", one))
    assert base == digest(to_wire("a", zero.clone()), to_wire("b", one.clone()))
    flipped = one.clone()
    flipped[1, 2] = 1.0000001
    others = [
        (to_wire("b", one), to_wire("a", zero)),
        (to_wire("A", zero), to_wire("b", one)),
        (to_wire("a", zero.t()), to_wire("b", one)),
        (to_wire("a", zero.to(torch.int32)), to_wire("b", one)),
        (to_wire("a", zero), to_wire("b", flipped)),
        (to_wire("a", zero),),
    ]
    assert len({base, *(digest(*wires) for wires in others)}) == 1 + len(others)


class TestIncoming:
    names = frozenset({"a", "b"})

    def receive(self, *names: str) -> tuple[IncomingWeights, str]:
        incoming, digest = IncomingWeights(3, self.names, "rollout-1"), WeightDigest()
        for name in names:
            incoming.add(to_wire(name, torch.ones(2)))
            digest.add(to_wire(name, torch.ones(2)))
        return incoming, digest.hexdigest()

    def test_a_whole_version_passes(self):
        for names in (("a", "b"), ("b", "a"), ("a", "b", "lm_head.weight")):
            incoming, digest = self.receive(*names)
            assert incoming.close(3, digest) == digest

    @pytest.mark.parametrize(
        ("names", "version", "digest", "words"),
        [
            (("a",), 3, None, r"rollout-1: version 3: 1 tensors missing \['b'\]"),
            (("a", "b", "c"), 3, None, r"1 unknown \['c'\]"),
            (("a", "b"), 4, None, "version 3 was started and version 4 finished"),
            (("a", "b"), 3, "f00", "sent was f00"),
        ],
    )
    def test_anything_else_does_not(self, names, version, digest, words):
        incoming, mine = self.receive(*names)
        with pytest.raises(WeightFault, match=words):
            incoming.close(version, digest or mine)

    def test_a_tensor_twice_is_refused(self):
        with pytest.raises(WeightFault, match="rollout-1: version 3: a came twice"):
            self.receive("a", "a")


def test_receipts_must_name_version_and_digest():
    update = WeightUpdate(version=2, chunks=(), digest="d")
    good = WeightReceipt(receiver="rollout-0", version=2, digest="d")
    require_receipts([good, good], update)
    for bad in (
        WeightReceipt(receiver="rollout-1", version=1, digest="d"),
        WeightReceipt(receiver="rollout-1", version=2, digest="x"),
    ):
        with pytest.raises(WeightFault, match="rollout-1"):
            require_receipts([good, bad], update)


@pytest.mark.parametrize("tied", [True, False])
def test_the_names_of_a_folder(tmp_path: Path, tied: bool):
    tensors = {
        "thinker.model.a": torch.ones(1),
        "thinker.lm_head.weight": torch.ones(1),
        "talker.b": torch.ones(1),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    text = '{"thinker_config": {"tie_word_embeddings": %s}}' % ("true" if tied else "false")
    (tmp_path / "config.json").write_text(text)
    assert weight_names(tmp_path) == ({"model.a"} if tied else {"model.a", "lm_head.weight"})
