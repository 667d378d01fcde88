from __future__ import annotations

import pytest

from rollout.messages import MediaPart, MessageError, TextPart, media_kinds, parse_messages


def parse(content: object, role: object = "user") -> tuple[object, ...]:
    return parse_messages([{"role": role, "content": content}], where="d.jsonl:1")[0].parts


def test_content_is_split_at_placeholders() -> None:
    assert parse("a<video>\nb<audio><image>") == (
        TextPart(text="a"),
        MediaPart(kind="video"),
        TextPart(text="\nb"),
        MediaPart(kind="audio"),
        MediaPart(kind="image"),
    )


@pytest.mark.parametrize("text", ["<videos>", "<Video>", "< video>", "a < b > c", "<|video|>"])
def test_other_brackets_stay_text(text: str) -> None:
    assert parse(text) == (TextPart(text=text),)


def test_kinds_come_in_the_order_of_the_prompt() -> None:
    rows = [{"role": "system", "content": "x"}, {"role": "user", "content": "<image>a<video><image>"}]
    assert media_kinds(parse_messages(rows, where="d:1")) == ("image", "video", "image")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], "messages is []"),
        ("hello", "messages is 'hello'"),
        (None, "messages is None"),
        ([{"role": "user"}], "messages[0] is {'role': 'user'}"),
        ([{"role": "user", "content": "a", "name": "b"}], "messages[0] is"),
        ([{"role": "user", "content": "a"}, {"role": "tool", "content": "a"}], "messages[1]: role is 'tool'"),
        ([{"role": ["user"], "content": "a"}], "role is ['user']"),
        ([{"role": "user", "content": ""}], "content is ''"),
        ([{"role": "user", "content": ["a"]}], "content is ['a']"),
        ([{"role": "user", "content": None}], "content is None"),
    ],
)
def test_wrong_rows_are_named(rows: object, found: str) -> None:
    with pytest.raises(MessageError) as error:
        parse_messages(rows, where="d.jsonl:7")  # type: ignore[arg-type]
    assert str(error.value).startswith("d.jsonl:7: messages") and found in str(error.value)
    assert "\n" not in str(error.value)
