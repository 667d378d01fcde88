"""Texts that say nearly the same of different samples: MinHash, with an index by bands.

Similarity is Jaccard's over word triples. 64 minima estimate it to about 0.04 at 0.9; 8 bands of 8 rows find
a pair at 0.9 with 99 % and one at 0.5 with 3 %, and the estimate then decides.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

HASHES, BANDS = 64, 8
ROWS = HASHES // BANDS
_SEEDS = np.random.default_rng(20_000).integers(0, 2**64, HASHES, dtype=np.uint64)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def signature(text: str) -> np.ndarray:
    """MinHash of a text's word triples: uint64 [64]."""
    words = re.findall(r"\w+", text.lower())
    triples = {" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))}
    hashed = b"".join(hashlib.blake2b(triple.encode(), digest_size=8).digest() for triple in triples)
    mixed = np.frombuffer(hashed, np.uint64)[:, None] ^ _SEEDS
    for factor in _MIX:  # the finaliser of splitmix64; products wrap
        mixed = (mixed ^ (mixed >> np.uint64(30))) * factor
    return (mixed ^ (mixed >> np.uint64(31))).min(axis=0)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Estimated Jaccard similarity of two signatures."""
    return float((one == other).mean())


class NearDuplicates:
    """The texts so far, each under the id of its sample."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[tuple[str, np.ndarray]] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def find(self, text: str, sample_id: str) -> tuple[str, float] | None:
        """Another sample with nearly this text, and how near; None when there is none."""
        one = signature(text)
        candidates = {at for band in _bands(one) for at in self._bands.get(band, ())}
        for at in sorted(candidates):
            other_id, other = self._texts[at]
            near = similarity(one, other)
            if other_id != sample_id and near >= self._threshold:
                return other_id, near
        return None

    def add(self, text: str, sample_id: str) -> None:
        """Keep a text for later comparisons."""
        one = signature(text)
        for band in _bands(one):
            self._bands.setdefault(band, []).append(len(self._texts))
        self._texts.append((sample_id, one))


def _bands(one: np.ndarray) -> list[tuple[int, bytes]]:
    return [(at, one[at * ROWS : (at + 1) * ROWS].tobytes()) for at in range(BANDS)]
