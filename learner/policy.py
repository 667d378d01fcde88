"""The student as one module: a micro-batch in, its loss out, so that ZeRO-3 hooks see every weight.

Every rank must run the same modules in the same order, forward and backward, or their collectives
meet wrongly: gloo aborts, NCCL hangs without a word. So each tower runs exactly once in every
micro-batch (on a dummy when there is no such medium, times zero), an empty cell is a dummy pass over
two tokens, and the head is held for all chunks at once by `HeadLoss`, whatever their number.

    PolicyModule(MicroBatch) -> thinker_hidden (towers, language model) -> [N,D]
                             -> HeadLoss (lm_head's weight, chunk by chunk) -> loss, RowOutcome
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from learner.chunked import PolicyTerm, RowOutcome, chunked_rows
from learner.config import LearnerConfig, LoraConfig
from learner.microbatch import MicroBatch, TeacherPass
from learner.teacher_targets import TeacherTargets
from rollout.forward import Thinker, thinker_hidden

ADAPTER = "default"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightSource:
    """One published weight: its thinker name, the parameters it is made of, and how to make it."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    numbers: int
    shape: tuple[int, ...]
    build: Callable[[], Tensor]


class PolicyModule(nn.Module):
    """The thinker with its loss; frozen towers and adapters as the config says."""

    def __init__(self, thinker: Thinker, config: LearnerConfig, vocab_size: int | None = None) -> None:
        """`vocab_size`: entries of the tokenizer; rows of the head beyond it are padding (None: none are)."""
        super().__init__()
        names = [name for name, _ in thinker.named_parameters()]
        _choose_trained(thinker, config)
        if config.gradient_checkpointing:
            _checkpoint_layers(thinker)
        self.thinker = thinker
        self.loss = HeadLoss(thinker.lm_head, vocab_size)
        self.sources = weight_sources(thinker, names)

    def forward(self, micro: MicroBatch) -> tuple[Tensor, RowOutcome | None]:
        """The loss (a sum, with gradient) and what came of each row; None for an empty cell."""
        teacher = [self._frozen_hidden(one) for one in micro.passes]
        hidden = thinker_hidden(self.thinker, micro.pack, micro.features, every_tower=True)
        answer: tuple[Tensor, RowOutcome | None] = self.loss(hidden, micro, teacher)
        return answer

    @torch.no_grad()
    def _frozen_hidden(self, one: TeacherPass) -> Tensor:
        """Hidden rows [N,D] of the first weights: those of now with the adapters off."""
        with adapters_off(self.thinker):
            return thinker_hidden(self.thinker, one.pack, one.features, every_tower=True)


class HeadLoss(nn.Module):
    """The chunked loss, as a module of its own: ZeRO-3 holds the head's weight while it runs."""

    def __init__(self, head: nn.Linear, vocab_size: int | None) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple: as a submodule it would be hooked twice
        self.vocab_size = vocab_size

    @property
    def weight(self) -> Tensor:
        """The head's weight [V,D]; the embedding's too when they are tied."""
        return self._head[0].weight

    def forward(
        self, hidden: Tensor, micro: MicroBatch, colocated: Sequence[Tensor] = ()
    ) -> tuple[Tensor, RowOutcome | None]:
        """`colocated`: hidden rows [N,D] of the learner's own teacher passes, whose head this is too."""
        weight = self.weight
        if micro.empty:
            return 0.0 * linear(hidden, weight).float().sum(), None
        device = hidden.device
        teacher = micro.teacher
        if colocated:
            first, second = (*colocated, None)[:2]
            teacher = TeacherTargets(hidden=first, head_weight=weight.detach(), contrast_hidden=second)
        outcome = chunked_rows(
            hidden,
            lambda rows: linear(rows, weight),
            teacher,
            torch.from_numpy(micro.pack.targets).to(device),
            micro.weights.to(device),
            micro.objective,
            micro.rollout_logprobs.to(device),
            micro.temperature,
            vocab_size=self.vocab_size,
            policy=_on(micro.policy, device),
            uniforms=None if micro.uniforms is None else micro.uniforms.to(device),
            lengths=micro.pack.lengths,
        )
        return outcome.loss, outcome


@contextmanager
def adapters_off(thinker: Thinker) -> Iterator[None]:
    """Forward passes inside are the base model's.

    Not by peft's own `enable_adapters`: it turns the gradients of the adapters off and on as well, under
    DeepSpeed's hooks.
    """
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [module for module in thinker.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def _on(policy: PolicyTerm | None, device: torch.device) -> PolicyTerm | None:
    return None if policy is None else replace(policy, weights=policy.weights.to(device))


def weight_sources(thinker: Thinker, names: Sequence[str]) -> list[WeightSource]:
    """All weights by name, in the order of `names` (taken before adapters were added), adapters merged."""
    from peft.tuners.lora import LoraLayer

    layers = {name: module for name, module in thinker.named_modules() if isinstance(module, LoraLayer)}
    parameters = dict(thinker.named_parameters())
    return [
        _merged(name, layers[owner])
        if (owner := name.rpartition(".")[0]) in layers and name.endswith(".weight")
        else _plain(name, parameters[name if name in parameters else _inside_adapter(name)])
        for name in names
    ]


def _plain(name: str, parameter: nn.Parameter) -> WeightSource:
    return WeightSource(
        name=name,
        parameters=(parameter,),
        numbers=parameter.numel(),
        shape=tuple(parameter.shape),
        build=lambda: parameter.detach(),
    )


def _merged(name: str, layer: Any) -> WeightSource:
    base, down, up = layer.base_layer.weight, layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    scale = layer.scaling[ADAPTER]
    return WeightSource(
        name=name,
        parameters=(base, down, up),
        numbers=base.numel(),
        shape=tuple(base.shape),
        build=lambda: (base.float() + scale * (up.float() @ down.float())).to(base.dtype),
    )


def _inside_adapter(name: str) -> str:
    owner, _, kind = name.rpartition(".")
    return f"{owner}.base_layer.{kind}"


def _choose_trained(thinker: Thinker, config: LearnerConfig) -> None:
    thinker.requires_grad_(config.lora is None)
    for tower, module in (("vision", thinker.visual), ("audio", thinker.audio_tower)):
        if tower in config.freeze:
            module.requires_grad_(False)
    # Never part of the forward pass, so it would never get a gradient.
    thinker.audio_tower.audio_bos_eos_token.requires_grad_(False)
    if config.lora is not None:
        _add_adapters(thinker, config.lora)


def _add_adapters(thinker: Thinker, lora: LoraConfig) -> None:
    import peft

    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0, bias="none"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peft.inject_adapter_in_model(settings, thinker.model, adapter_name=ADAPTER)


def _checkpoint_layers(thinker: Thinker) -> None:
    """Recompute layers in the backward pass; only a layer in training mode does, its parts stay in eval."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    # With early stop: ZeRO-3 gives weights back when a recomputed layer ends, before its backward has run.
    thinker.gradient_checkpointing_enable({"use_reentrant": False, "early_stop": True})
    for module in thinker.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
