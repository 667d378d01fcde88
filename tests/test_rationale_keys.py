"""Keys: whatever could change the text changes the key, and nothing else does."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationale_cache.keys import canonical, digest, imported_request, key_of, make_request, text_json
from rationale_cache.types import Cue, RationaleRecord, RecordError, Request
from tests.cache_scene import NOON, a_record

ASKED: dict[str, Any] = {
    "media": ["aa", "bb"],
    "messages": [{"role": "user", "content": "What?"}],
    "prompt": "Describe.",
    "model": "frontier-1",
    "sampling": {"temperature": 0.7, "max_tokens": 400},
    "mode": "label_conditioned",
    "label": ["happy"],
}


def hashed(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def key(**changes: Any) -> str:
    return key_of(make_request(**{**ASKED, **changes}))


def test_a_key_is_what_the_format_says():
    messages = hashed(b'[{"content":"What?","role":"user"}]')
    text = (
        '{"label":["happy"],"media":["aa","bb"],"messages":"%s","mode":"label_conditioned","model":"frontier-1",'
        '"prompt":"%s","sampling":"{\\"max_tokens\\":400,\\"temperature\\":0.7}","version":1}'
    )
    assert key() == hashed((text % (messages, hashed(b"Describe."))).encode())
    assert key() == "aafc34dadb112fadfe7b5f9267754094"


@pytest.mark.parametrize(
    "changes",
    [
        {"media": ["bb", "aa"]},
        {"media": ["aa"]},
        {"messages": [{"role": "user", "content": "What? "}]},
        {"prompt": "Describe"},
        {"model": "frontier-2"},
        {"sampling": {"temperature": 0.71, "max_tokens": 400}},
        {"sampling": {"temperature": 0.7}},
        {"mode": "blind"},
        {"label": ["sad"]},
        {"label": ["happy", "sad"]},
    ],
)
def test_whatever_could_change_the_text_changes_the_key(changes: dict[str, Any]):
    assert key(**changes) != key()


def test_what_cannot_change_the_text_does_not():
    assert key(sampling={"max_tokens": 400.0, "temperature": 0.70}) == key()
    blind = key(mode="blind")
    assert key(mode="blind", label=["sad"]) == blind == key(mode="blind", label=None)


def test_an_imported_rationale_is_keyed_by_source_data_set_and_sample():
    keys = {
        key_of(imported_request(*names))
        for names in [("a", "d", "s"), ("b", "d", "s"), ("a", "e", "s"), ("a", "d", "t")]
    }
    assert len(keys) == 4


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner)
    ),
)


@given(json_values)
def test_the_order_of_names_does_not_matter(value: Any):
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: turned(value[name]) for name in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert canonical(turned(value)) == canonical(value)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)))), st.integers(-(2**53) + 1, 2**53 - 1))
def test_the_fast_way_gives_the_same_json(texts: list[str], number: int):
    value = {"b": texts, "a": number, "c": {"z": "".join(texts), "y": None}}
    assert text_json(value) == canonical(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**60, {1: "a"}, b"bytes", "\ud800", object()])
def test_what_json_cannot_say_is_refused(value: object):
    with pytest.raises(RecordError, match="cannot be part of a request"):
        canonical({"value": value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "seeing"}, "mode 'seeing'"),
        ({"label": ("happy",)}, "only label_conditioned has one"),
        ({"mode": "label_conditioned"}, "only label_conditioned has one"),
        ({"model": ""}, "without a model"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str):
    fine: dict[str, Any] = {
        "media": (), "messages": "m", "prompt_hash": "p", "model": "x", "sampling": "{}", "mode": "blind",
    }  # fmt: skip
    with pytest.raises(RecordError, match=message):
        Request(**{**fine, **changes})


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [(None, None, "either"), ("text", "reason", "either"), (" ", None, "empty"), (None, "", "empty")],
)
def test_a_record_has_a_text_or_a_reason(text: str | None, reason: str | None, message: str):
    request = a_record(0).request
    with pytest.raises(RecordError, match=message):
        RationaleRecord(
            key="k", sample_id="s", dataset="d", request=request, text=text, reason=reason, made_at=NOON
        )


@pytest.mark.parametrize("span", [(2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_cue_has_a_span_in_time(span: tuple[float, float]):
    with pytest.raises(RecordError, match="cue from"):
        Cue(modality="audio", text="a sigh", start=span[0], end=span[1])


def test_a_digest_of_text_is_not_that_of_its_json():
    assert digest("a") == digest(b"a") != digest(["a"])
