"""Labels projected on the wheels: per wheel and clip the sizes of the cluster sets, from which all metrics follow.

Dimensions: W = 5 wheels, N clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from omniopsd.bench.lists import Labels
from omniopsd.bench.words import Level, WordTable

Counts = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """int64 [W, N] each: clusters of the gold labels, of the prediction, of both (`shared`), and of the
    prediction among those of all raw gold labels of the set (`candidates`, what `mscore` divides by).
    A clip with `gold == 0` on a wheel does not count there.
    """

    names: tuple[str, ...]
    gold: Counts
    predicted: Counts
    shared: Counts
    candidates: Counts

    def take(self, indices: np.ndarray) -> Overlaps:
        """The same counts for chosen clips, repeats allowed: a bootstrap sample."""
        return Overlaps(
            names=tuple(self.names[index] for index in indices),
            gold=self.gold[:, indices],
            predicted=self.predicted[:, indices],
            shared=self.shared[:, indices],
            candidates=self.candidates[:, indices],
        )


def project(
    gold: Mapping[str, Labels], predictions: Mapping[str, Labels], table: WordTable, level: Level = 1
) -> Overlaps:
    """Counts of every clip of `gold`, in its order. Raises KeyError when a clip has no prediction."""
    raise NotImplementedError
