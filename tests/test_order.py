"""The data order: no sample twice in a step, none twice in an epoch, the same whenever it is asked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniopsd.order import DataOrder, OrderError


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.booleans())
def test_an_epoch_claims_each_sample_at_most_once(
    count: int, per_step: int, seed: int, shuffle: bool
) -> None:
    if per_step > count:
        with pytest.raises(OrderError, match="samples_per_step"):
            DataOrder(count, per_step=per_step, seed=seed, shuffle=shuffle)
        return
    order = DataOrder(count, per_step=per_step, seed=seed, shuffle=shuffle)
    steps = [order.claim(step) for step in range(1, 2 * order.steps_per_epoch + 1)]
    for epoch in (steps[: order.steps_per_epoch], steps[order.steps_per_epoch :]):
        claimed = [position for step in epoch for position in step]
        assert len(set(claimed)) == len(claimed) == order.steps_per_epoch * per_step
    fresh = DataOrder(count, per_step=per_step, seed=seed, shuffle=shuffle)
    assert [fresh.claim(step) for step in range(len(steps), 0, -1)] == steps[::-1]


def test_epochs_and_seeds_differ() -> None:
    one, two = (DataOrder(50, per_step=50, seed=seed, shuffle=True) for seed in (0, 1))
    assert one.claim(1) != one.claim(2) != two.claim(2)
    assert DataOrder(50, per_step=50, seed=0, shuffle=False).claim(3) == list(range(50))
