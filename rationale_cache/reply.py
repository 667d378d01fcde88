"""From the body of a reply to evidence, or to the class of its fault. Pure.

    body -> completion -> draft -> verdicts -> Accepted | Rejected

Classes of faults: malformed, refusal, truncated, empty, and the filters' names (over_long, too_short,
degenerate, language, absent_media, spans, contradicting, near_duplicate). Nothing is repaired: a reply is good as
it is, or it is asked for again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rationale_cache.completion import Completion, MalformedCompletion, read_completion
from rationale_cache.config import RationaleCacheConfig
from rationale_cache.escape import escape, marks
from rationale_cache.filters import Asked, Draft, verdicts
from rationale_cache.redaction import redact, redact_cues
from rationale_cache.types import Cue, Modality, RecordError, Verdict

FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
MOST_CUES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Evidence, escaped and (if configured) redacted, with every filter's word."""

    text: str
    cues: tuple[Cue, ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A reply that is no evidence: the class of its fault, and what was found."""

    fault: str
    detail: str
    verdicts: tuple[Verdict, ...] = ()

    @property
    def reason(self) -> str:
        """What a record without rationale says."""
        return f"{self.fault}: {self.detail}" if self.detail else self.fault


class _Cue(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    modality: Modality
    text: str
    start: float | None = None
    end: float | None = None


class _Form(BaseModel):
    """The reply that the schema asks for; servers without structured output may add fields."""

    model_config = ConfigDict(extra="ignore", strict=True)

    cues: list[_Cue]
    rationale: str
    answer: str


def read_body(body: str) -> Completion | Rejected:
    """The completion of a body, or the class of its fault."""
    try:
        completion = read_completion(body)
    except MalformedCompletion as error:
        return Rejected(fault="malformed", detail=str(error))
    if completion.refusal or completion.finish_reason == "content_filter":
        return Rejected(fault="refusal", detail=_short(completion.refusal or "finish_reason content_filter"))
    if completion.finish_reason == "length":
        return Rejected(fault="truncated", detail="cut at max_completion_tokens")
    if completion.finish_reason not in ("stop", ""):
        return Rejected(fault="malformed", detail=f"finish_reason {_short(completion.finish_reason)!r}")
    if not completion.text.strip():
        return Rejected(fault="empty", detail="")
    return completion


def judge(completion: Completion, asked: Asked, config: RationaleCacheConfig) -> Accepted | Rejected:
    """Read the text of a completion and ask every filter."""
    draft = read_draft(completion.text, config.reply)
    if isinstance(draft, Rejected):
        return draft
    found = tuple(verdicts(draft, asked, config.filters))
    failed = [verdict for verdict in found if not verdict.passed]
    if failed:
        return Rejected(fault=failed[0].filter, detail=failed[0].detail, verdicts=found)
    return _accepted(draft, found, asked, config)


def read_draft(text: str, form: Literal["schema", "text"]) -> Draft | Rejected:
    """The draft in a text: by the schema, or (with `reply: text`) the text itself, unless it keeps the schema."""
    fenced = FENCED.fullmatch(text)
    inner = (fenced[1] if fenced else text).strip()
    if form == "text" and not inner.startswith(("{", "[")):
        return _unmarked(inner)
    try:
        parsed = _Form.model_validate_json(inner)
        cues = tuple(
            Cue(modality=cue.modality, text=cue.text, start=cue.start, end=cue.end) for cue in parsed.cues
        )
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        return Rejected(fault="malformed", detail=_short(f"{where} {problem['msg']}".strip()))
    except RecordError as error:
        return Rejected(fault="malformed", detail=_short(str(error)))
    if len(cues) > MOST_CUES:
        return Rejected(fault="malformed", detail=f"{len(cues)} cues, at most {MOST_CUES}")
    if not parsed.rationale.strip():
        return Rejected(fault="empty", detail="the rationale is empty")
    return Draft(text=parsed.rationale.strip(), cues=cues, answer=parsed.answer)


def _unmarked(text: str) -> Draft | Rejected:
    """A plain text; markup in place of it is an error page, not an observation."""
    if re.match(r"<(?:!doctype|html|\?xml|body|head)\b", text, re.IGNORECASE):
        return Rejected(fault="malformed", detail="a web page")
    return Draft(text=text) if text else Rejected(fault="empty", detail="")


def _accepted(
    draft: Draft, found: tuple[Verdict, ...], asked: Asked, config: RationaleCacheConfig
) -> Accepted | Rejected:
    text, cues = draft.text, draft.cues
    changed = marks(text)
    if config.filters.redact_labels:
        text, cues = redact(text, asked.labels), redact_cues(cues, asked.labels)
    text = escape(text)
    try:
        cues = tuple(
            Cue(modality=cue.modality, text=escape(cue.text), start=cue.start, end=cue.end) for cue in cues
        )
    except RecordError:  # nothing but marks
        return Rejected(fault="malformed", detail="a cue without words", verdicts=found)
    if not text:
        return Rejected(fault="empty", detail="nothing but marks", verdicts=found)
    word = Verdict(filter="escape", passed=True, detail=f"{changed} marks" if changed else "")
    return Accepted(text=text, cues=cues, verdicts=(*found, word))


def _short(text: str) -> str:
    return " ".join(text.split())[:160]
