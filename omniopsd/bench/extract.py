"""The two extraction steps: a reply to a list of labels, a list of labels to a polarity.

With a language model (an endpoint or a local engine), or by fixed rules. Whatever a model answers is in the journal
before it is used, under a key of model, sampling and prompt: equal prompts are asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from rich.console import Console

from omniopsd.bench.journal import Journal, content_key
from omniopsd.bench.lists import clean_reply
from omniopsd.bench.literal import answer_text, literal_labels, literal_polarity
from omniopsd.bench.pace import Pace
from omniopsd.bench.templates import Templates
from rollout.vllm_text import TextSampling

Step = Literal["labels", "polarity"]
Pass = Literal["whole", "answer"]


class ExtractError(ValueError):
    """An extraction model that cannot be asked as told."""


class Asker(Protocol):
    """A language model: `model` and `sampling` name what decides its replies."""

    model: str
    sampling: TextSampling

    def ask(self, prompts: Mapping[str, str], keep: Callable[[str, str], None]) -> None:
        """Answer prompts by key; calls `keep(key, reply)` from one thread as each reply arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """Step results of one run. `keys` name the journal's replies behind them; empty by fixed rules."""

    labels: Mapping[str, str]
    polarity: Mapping[str, str]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelSteps:
    """Both steps by a language model. `passed`: what step A reads, the whole reply (official) or its `<answer>`."""

    asker: Asker
    templates: Templates
    passed: Pass
    journal: Journal
    console: Console

    def __call__(self, replies: Mapping[str, str], with_polarity: Callable[[str], bool]) -> Extraction:
        """`replies` by sample id; step B runs on those that `with_polarity` wants."""
        texts = {
            id_: answer_text(reply) if self.passed == "answer" else reply for id_, reply in replies.items()
        }
        labels, keys = self._step("labels", texts)
        polarity, more = self._step(
            "polarity", {id_: text for id_, text in labels.items() if with_polarity(id_)}
        )
        return Extraction(labels=labels, polarity=polarity, keys=(*keys, *more))

    def _step(self, step: Step, texts: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
        prompts = {id_: self.templates.fill(step, text) for id_, text in texts.items()}
        settings: dict[str, Any] = {"model": self.asker.model, **asdict(self.asker.sampling)}
        keys = {id_: content_key({**settings, "prompt": prompt}) for id_, prompt in prompts.items()}
        asked = {key: prompts[id_] for id_, key in keys.items()}
        open_ = {key: prompt for key, prompt in asked.items() if self.journal.get(key) is None}
        if open_:
            pace = Pace(f"step {step}", len(asked), before=len(asked) - len(open_), console=self.console)

            def keep(key: str, reply: str) -> None:
                self.journal.add([(key, reply, {"step": step})])
                pace.add()

            self.asker.ask(open_, keep)
        return {id_: clean_reply(self._reply(key)) for id_, key in keys.items()}, tuple(keys.values())

    def _reply(self, key: str) -> str:
        reply = self.journal.get(key)
        if reply is None:
            raise ExtractError(
                f"{self.asker.model}: gave no reply to one of its prompts; run again to ask the rest"
            )
        return reply


def literal_steps(replies: Mapping[str, str], with_polarity: Callable[[str], bool]) -> Extraction:
    """Both steps by fixed rules."""
    labels = {id_: literal_labels(reply) for id_, reply in replies.items()}
    polarity = {id_: literal_polarity(text) for id_, text in labels.items() if with_polarity(id_)}
    return Extraction(labels=labels, polarity=polarity)
