"""The receiving side of a weight push inside vLLM, through vLLM's own weight-transfer interface.

`object_store` is our engine for it: chunks of wire tensors come in the update info and are loaded in
checkpoint form through vLLM's layer-wise reload. `nccl` is vLLM's own, broadcast from the learner's
rank 0 to every worker of every engine; its client is `rollout.pool.NcclClient`.

Invariant: after `finish_weight_update` every copy of a weight that a kernel reads is the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightSource, WeightTransferEngine
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rollout.thinker import PREFIX
from rollout.types import WireTensor
from rollout.weights import from_wire

OBJECT_STORE = "object_store"


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: the tensors come with each update."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """One chunk, under thinker names."""

    tensors: list[WireTensor]


class ObjectStoreTransfer(WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]):
    """Loads wire tensors that the worker's process was handed."""

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        self.model.load_weights([(PREFIX + wire.name, from_wire(wire)) for wire in update_info.tensors])

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        mend_packed_copies(self.model)

    def shutdown(self) -> None:
        pass


if OBJECT_STORE not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(OBJECT_STORE, ObjectStoreTransfer)


def mend_packed_copies(model: torch.nn.Module) -> None:
    """Pack again what the CPU kernels read for the embedding and the tied head.

    A linear layer drops its weight once packed and is packed anew by the reload (vLLM 0.32). The
    embedding keeps weight and packed copy; the head that is tied to it gets no weights of its own, so
    the reload leaves its copy, and with it every logit, at the old version. Does nothing on GPUs.
    """
    module: Any
    for module in model.modules():
        layer: Any = module
        if hasattr(layer, "cpu_linear") and layer.weight.ndim == 2:
            layer.quant_method.process_weights_after_loading(layer)


class StreamSource(WeightSource):
    """The learner's weights as vLLM's trainer takes them: declared once, streamed anew for each push.

    `shapes` lists the thinker names and full shapes in the order of `stream`; `stream` gives full
    tensors of `dtype` ("float32", "bfloat16") and is a collective of all learner ranks.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[str, tuple[int, ...]]],
        dtype: str,
        stream: Callable[[], Iterator[tuple[str, torch.Tensor]]],
    ) -> None:
        self._stream = stream
        self._metadata = [ParamMeta(PREFIX + name, getattr(torch, dtype), shape) for name, shape in shapes]

    def metadata(self) -> list[ParamMeta]:
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return ((PREFIX + name, tensor) for name, tensor in self._stream())


def nccl_trainer(
    source: WeightSource,
    client: VLLMWeightSyncClient,
    *,
    rank: int,
    address: str,
    port: int,
    receivers: int,
) -> TrainerWeightTransferEngine:
    """The learner's end of an NCCL push; call it, and its `send_weights()`, on every learner rank.

    `source` yields full tensors under "thinker." names; `receivers` counts the GPUs of all engines.
    Rank 0 meets the engines at address:port and drives them through `client`.
    """
    info = NCCLTrainerInitInfo(
        rank=rank, master_address=address, master_port=port, world_size=1 + receivers, packed=True
    )
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
