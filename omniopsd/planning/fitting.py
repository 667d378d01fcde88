"""Non-negative least squares over a few unknowns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


class FittingError(ValueError):
    """Observations that say nothing."""


def fit_fixed(
    names: Sequence[str], counts: Sequence[Mapping[str, float]], seconds: Sequence[float]
) -> dict[str, float]:
    """Seconds by name, none below 0, such that counts x seconds come nearest to the given seconds.

    Errors count relative to each observation, so short calls weigh as much as long ones. By Lawson and Hanson's
    active set in its simplest form: all subsets of at most a handful of names are tried.
    """
    if not seconds or min(seconds) <= 0:
        raise FittingError(
            f"{len(seconds)} observations, the shortest of {min(seconds, default=0)} s: nothing to fit"
        )
    rows = (
        np.array([[count.get(name, 0.0) for name in names] for count in counts]) / np.array(seconds)[:, None]
    )
    best, least = np.zeros(len(names)), float(len(seconds))
    for mask in range(1, 2 ** len(names)):
        chosen = [at for at in range(len(names)) if mask >> at & 1]
        found, *_ = np.linalg.lstsq(rows[:, chosen], np.ones(len(seconds)), rcond=None)
        if (found < 0).any():
            continue
        error = float(((rows[:, chosen] @ found - 1.0) ** 2).sum())
        if error < least * (1 - 1e-9):
            best, least = np.zeros(len(names)), error
            best[chosen] = found
    return {name: float(value) for name, value in zip(names, best, strict=True)}
