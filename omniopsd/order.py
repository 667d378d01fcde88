"""Which samples a step claims: a pure function of seed and step, so that there is no cursor to lose."""

from __future__ import annotations

import random


class DataOrder:
    """Epochs of a seeded permutation, end to end; step s takes the next `per_step` of them."""

    def __init__(self, count: int, *, per_step: int, seed: int, shuffle: bool) -> None:
        self.count, self.per_step, self.seed, self.shuffle = count, per_step, seed, shuffle
        self._epochs: dict[int, list[int]] = {}

    def claim(self, step: int) -> list[int]:
        """Sample positions of step 1, 2, ...; the same whenever it is asked."""
        first = (step - 1) * self.per_step
        return [self._at(position) for position in range(first, first + self.per_step)]

    def _at(self, position: int) -> int:
        epoch, index = divmod(position, self.count)
        if epoch not in self._epochs:
            order = list(range(self.count))
            if self.shuffle:
                random.Random(f"{self.seed}/{epoch}").shuffle(order)
            self._epochs = {key: value for key, value in self._epochs.items() if key >= epoch - 1}
            self._epochs[epoch] = order
        return self._epochs[epoch][index]
