"""The packed layout: rows, positions and the tree, against the layout written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rollout.sequence import PAD_GROUP, Branches, pack_groups


def group(prefix: list[int], *responses: list[int], start: int = 0) -> Branches:
    positions = np.broadcast_to(np.arange(start, start + len(prefix)), (3, len(prefix)))
    return Branches(
        prefix_ids=np.array(prefix), positions=positions, responses=tuple(np.array(r) for r in responses)
    )


def test_the_worked_example_of_the_docstring() -> None:
    pack = pack_groups([group([10, 11, 12], [20, 21], [30])])
    assert pack.token_ids.tolist() == [[10, 11, 12, 20, 21, 30]]
    assert pack.branch.tolist() == [[0, 0, 0, 1, 1, 2]]
    assert pack.rows.tolist() == [2, 3, 2]
    assert pack.targets.tolist() == [20, 21, 30]
    assert pack.positions[0].tolist() == [[0, 1, 2, 3, 4, 3]]


def test_responses_start_after_the_largest_position_of_the_prefix() -> None:
    positions = np.array([[0, 50, 2], [0, 1, 2], [0, 1, 2]])
    one = Branches(prefix_ids=np.arange(3), positions=positions, responses=(np.array([7, 8]),))
    assert pack_groups([one]).positions[:, 0, 3:].tolist() == [[51, 52]] * 3


def test_padded_rows_hold_one_group_each_and_predict_the_same_targets() -> None:
    groups = [group([1, 2], [3]), group([4, 5, 6], [7, 8], [9])]
    packed, padded = pack_groups(groups), pack_groups(groups, packed=False)
    assert padded.token_ids.shape == (2, 6)
    assert padded.group[0].tolist() == [0, 0, 0, PAD_GROUP, PAD_GROUP, PAD_GROUP]
    assert padded.targets.tolist() == packed.targets.tolist() == [3, 7, 8, 9]
    flat = padded.token_ids.reshape(-1)
    assert flat[padded.rows].tolist() == packed.token_ids.reshape(-1)[packed.rows].tolist() == [2, 6, 7, 6]


def test_split_gives_each_response_its_own_rows() -> None:
    pack = pack_groups([group([1], [2, 3]), group([4], [5], [6, 7, 8])])
    assert [part.tolist() for part in pack.split(np.arange(6))] == [[0, 1], [2], [3, 4, 5]]
    with pytest.raises(ValueError, match="5 values for a pack of 6"):
        pack.split(np.arange(5))
