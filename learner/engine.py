"""DeepSpeed behind a few verbs: forward, backward, step, weights out, state in and out.

The only file that imports deepspeed, and it does so late: `DS_ACCELERATOR` must be set before.

Gradients are sums. A micro-batch's loss is a sum of weighted tokens whose weights already hold the
one global denominator, so the loss is multiplied by the number of ranks (DeepSpeed averages over
them) and never divided by the number of micro-batches: any split gives the same gradient.

    forward(m0) backward(m0)   forward(m1) backward(m1, last=True)   step()
                                                       reduction ends     finite on all ranks? clip, AdamW
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.addresses import interface_of, node_address
from learner.chunked import RowOutcome
from learner.config import LearnerConfig
from learner.microbatch import MicroBatch
from learner.policy import PolicyModule, WeightSource

EPSILON = 1e-8
BUCKET_NUMBERS = 50_000_000
GATHER_NUMBERS = 100_000_000
WHOLE_NUMBERS = 100_000  # ZeRO-3 keeps parameters up to this size whole on every rank
STATE_FILE = "learner-rank{rank}.pt"


class LearnerFault(ValueError):
    """A step that must not change the weights, or a state that does not fit this learner."""


def join_ranks(*, rank: int, ranks: int, host: str, port: int, gpu: bool, timeout_seconds: float) -> None:
    """Make this process one of `ranks`: NCCL on GPUs, gloo on CPUs. One process can join once."""
    deepspeed = _deepspeed(gpu)
    if (interface := interface_of(node_address())) is not None:
        # gloo would take the address of the host's name, which is a loopback one on many machines
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() != ranks:
        raise LearnerFault(
            f"this process already belongs to a group of {torch.distributed.get_world_size()} ranks, "
            f"the learner has {ranks}: start the learner in processes of its own"
        )
    deepspeed.init_distributed(
        dist_backend="nccl" if gpu else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timedelta(seconds=timeout_seconds),
        init_method=f"tcp://{host}:{port}",
        rank=rank,
        world_size=ranks,
    )
    atexit.register(_leave_ranks)


def _leave_ranks() -> None:
    """End the group while Python still stands: a collective thread that outlives it aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _deepspeed(gpu: bool) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpu else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")  # Ray shows each actor only its own GPU
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled on the spot
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)  # DeepSpeed's calls
    return deepspeed


