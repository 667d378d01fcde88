"""Which samples a step claims: a pure function of seed and step, so that there is no cursor to lose."""

from __future__ import annotations

import random


class OrderError(ValueError):
    """More samples asked for in one step than the data has."""


class DataOrder:
    """Epochs of a seeded permutation; a step never claims a sample twice.

    When the data is no multiple of a step, the last few of each epoch's permutation wait for another
    epoch, whose permutation differs.
    """

    def __init__(self, count: int, *, per_step: int, seed: int, shuffle: bool) -> None:
        """Raises OrderError when one step needs more samples than there are."""
        if per_step > count:
            raise OrderError(
                f"run.samples_per_step is {per_step} and data.train has {count} samples: lower it, or add data"
            )
        self.count, self.per_step, self.seed, self.shuffle = count, per_step, seed, shuffle
        self.steps_per_epoch = count // per_step
        self._epoch, self._order = -1, list(range(count))

    def claim(self, step: int) -> list[int]:
        """Sample positions of step 1, 2, ...; the same whenever it is asked."""
        epoch, within = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self.count))
            if self.shuffle:
                random.Random(f"{self.seed}/{epoch}").shuffle(self._order)
        first = within * self.per_step
        return self._order[first : first + self.per_step]
