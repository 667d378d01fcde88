"""Labels projected on the wheels: per wheel and clip the sizes of the cluster sets, from which all metrics follow.

Dimensions: W = 5 wheels, N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from omniopsd.bench.lists import Labels, normal_labels
from omniopsd.bench.wheel_files import WHEELS
from omniopsd.bench.words import Level, Row, WordTable

Counts = np.ndarray
Clusters = tuple[frozenset[str], ...]  # one set a wheel


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
    """Counts of every clip of `gold`, in its order.

    Raises KeyError when a clip has no prediction, LoneBracketError on a list that is only "[".
    """
    clusters_of = _projector(table, level)
    all_gold = _candidates(gold.values(), table, level)
    counts = np.zeros((4, WHEELS, len(gold)), dtype=np.int64)
    for at, (name, labels) in enumerate(gold.items()):
        pairs = zip(clusters_of(_key(labels)), clusters_of(_key(predictions[name])), all_gold, strict=True)
        for wheel, (wanted, found, known) in enumerate(pairs):
            counts[:, wheel, at] = len(wanted), len(found), len(wanted & found), len(found & known)
    return Overlaps(
        names=tuple(gold), gold=counts[0], predicted=counts[1], shared=counts[2], candidates=counts[3]
    )


def cluster_sets(rows: Iterable[Row]) -> Clusters:
    """The clusters of several words on each wheel; a word without a cluster there adds none."""
    columns = list(zip(*rows, strict=True)) or [()] * WHEELS
    return tuple(frozenset(column) - {""} for column in columns)


def _projector(table: WordTable, level: Level) -> Callable[[str | tuple[str, ...] | None], Clusters]:
    @cache  # benchmark files repeat the same few lists many times
    def clusters_of(labels: str | tuple[str, ...] | None) -> Clusters:
        return cluster_sets(table.clusters(label, level) for label in normal_labels(labels))

    return clusters_of


def _key(labels: Labels) -> str | tuple[str, ...] | None:
    return labels if labels is None or isinstance(labels, str) else tuple(labels)


def _candidates(gold: Iterable[Labels], table: WordTable, level: Level) -> Clusters:
    """Clusters of the raw gold texts: the official code neither splits nor lower-cases them here."""
    return cluster_sets(table.clusters(text, level) for text in {t for t in gold if isinstance(t, str)})
