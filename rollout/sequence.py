"""All index arithmetic: groups of responses packed behind their shared prefix.

One group is laid out as `[prefix][response 1]...[response G]`. A token sees the tokens of its own
group that come before it and belong to the prefix or to its own response (a tree mask), and every
response starts at the position right after the prefix, so each one is scored as if it stood alone.
The prefix, with its media, is computed once for all G responses.

    R   rows of the pack     L   tokens of a row     N   response tokens of the pack     G   responses

    example: prefix a b c, responses x y and z         group  0 0 0 0 0 0
                                                       branch 0 0 0 1 1 2
        a b c x y z                                    row of x: 2   of y: 3   of z: 2

Packed: R = 1, groups end to end, no padding. Padded: one row for each group, filled with group -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PAD_GROUP = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """One group to be packed: `prefix_ids` int [P], `positions` int64 [3,P], responses int [T] each."""

    prefix_ids: np.ndarray
    positions: np.ndarray
    responses: tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Token ids, positions and the tree, with the rows that predict the response tokens.

    `token_ids` int64 [R,L]; `positions` int64 [3,R,L]; `group` and `branch` int32 [R,L];
    `rows` int64 [N] into the flat R*L: `rows[n]` predicts `targets[n]`; `lengths` (T of every
    response, group by group, in the order in which the N tokens stand).
    """

    token_ids: np.ndarray
    positions: np.ndarray
    group: np.ndarray
    branch: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    lengths: tuple[int, ...]

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Cut an array over the N response tokens into one array for each response."""
        if len(values) != len(self.targets):
            raise ValueError(f"{len(values)} values for a pack of {len(self.targets)} response tokens")
        return np.split(values, np.cumsum(self.lengths)[:-1]) if self.lengths else []


def pack_groups(groups: Sequence[Branches], *, packed: bool = True) -> Pack:
    """Lay groups out in one row (packed) or in one row each (padded)."""
    laid = [_lay_out(group) for group in groups]
    width = sum(len(ids) for ids, *_ in laid) if packed else max(len(ids) for ids, *_ in laid)
    rows = 1 if packed else len(laid)
    token_ids = np.zeros((rows, width), np.int64)
    positions = np.zeros((3, rows, width), np.int64)
    group = np.full((rows, width), PAD_GROUP, np.int32)
    branch = np.zeros((rows, width), np.int32)
    predict: list[np.ndarray] = []
    offset = 0
    for number, (ids, where, branches, local_rows) in enumerate(laid):
        row, start = (0, offset) if packed else (number, 0)
        span = slice(start, start + len(ids))
        token_ids[row, span] = ids
        positions[:, row, span] = where
        group[row, span] = number
        branch[row, span] = branches
        predict.append(local_rows + row * width + start)
        offset += len(ids)
    responses = [response for one in groups for response in one.responses]
    return Pack(
        token_ids=token_ids,
        positions=positions,
        group=group,
        branch=branch,
        rows=np.concatenate(predict),
        targets=np.concatenate([np.asarray(r, np.int64) for r in responses])
        if responses
        else np.zeros(0, np.int64),
        lengths=tuple(len(response) for response in responses),
    )


def _lay_out(group: Branches) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids [L], positions [3,L], branch [L] and predicting rows [sum T] of one group, from 0."""
    prefix = len(group.prefix_ids)
    after = int(group.positions.max()) + 1
    ids, where = [np.asarray(group.prefix_ids, np.int64)], [np.asarray(group.positions, np.int64)]
    branch, rows = [np.zeros(prefix, np.int32)], [np.zeros(0, np.int64)]
    start = prefix
    for number, response in enumerate(group.responses, start=1):
        length = len(response)
        steps = np.arange(length, dtype=np.int64)
        ids.append(np.asarray(response, np.int64))
        where.append(np.broadcast_to(after + steps, (3, length)))
        branch.append(np.full(length, number, np.int32))
        rows.append(np.where(steps == 0, prefix - 1, start + steps - 1))
        start += length
    return np.concatenate(ids), np.concatenate(where, axis=1), np.concatenate(branch), np.concatenate(rows)
