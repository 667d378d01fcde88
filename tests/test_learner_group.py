"""Reports of ranks become one result; weights are cut into chunks that are known beforehand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from learner.engine import LearnerFault
from learner.group import merge
from learner.policy import WeightSource
from learner.publish import Publication, PublishError, chunk_cuts
from learner.types import StepPlan, StepReport
from rollout.weights import WeightDigest, chunk_tensors

PLAN = StepPlan(step=3, cells=(((0,),), ((1,),)), tokens=10, sequences=3)


def report(rank: int, tokens: int, sequences: int, **sums: float) -> StepReport:
    return StepReport(
        rank=rank,
        version=4,
        loss=0.25 * (rank + 1),
        grad_norm=2.0,
        sums=sums,
        tokens=tokens,
        sequences=sequences,
        media_use={f"s{rank}": ()},
        seconds=1.0 + rank,
        peak_bytes=100 - rank,
    )


def source(name: str, numbers: int) -> WeightSource:
    tensor = torch.arange(numbers, dtype=torch.float32)
    return WeightSource(name=name, parameters=(), numbers=numbers, shape=(numbers,), build=lambda: tensor)


def test_uneven_ranks_are_divided_once_by_the_tokens_of_both() -> None:
    first = report(0, 8, 2, divergence=8.0, truncated=1.0, divergence_bin_0=2.0, tokens_bin_0=4.0)
    second = report(1, 2, 1, divergence=4.0, truncated=1.0, divergence_bin_0=1.0, tokens_bin_0=2.0)
    result = merge([first, second], PLAN)
    assert result.means == {"divergence": 1.2, "truncated": 2.0, "divergence_bin_0": 0.5}
    assert (result.loss, result.grad_norm, result.version) == (0.75, 2.0, 4)
    assert (result.tokens, result.sequences, result.seconds, result.peak_bytes) == (10, 3, 2.0, 100)
    assert set(result.media_use) == {"s0", "s1"}


def test_ranks_that_disagree_with_the_plan_or_each_other_are_refused() -> None:
    with pytest.raises(LearnerFault, match="9 tokens in 3 sequences.*divided by 10 in 3"):
        merge([report(0, 8, 2), report(1, 1, 1)], PLAN)
    other = dataclasses.replace(report(1, 2, 1), version=5)
    with pytest.raises(LearnerFault, match=r"versions \[4, 5\]"):
        merge([report(0, 8, 2), other], PLAN)


@pytest.mark.parametrize("chunk_bytes", [1, 40, 100, 10_000])
def test_cuts_are_those_of_the_wire(chunk_bytes: int) -> None:
    sources = [source(f"w{at}", numbers) for at, numbers in enumerate([3, 30, 1, 1, 9, 12])]
    whole = [(one.name, one.build()) for one in sources]
    cuts = chunk_cuts(sources, 4, chunk_bytes)
    assert [one for start, stop in cuts for one in sources[start:stop]] == sources
    wanted = [[wire.name for wire in chunk] for chunk in chunk_tensors(whole, chunk_bytes)]
    assert [[one.name for one in sources[start:stop]] for start, stop in cuts] == wanted


def test_a_publication_goes_in_order_and_to_its_end() -> None:
    sources = [source("a", 2), source("b", 3)]
    publication = Publication(7, chunk_cuts(sources, 4, 8))
    with pytest.raises(PublishError, match="version 7: chunk 1 asked for, 0 is next"):
        publication.span(1)
    digest = WeightDigest()
    for index, one in enumerate(sources):
        assert publication.span(index) == (index, index + 1)
        for wire in publication.pack([(one.name, one.build())]):
            digest.add(wire)
        if index == 0:
            with pytest.raises(PublishError, match="1 of 2 chunks"):
                publication.digest()
    assert publication.digest() == digest.hexdigest()
