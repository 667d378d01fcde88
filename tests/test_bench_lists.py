"""Label lists: the official split with its oddities, and the clean-up of a reply."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniopsd.bench.lists import LoneBracketError, clean_reply, normal_labels, parse_list

REPLY_LETTERS = st.text("[]'\",;: \nab\u8f93\u5165\u51fa\uff1a", max_size=12)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("[glad, low].", ["glad", "low]."]),
        ("[glad; low]", ["glad; low"]),
        ("[glad\uff0clow]", ["glad\uff0clow"]),
        ("it's", ["it", "s"]),
        ("glad and low", ["glad and low"]),
        ("[[glad]]", ["[glad]"]),
        ("\"glad\",, 'low'", ["glad", "low"]),
        ("]", []),
        ("[]", []),
        ("", []),
        (" ", []),
        (None, []),
        (float("nan"), []),
        ([" Glad", "low"], [" Glad", "low"]),
        ([], []),
    ],
)
def test_a_list_is_split_as_the_official_code_does(text: object, labels: list[str]):
    assert parse_list(text) == labels


def test_an_array_is_returned_as_it_is():
    assert parse_list(np.array(["glad", "low"])) == ["glad", "low"]


def test_a_lone_bracket_stops_the_official_code():
    with pytest.raises(LoneBracketError):
        parse_list("[")


@given(REPLY_LETTERS)
def test_splitting_follows_the_rule_letter_by_letter(text: str):
    """The same rule written as a loop over letters."""
    if text == "[":
        return
    inner = text[1:] if text[:1] == "[" else text
    inner = inner[:-1] if inner[-1:] == "]" else inner
    pieces = [""]
    for letter in inner:
        if letter in "'\",":
            pieces.append("")
        else:
            pieces[-1] += letter
    assert parse_list(text) == [piece.strip() for piece in pieces if piece.strip()]


def test_labels_are_compared_in_lower_case_and_trimmed():
    assert normal_labels("[ Glad , LOW]") == ["glad", "low"]
    assert normal_labels([" Glad "]) == ["glad"]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (" Output: [glad] ", "[glad]"),
        ("output\uff1a[glad]", "[glad]"),
        ("\u8f93\u5165\u8f93\u51fa:[glad]", "[glad]"),  # tested in turn, so two prefixes go
        ("\u8f93\u51fa\u8f93\u5165:[glad]", "\u8f93\u5165:[glad]"),  # in the other order one stays
        ("Output Output: [glad]", "Output: [glad]"),
        ("inputInput[glad]", "[glad]"),
        ("OUTPUT: [glad]", "OUTPUT: [glad]"),
        (":\uff1a[glad]", "[glad]"),
        ("\uff1a:[glad]", ":[glad]"),
        ("::[glad]", ":[glad]"),
        ("[glad,\n low]\n", "[glad, low]"),
        ("Answer: [glad]", "Answer: [glad]"),
        ("\u8ba9\u6211\u4eec\u6765\u7ffb\u8bd1\u4e00\u4e0b\uff1a[glad]", "[glad]"),
        ("", ""),
    ],
)
def test_a_reply_is_cleaned_in_the_official_order(reply: str, text: str):
    assert clean_reply(reply) == text


@given(REPLY_LETTERS)
def test_a_cleaned_reply_has_no_outer_space_and_no_newline(reply: str):
    assert not re.search(r"^\s|\s$|\n", clean_reply(reply))
