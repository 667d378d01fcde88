"""Traffic and seconds of a weight push. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omniopsd.config import RunConfig
from omniopsd.planning.estimate import Estimate, Known, estimate
from omniopsd.planning.memory import BYTES
from omniopsd.planning.model_shape import ModelShape
from omniopsd.planning.rates import Links

EMA_BYTES = 12
"""A float32 average reads itself and writes itself, and the weight is read, cast and written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """`size` of one version, bytes over the network for all receivers, and seconds of the three parts."""

    size: Estimate
    traffic: Estimate
    publish: Estimate
    engine: Estimate
    teacher: Estimate | None
    probe: Estimate


def push(config: RunConfig, shape: ModelShape, links: Links, nodes: int, follows: bool) -> Push:
    """`nodes`: receiving nodes other than the sender's; `follows`: whether teachers take it in."""
    size = estimate("push", "bytes", "N * b", N=shape.parameters, b=BYTES[config.model.dtype])
    traffic = estimate("push traffic", "bytes", "size * nodes", size=size.known, nodes=nodes)
    if links.push is not None:
        return _measured(size, traffic, links, nodes, follows)
    if config.weights.transport == "nccl":
        link = links.network if nodes else links.gpus
        sent = estimate("publish", "seconds", "size / link", "one broadcast", size=size.known, link=link)
        none = estimate("engine update", "seconds", "0")
        return Push(
            size=size,
            traffic=traffic,
            publish=sent,
            engine=none,
            teacher=none if follows else None,
            probe=none,
        )
    publish = estimate(
        "publish",
        "seconds",
        "size / host + size / hashing",
        "gathered, copied to the host and hashed by rank 0",
        size=size.known,
        host=links.host,
        hashing=links.hashing,
    )
    formula = "size / host + size / hashing" + (" + rounds * size / network" if nodes else "")
    engine = estimate(
        "engine update",
        "seconds",
        formula,
        "nodes that have it pass it on, so rounds double; hashed and loaded by every receiver at the same time",
        size=size.known,
        rounds=rounds(nodes),
        host=links.host,
        hashing=links.hashing,
        network=links.network,
    )
    return Push(
        size=size,
        traffic=traffic,
        publish=publish,
        engine=engine,
        teacher=engine if follows else None,
        probe=estimate("probe", "seconds", "two_calls", two_calls=Known(value=0.1, source="assumption")),
    )


def _measured(size: Estimate, traffic: Estimate, links: Links, nodes: int, follows: bool) -> Push:
    assert links.push is not None  # the caller has looked

    def part(name: str, key: str) -> Estimate:
        assert links.push is not None
        network = " + rounds * size / network" if nodes and key != "publish" else ""
        zero = Known(value=0.0, source="measured")
        return estimate(
            name,
            "seconds",
            f"fixed + size * per_byte{network}",
            size=size.known,
            rounds=rounds(nodes),
            fixed=links.push.get(f"{key}_call", zero),
            per_byte=links.push.get(f"{key}_byte", zero),
            network=links.network,
        )

    return Push(
        size=size,
        traffic=traffic,
        publish=part("publish", "publish"),
        engine=part("engine update", "engine"),
        teacher=part("teacher update", "teacher") if follows else None,
        probe=part("probe", "probe"),
    )


def rounds(nodes: int) -> int:
    """Rounds in which one holder of a push becomes 1 + `nodes` holders, each passing it on once a round."""
    return math.ceil(math.log2(nodes + 1))
