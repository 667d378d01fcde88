"""The form of an answer, and when it is right."""

from __future__ import annotations

import pytest

from omniopsd.answers import judge, parse_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a smile</think><answer>happy</answer>", "happy"),
        (" <think>a\nb</think>\n<answer> Happy. </answer>\n", "happy"),
        ("<answer>happy</answer>", None),
        ("<think>a</think><answer>happy</answer> and more", None),
        ("<think>a</think><answer>happy", None),
        ("<think>a</think><answer>sad</answer><answer>happy</answer>", None),
        ("", None),
    ],
)
def test_only_the_whole_form_counts(text: str, answer: str | None) -> None:
    assert parse_answer(text) == answer


def test_a_malformed_answer_is_wrong_even_with_the_right_word() -> None:
    assert not judge("happy", ["happy"]).correct
    verdict = judge("<think></think><answer>joy</answer>", ["happy", "Joy"])
    assert verdict.correct and verdict.format_valid
    assert not judge("<think></think><answer></answer>", []).correct
