"""The log of rollouts: what is written comes back, and a damaged file says so."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from omniopsd.rollout_log import SCHEMA, LoggedRollout, RolloutLogError, read_rollouts, write_rollouts


def a_rollout(length: int = 3, **changes) -> LoggedRollout:
    values = np.linspace(-2, -0.1, length).astype(np.float32)
    rollout = LoggedRollout(
        sample_id="clip-1",
        rollout_id="12/clip-1/0",
        step=12,
        dataset="mer-mini/single",
        policy_version=11,
        teacher_version=11,
        finish="stop",
        prompt_ids=np.arange(7, dtype=np.int32),
        response_ids=np.arange(length, dtype=np.int32),
        rollout_logprobs=values,
        student_logprobs=values - 1,
        teacher_logprobs=values + 0.05,
        divergence=np.abs(values),
        tokens=tuple(("äb<" * length)[:length]),
        prompt_text="Q?",
        text="äb<",
        labels=("happy", "calm"),
        correct=True,
        privilege="rationale",
        evidence_id="clip-1",
        evidence="She smiles.",
        videos=("/data/a.mp4",),
        audios=(),
        images=("/data/a.png",),
    )
    return replace(rollout, **changes)


def assert_same(one: LoggedRollout, other: LoggedRollout) -> None:
    for field in fields(LoggedRollout):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right and type(left) is type(right), field.name


def test_everything_comes_back(tmp_path):
    bare = a_rollout(
        teacher_version=None, student_logprobs=None, teacher_logprobs=None, divergence=None, tokens=None,
        correct=None, evidence=None, labels=(),
    )  # fmt: skip
    written = [a_rollout(), bare, a_rollout(1, finish="length", correct=False)]
    write_rollouts(tmp_path / "rollouts" / "step_000012.parquet", written)
    back = read_rollouts(tmp_path / "rollouts" / "step_000012.parquet")
    for one, other in zip(written, back, strict=True):
        assert_same(one, other)
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["step_000012.parquet"]


def test_no_rollouts_are_a_file_too(tmp_path):
    write_rollouts(tmp_path / "a.parquet", [])
    assert read_rollouts(tmp_path / "a.parquet") == ()


def test_every_field_has_a_column():
    assert SCHEMA.names == [
        name for name in SCHEMA.names if name in {field.name for field in fields(LoggedRollout)}
    ]
    assert len(SCHEMA.names) == len(fields(LoggedRollout))


@pytest.mark.parametrize("name", ["student_logprobs", "teacher_logprobs", "divergence", "rollout_logprobs"])
def test_uneven_columns_are_refused(name):
    with pytest.raises(RolloutLogError, match=f"2 {name}, 3 response_ids"):
        a_rollout(**{name: np.zeros(2, np.float32)})


def test_a_flipped_byte_in_the_data_is_found(tmp_path):
    """Log-probs hardly compress: without page checksums a flipped bit would be read as another number."""
    path = tmp_path / "a.parquet"
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    write_rollouts(path, [replace(a_rollout(500, tokens=None), divergence=values)])
    whole = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(0)
    (chunk,) = [
        column
        for column in map(group.column, range(group.num_columns))
        if column.path_in_schema.startswith("divergence")
    ]
    end = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size
    middle = end - chunk.total_compressed_size // 2
    for place in range(middle, end, 50):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(bytes(flipped))
        with pytest.raises(RolloutLogError, match="cannot be read"):
            read_rollouts(path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_cut_file_is_found(tmp_path, part):
    path = tmp_path / "a.parquet"
    write_rollouts(path, [a_rollout()])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(RolloutLogError, match="cannot be read"):
        read_rollouts(path)


def test_another_parquet_file_is_refused(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(RolloutLogError, match="not a rollout log"):
        read_rollouts(tmp_path / "a.parquet")
