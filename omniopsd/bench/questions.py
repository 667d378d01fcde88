"""What the model under test is asked about a clip: one user turn with the media, the subtitle and a question.

The official question (all possible emotional states, no candidates) is asked here in the project's own words. A
model that was trained on another prompt should be asked that one: give it as a YAML file with `user` and, if there
is one, `system`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from omniopsd.mer_mini.text import QUESTION, SYSTEM
from rollout.messages import MessageError, media_kinds, parse_messages

SLOT = "{subtitle}"
OWN = (
    "<video><audio>\nSubtitle: {subtitle}\nYou are an expert in emotions. Look at the face, the body and the "
    "surroundings, listen to the voice, and read the subtitle. Which emotional states does this person show? "
    "Name all that apply."
)


class QuestionError(ValueError):
    """A question that does not show the clip, or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`user` with `{subtitle}` at most once and the places of the media; `system` may be empty."""

    user: str
    system: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Media in the order of the prompt: "video" and "audio", each at most once."""
        return media_kinds(parse_messages([{"role": "user", "content": self.user}], where="question"))

    def messages(self, subtitle: str) -> list[dict[str, str]]:
        """The chat of one clip."""
        head, slot, tail = self.user.partition(SLOT)
        user = {"role": "user", "content": f"{head}{subtitle}{tail}" if slot else self.user}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]


def default_question(benchmark: str) -> Question:
    """The question of a benchmark; mer-mini asks what its small models were trained on."""
    if benchmark == "mer-mini":
        return Question(user=f"<video><audio>\nSubtitle: {SLOT}\n{QUESTION}", system=SYSTEM)
    return Question(user=OWN)


def read_question(path: str | Path) -> Question:
    """From a YAML file. Raises QuestionError."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise QuestionError(
            f"{path}: cannot be read ({error}); write a YAML file with the key user"
        ) from error
    if not isinstance(content, dict) or "user" not in content or set(content) - {"user", "system"}:
        raise QuestionError(f"{path}: write the keys user and, if there is one, system; nothing else")
    if not all(isinstance(text, str) and text.strip() for text in content.values()):
        raise QuestionError(f"{path}: user and system must be texts that are not empty")
    if content["user"].count(SLOT) > 1:
        raise QuestionError(f"{path}: user has {SLOT} {content['user'].count(SLOT)} times; write it once")
    question = Question(**content)
    try:
        kinds = question.kinds
    except MessageError as error:
        raise QuestionError(f"{path}: {error}") from error
    if not kinds and SLOT not in content["user"]:
        raise QuestionError(f"{path}: user shows nothing of the clip; use <video>, <audio> or {SLOT}")
    if len(set(kinds)) != len(kinds) or "image" in kinds:
        raise QuestionError(
            f"{path}: user has {', '.join(kinds)}; use <video> and <audio>, each at most once"
        )
    return question