class DeepSpeedEngine:
    """One rank's model and optimizer: ZeRO stage 0 to 3, float32 masters, AdamW, clipping, warm-up."""

    def __init__(self, policy: PolicyModule, config: LearnerConfig, *, dtype: str) -> None:
        """Call `join_ranks` first. `dtype` is "float32" or "bfloat16"; raises LearnerFault."""
        if dtype == "bfloat16" and config.zero_stage == 0:
            raise LearnerFault(
                "learner.zero_stage 0 with model.dtype bfloat16 would add up gradients in bfloat16: "
                "use learner.zero_stage 1, which is the same on one rank, or model.dtype float32"
            )
        self.config, self.policy, self.steps = config, policy, 0
        self.ranks = torch.distributed.get_world_size()
        self.rank = torch.distributed.get_rank()
        self._deepspeed = _deepspeed(bool(config.gpus))
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self._adam = torch.optim.AdamW(
            trained, lr=config.lr, betas=config.betas, eps=EPSILON, weight_decay=config.weight_decay
        )
        self._engine = self._deepspeed.initialize(
            model=policy, optimizer=self._adam, config=_deepspeed_config(config, dtype)
        )[0]
        if config.zero_stage == 3:
            self._deepspeed.zero.register_external_parameter(policy.loss, policy.loss.weight)
        self._finite = True
        self._masters = self._find_masters(trained)

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    def forward(self, micro: MicroBatch, *, last: bool) -> tuple[Tensor, RowOutcome | None]:
        """Loss and rows of one micro-batch; `last` tells that it ends the step."""
        self._engine.set_gradient_accumulation_boundary(last)
        answer: tuple[Tensor, RowOutcome | None] = self._engine(micro)
        return answer

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, a sum over this rank's tokens of the micro-batch."""
        self._finite = self._finite and bool(torch.isfinite(loss.detach()))
        self._engine.backward(loss * self.ranks, scale_wrt_gas=False)

    @torch.no_grad()
    def evaluate(self, micro: MicroBatch) -> RowOutcome:
        """A forward pass for its rows only; all ranks must make it together."""
        outcome: RowOutcome = self._engine.module(micro)[1]
        return outcome

    def agree(self, flag: bool) -> bool:
        """Whether `flag` is true on every rank."""
        value = torch.tensor([1.0 if flag else 0.0], device=self.device)
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MIN)
        return bool(value.item())

    def total(self, counts: Sequence[int]) -> list[int]:
        """Sums of the counts of all ranks."""
        values = torch.tensor(list(counts), dtype=torch.int64, device=self.device)
        torch.distributed.all_reduce(values)
        return [int(value) for value in values]

    def step(self, number: int) -> float:
        """Clip, update, and give the gradient norm before clipping.

        Raises LearnerFault on every rank, weights untouched, when a loss or a gradient of any rank
        is not finite; the learner must then be started again from a checkpoint.
        """
        finite, self._finite = self._finite, True
        if not self.agree(finite):
            raise LearnerFault(f"step {number}: the loss is not finite; weights are unchanged")
        norm = self._full_norm() if self.config.zero_stage == 0 else 0.0
        if not math.isfinite(norm):
            raise LearnerFault(f"step {number}: the gradient norm is {norm}; weights are unchanged")
        for group in self._adam.param_groups:
            group["lr"] = self.learning_rate
        self._engine.step()
        if not self._engine.was_step_applied():
            raise LearnerFault(f"step {number}: the gradient norm is not finite; weights are unchanged")
        self.steps += 1
        return norm if self.config.zero_stage == 0 else float(self._engine.get_global_grad_norm())

    @property
    def learning_rate(self) -> float:
        """Rate of the next step: linear warm-up, then constant or a linear fall to `decay_steps`."""
        warm, end, number = self.config.warmup_steps, self.config.decay_steps, self.steps + 1
        if number <= warm:
            return self.config.lr * number / warm
        return self.config.lr * ((end + 1 - number) / (end - warm) if end else 1.0)

    def weights(self, sources: Sequence[WeightSource]) -> Iterator[tuple[str, Tensor]]:
        """Full tensors by thinker name, in the order of `sources`; call on all ranks, to the end.

        ZeRO-3 shards are gathered group by group and given back; the tensors below stage 3 are the
        model's own, so copy what must outlive the next step.
        """
        for group in _gather_groups(sources):
            with torch.no_grad(), self._gathered(group):
                for source in group:
                    full = source.build()
                    yield source.name, full.clone() if self.config.zero_stage == 3 else full

    def _gathered(self, group: Sequence[WeightSource]) -> Any:
        if self.config.zero_stage < 3:
            return nullcontext()
        parameters = {id(p): p for source in group for p in source.parameters}
        return self._deepspeed.zero.GatheredParameters(list(parameters.values()), modifier_rank=None)

    def save_state(self, folder: str | Path) -> None:
        """This rank's masters, Adam moments, step count and random state, in one file."""
        state = {
            "kind": self._kind(),
            "steps": self.steps,
            "masters": [master.detach().cpu() for master in self._masters],
            "moments": [_cpu(self._adam.state.get(master, {})) for master in self._masters],
            "random": torch.get_rng_state(),
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.save(state, Path(folder) / STATE_FILE.format(rank=self.rank))

    def load_state(self, folder: str | Path) -> None:
        """Take up a saved state; raises LearnerFault when it was made by another kind of learner."""
        file = Path(folder) / STATE_FILE.format(rank=self.rank)
        if not file.is_file():
            raise LearnerFault(f"{file}: no such file; a checkpoint needs one for each rank")
        state = torch.load(file, map_location="cpu", weights_only=True)
        if state["kind"] != self._kind():
            raise LearnerFault(f"{file}: saved by {state['kind']}, this learner is {self._kind()}")
        with torch.no_grad():
            for master, saved, moments in zip(self._masters, state["masters"], state["moments"], strict=True):
                master.copy_(saved)
                self._adam.state[master] = {
                    key: value.to(value.device if value.ndim == 0 else master.device)
                    for key, value in moments.items()
                }
            self._masters_to_weights()
        self.steps = state["steps"]
        torch.set_rng_state(state["random"])

    def _kind(self) -> dict[str, Any]:
        return {
            "ranks": self.ranks,
            "zero_stage": self.config.zero_stage,
            "shards": [list(master.shape) for master in self._masters],
        }

    def _find_masters(self, trained: list[nn.Parameter]) -> list[Tensor]:
        """This rank's float32 weights as AdamW sees them; the name of the list differs by stage."""
        optimizer = self._engine.optimizer
        for name in (
            "single_partition_of_fp32_groups",
            "fp32_groups_flat_partition",
            "fp32_partitioned_groups_flat",
        ):
            if hasattr(optimizer, name):
                return list(getattr(optimizer, name))
        return list(trained)

    def _masters_to_weights(self) -> None:
        """Copy the masters into the model's own weights, as the end of an optimizer step does."""
        optimizer = self._engine.optimizer
        if self.config.zero_stage in (1, 2):
            optimizer.update_lp_params()
        if self.config.zero_stage == 3:
            optimizer._partition_all_parameters()
            for number in range(len(self._masters)):
                optimizer._reassign_or_swap_out_partitioned_parameters(number)
            if optimizer.persistent_parameters:
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def _full_norm(self) -> float:
        """Stage 0: every rank holds all gradients, already reduced."""
        grads = [p.grad for p in self.policy.parameters() if p.grad is not None]
        return (
            float(torch.stack([torch.linalg.vector_norm(g.double()) for g in grads]).norm()) if grads else 0.0
        )


def _deepspeed_config(config: LearnerConfig, dtype: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the worker marks the last micro-batch itself
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": BUCKET_NUMBERS,
            "allgather_bucket_size": BUCKET_NUMBERS,
            "stage3_param_persistence_threshold": WHOLE_NUMBERS,
        },
        "steps_per_print": None,
    }
    if dtype == "bfloat16":
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["communication_data_type"] = "fp32"
    return settings


def _gather_groups(sources: Sequence[WeightSource]) -> Iterator[list[WeightSource]]:
    group: list[WeightSource] = []
    size = 0
    for source in sources:
        if group and size + source.numbers > GATHER_NUMBERS:
            yield group
            group, size = [], 0
        group.append(source)
        size += source.numbers
    if group:
        yield group


def _cpu(moments: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.as_tensor(value).detach().cpu() for key, value in moments.items()}
