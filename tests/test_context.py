"""Privileged contexts: every mode, what is missing, and the controls."""

from __future__ import annotations

import pytest

from rationale_cache.types import Rationale
from rollout.messages import MediaPart, Message, TextPart
from teacher.config import DEFAULT_TEMPLATE
from teacher.context import EvidenceBook, EvidenceError, Privileged, check_template, privileged_messages
from teacher.types import Privilege


def rows(count: int = 5) -> list[Privileged]:
    return [
        Privileged(
            sample_id=f"s{i}",
            labels=("happy" if i % 2 else "sad",),
            rationale=Rationale.of(f"rationale {i}"),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("privilege", "text"),
    [("label", "Label: sad"), ("rationale", "rationale 2"), ("rationale+label", "rationale 2\nLabel: sad")],
)
def test_a_sample_gets_its_own_evidence(privilege: Privilege, text: str) -> None:
    evidence = EvidenceBook(rows(), privilege, seed=0).of("s2")
    assert evidence is not None and (evidence.text, evidence.source_id) == (text, "s2")


def test_none_adds_nothing() -> None:
    messages = (Message(role="user", parts=(MediaPart(kind="video"), TextPart(text="what?"))),)
    assert EvidenceBook(rows(), "none", seed=0).of("s1") is None
    assert privileged_messages(messages, None, DEFAULT_TEMPLATE) == messages


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_deals_every_rationale_to_another_sample(seed: int) -> None:
    book = EvidenceBook(rows(), "shuffled", seed=seed)
    sources = [book.of(f"s{i}").source_id for i in range(5)]  # type: ignore[union-attr]
    assert sorted(sources) == [f"s{i}" for i in range(5)]
    assert all(source != f"s{i}" for i, source in enumerate(sources))


def test_other_row_has_other_labels() -> None:
    book = EvidenceBook(rows(), "other-row", seed=0)
    assert [book.of(f"s{i}").source_id for i in range(5)] == ["s1", "s2", "s3", "s4", "s1"]  # type: ignore[union-attr]


def test_missing_evidence_names_count_and_first_sample() -> None:
    given = [*rows(2), Privileged(sample_id="bare", labels=(), rationale=None)]
    with pytest.raises(EvidenceError, match=r"1 of 3 samples have no rationale \(first: 'bare'\)"):
        EvidenceBook(given, "rationale", seed=0)
    with pytest.raises(EvidenceError, match="have no labels"):
        EvidenceBook(given, "label", seed=0)
    EvidenceBook(given, "none", seed=0)


@pytest.mark.parametrize("template", ["no place", "{evidence} and {evidence}"])
def test_a_template_has_one_place_for_the_evidence(template: str) -> None:
    with pytest.raises(EvidenceError, match="exactly once"):
        check_template(template)


def test_the_evidence_stands_at_the_end_of_the_last_message_and_is_never_parsed() -> None:
    messages = (Message(role="user", parts=(MediaPart(kind="video"),)),)
    book = EvidenceBook(
        [Privileged(sample_id="s", labels=(), rationale=Rationale.of("a {evidence} <video> b"))],
        "rationale",
        seed=0,
    )
    made = privileged_messages(messages, book.of("s"), "[{evidence}]")
    assert made[-1].parts == (MediaPart(kind="video"), TextPart(text="[a {evidence} <video> b]"))
