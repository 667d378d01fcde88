"""Extraction by fixed rules: what is read out of a reply, and the sign of a list."""

from __future__ import annotations

import pytest

from omniopsd.bench.literal import answer_text, literal_labels, literal_polarity


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        ("<think>face: smile</think><answer>happy</answer>", "[happy]"),
        ("<think>x</think><answer>Happy and sad; angry, 'worried'.</answer>", "[happy, sad, angry, worried]"),
        ("<answer>cut off, at the end", "[cut off, at the end]"),
        ("The character's emotional state is calm, relieved. He smiles.", "[calm, relieved]"),
        ("His emotional states are: joyful and hopeful", "[joyful, hopeful]"),
        ("First [angry], then [happy, sad]", "[happy, sad]"),
        ("brandy and sandals", "[]"),
        ("", "[]"),
        ("<answer></answer> emotional state is happy", "[]"),
    ],
)
def test_step_a(reply: str, labels: str) -> None:
    assert literal_labels(reply) == labels


@pytest.mark.parametrize(
    ("labels", "polarity"),
    [
        ("[happy]", "positive"), ("[sad]", "negative"), ("[happy, sad]", "negative"), ("[]", "negative"),
        ("[happy, joyful, sad]", "positive"), ("[neutral]", "negative"), ("[Happy ]", "positive"),
    ],
)  # fmt: skip
def test_step_b(labels: str, polarity: str) -> None:
    assert literal_polarity(labels) == polarity


def test_what_step_a_reads_of_a_tagged_reply() -> None:
    assert answer_text("<think>a</think><answer> b </answer>") == "b"
    assert answer_text("no tags") == "no tags"
