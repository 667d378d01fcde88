"""The parts of a step add up to the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learner.chunked import topk_overlap
from omniopsd.breakdown import SeenRollout, breakdown, leak_rate, length_tail


def seen(length: int, start: int, **changes) -> SeenRollout:
    fields = {
        "dataset": "a",
        "modalities": "audio+text",
        "format_valid": True,
        "correct": True,
        "answer_start": start,
        "divergence": np.arange(length, dtype=np.float32),
        "gain": -np.arange(length, dtype=np.float32),
        "text": "fine",
    }
    return SeenRollout(**(fields | changes))


def test_segments_split_each_response_where_its_answer_begins():
    parts = breakdown([seen(4, 2), seen(3, 3)])["by_segment"]
    assert parts["reasoning"] == {"tokens": 5, "divergence": (0 + 1 + 0 + 1 + 2) / 5, "teacher_gain": -4 / 5}
    assert parts["answer"] == {"tokens": 2, "divergence": 2.5, "teacher_gain": -2.5}


def test_a_segment_without_tokens_and_a_gain_without_teacher_are_left_out():
    parts = breakdown([seen(3, 3, gain=None)])
    assert parts["by_segment"] == {"reasoning": {"tokens": 3.0, "divergence": 1.0}}


def test_datasets_modalities_and_correctness_are_told_apart():
    parts = breakdown(
        [
            seen(2, 1),
            seen(4, 1, dataset="b", correct=False, format_valid=False),
            seen(3, 1, modalities="video+text", correct=None),
        ]
    )
    assert parts["by_dataset"]["b"]["accuracy"] == 0 and parts["by_dataset"]["a"]["rollouts"] == 2
    assert parts["by_dataset"]["b"]["format_rate"] == 0
    assert set(parts["by_modality"]) == {"audio+text", "video+text"}
    assert "accuracy" not in parts["by_modality"]["video+text"]
    assert parts["by_correctness"]["right"]["divergence"] == pytest.approx(0.5)
    assert parts["by_correctness"]["wrong"]["divergence"] == pytest.approx(1.5)


def test_leaks_are_found_in_any_case_and_counted_by_answer():
    texts = ["The Rationale says so, the rationale.", "He smiles.", "As the HINT told me"]
    answers = [seen(2, 1, text=text) for text in texts]
    assert leak_rate(answers, ["rationale", "the hint"]) == pytest.approx(2 / 3)
    assert leak_rate(answers, []) == 0


def test_the_tail_is_the_95th_percentile():
    assert length_tail([seen(n, 0) for n in range(1, 102)]) == 96


def test_overlap_counts_the_likeliest_tokens_in_common():
    lp = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    lq = torch.tensor([[3.0, 4.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    assert topk_overlap(lp, lq, 2).tolist() == [1.0, 0.0]
    assert topk_overlap(lp, lq, 10).tolist() == [1.0, 1.0]
