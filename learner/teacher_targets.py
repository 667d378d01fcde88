"""What the learner knows of the teacher, row by row, and its full distribution rebuilt from hidden rows.

N   response rows     V   vocabulary     K   top-k     D   hidden width
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

VOCAB_BLOCK = 16384  # head rows cast to float32 at one time


class ObjectiveError(ValueError):
    """An objective that the given teacher targets or temperature cannot serve."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherTargets:
    """What the learner knows of the teacher, for N rows; all empty for `cross_entropy`.

    Full support: `hidden` [N,D] after the final norm and `head_weight` [V,D] of the same teacher
    version; `contrast_hidden` [N,D] the same under a second context. Top-k: `topk_ids` int [N,K]
    (distinct in a row) and `topk_logprobs` [N,K], normalised over the full vocabulary. `logprobs` [N] of
    the sampled ids. Top-k and `logprobs` are at temperature 1.
    Raises ObjectiveError when fields that belong together do not fit.
    """

    hidden: Tensor | None = None
    head_weight: Tensor | None = None
    contrast_hidden: Tensor | None = None
    topk_ids: Tensor | None = None
    topk_logprobs: Tensor | None = None
    logprobs: Tensor | None = None

    def __post_init__(self) -> None:
        for one, two in (("hidden", "head_weight"), ("topk_ids", "topk_logprobs")):
            if (getattr(self, one) is None) != (getattr(self, two) is None):
                raise ObjectiveError(
                    f"teacher targets have only one of {one} and {two}: give both or neither"
                )
        counts = {name: len(value) for name, value in self._by_row().items()}
        if len(set(counts.values())) > 1:
            raise ObjectiveError(f"teacher targets have different numbers of rows: {counts}")

    def rows(self, start: int, stop: int) -> TeacherTargets:
        """The targets of rows `start` to `stop` (exclusive); the head weight is shared."""
        cut = {name: value[start:stop] for name, value in self._by_row().items()}
        return TeacherTargets(head_weight=self.head_weight, **cut)

    def _by_row(self) -> dict[str, Tensor]:
        values = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "head_weight"
        }
        return {name: value for name, value in values.items() if value is not None}


def log_softmax(logits: Tensor, temperature: float = 1.0, vocab_size: int | None = None) -> Tensor:
    """log softmax(logits / tau) over the last axis, [N,V], in float32.

    Rows of the head beyond `vocab_size` are cut off, which is a logit of -inf and no product with it.
    Raises ObjectiveError when the head has fewer rows than `vocab_size`.
    """
    if vocab_size is not None and vocab_size > logits.shape[-1]:
        raise ObjectiveError(f"vocab_size {vocab_size} is above the head's {logits.shape[-1]} rows")
    wide = _wide(logits[..., :vocab_size])
    return torch.log_softmax(wide if temperature == 1.0 else wide / temperature, dim=-1)


def teacher_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden [N,D] @ weight[V,D].T -> [N,V] in float32 without gradient, even under autocast."""
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        rows = _wide(hidden)
        if weight.dtype == rows.dtype:
            return rows @ weight.T
        logits = rows.new_empty(len(rows), len(weight))
        # A float32 copy of a 7B model's whole head would take 2.2 GB beside the chunk.
        for start in range(0, len(weight), VOCAB_BLOCK):
            block = weight[start : start + VOCAB_BLOCK].to(rows.dtype)
            logits[:, start : start + VOCAB_BLOCK] = rows @ block.T
        return logits


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
