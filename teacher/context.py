"""The privileged context: the student's messages plus evidence, by an explicit template. Pure.

    none             no evidence: the teacher sees what the student sees
    label            the sample's labels
    rationale        the sample's rationale (the method)
    redacted         the rationale with `[...]` for every mention of the sample's labels: what its evidence is worth
                     without the answer
    rationale+label  both
    shuffled         control: the rationales of the data set, dealt out again by a seeded permutation
                     in which no sample keeps its own
    other-row        control: the rationale of the next sample (in file order) whose labels differ

A control that reads as well as the real evidence shows that the gain does not come from it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rationale_cache.redaction import redact
from rationale_cache.types import Rationale
from rollout.messages import Message, TextPart
from teacher.types import Privilege

PLACEHOLDER = "{evidence}"


class EvidenceError(ValueError):
    """Evidence that a privilege mode needs and a sample does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Privileged:
    """What is known of one sample beyond what the student sees."""

    sample_id: str
    labels: tuple[str, ...]
    rationale: Rationale | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The text that goes into the template, the row it came from, and the rationale's key."""

    text: str
    source_id: str
    rationale_key: str


class EvidenceBook:
    """Evidence for every sample of a data set, in one privilege mode."""

    def __init__(
        self, rows: Sequence[Privileged], privilege: Privilege, *, seed: int, key: str = "teacher.privilege"
    ) -> None:
        """Raises EvidenceError naming the samples whose evidence is missing (all of them at once).

        `key` is the setting that asks for this privilege, for that message.
        """
        self.privilege = privilege
        self._rows = {row.sample_id: row for row in rows}
        missing = missing_evidence(rows, privilege)
        if missing:
            raise EvidenceError(
                f"{key} is {privilege!r} and {len(missing)} of {len(rows)} samples have no "
                f"{'labels' if privilege == 'label' else 'rationale'} (first: {missing[0]!r}): add it to the data, "
                "or set teacher.missing: skip"
            )
        self._source = _sources(rows, privilege, seed)

    def of(self, sample_id: str) -> Evidence | None:
        """The evidence for one sample; None in the mode "none"."""
        if self.privilege == "none":
            return None
        row = self._rows[self._source.get(sample_id, sample_id)]
        key = row.rationale.key if row.rationale is not None and self.privilege != "label" else ""
        return Evidence(text=_text(row, self.privilege), source_id=row.sample_id, rationale_key=key)


def missing_evidence(rows: Sequence[Privileged], privilege: Privilege) -> list[str]:
    """Ids of the samples without the evidence that a mode needs."""
    if privilege == "none":
        return []
    needs_label = privilege in ("label", "redacted", "rationale+label")
    needs_rationale = privilege != "label"
    return [
        row.sample_id
        for row in rows
        if (needs_label and not row.labels) or (needs_rationale and row.rationale is None)
    ]


def check_template(template: str) -> None:
    """Raises EvidenceError unless the template has `{evidence}` exactly once."""
    count = template.count(PLACEHOLDER)
    if count != 1:
        raise EvidenceError(f"teacher.template has {PLACEHOLDER} {count} times: write it exactly once")


def privileged_messages(
    messages: Sequence[Message], evidence: Evidence | None, template: str
) -> tuple[Message, ...]:
    """The student's messages with the evidence at the end of the last one; unchanged without evidence."""
    if evidence is None:
        return tuple(messages)
    last = messages[-1]
    added = TextPart(text=template.replace(PLACEHOLDER, evidence.text))
    return (*messages[:-1], Message(role=last.role, parts=(*last.parts, added)))


def evidence_alone(messages: Sequence[Message], evidence: Evidence, template: str) -> tuple[Message, ...]:
    """The evidence without the sample's media and question: system messages, and the template's text."""
    told = tuple(message for message in messages if message.role == "system")
    return (*told, Message(role="user", parts=(TextPart(text=template.replace(PLACEHOLDER, evidence.text)),)))


def _text(row: Privileged, privilege: Privilege) -> str:
    labels = "Label: " + ", ".join(row.labels)
    if privilege == "label":
        return labels
    assert row.rationale is not None
    if privilege == "rationale+label":
        return f"{row.rationale.text}\n{labels}"
    return redact(row.rationale.text, row.labels) if privilege == "redacted" else row.rationale.text


def _sources(rows: Sequence[Privileged], privilege: Privilege, seed: int) -> dict[str, str]:
    ids = [row.sample_id for row in rows]
    if privilege == "shuffled":
        if len(ids) < 2:
            raise EvidenceError("teacher.privilege 'shuffled' needs at least 2 samples, found 1")
        random.Random(seed).shuffle(ids)
        return dict(zip(ids, ids[1:] + ids[:1], strict=True))
    if privilege == "other-row":
        return {row.sample_id: _next_other(rows, at).sample_id for at, row in enumerate(rows)}
    return {}


def _next_other(rows: Sequence[Privileged], at: int) -> Privileged:
    for step in range(1, len(rows)):
        other = rows[(at + step) % len(rows)]
        if set(other.labels) != set(rows[at].labels):
            return other
    raise EvidenceError("teacher.privilege 'other-row' needs samples with different labels, all are the same")
