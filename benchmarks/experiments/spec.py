"""One experiment as its YAML states it: data, tests, one common run config, arms that change a few keys of it.

Importable without torch. Paths and seeds of a run are the harness's; an arm may set any other key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.yaml_file import read_document
from omniopsd.mer_mini.emotions import Condition

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
NAME = r"^\w[\w.-]*$"
Test = Literal["in-domain", "looks", "noise", "missing", "conflict"]
Medium = Literal["video", "audio", "image"]


class ExperimentError(ValueError):
    """An experiment that cannot be run as it is written."""


class TrainData(BaseModel):
    """The clips of one seed, and what their rationales are worth."""

    model_config = SECTION

    clips: int = Field(default=300, ge=18)
    """Clips drawn before `conditions` are chosen (a third each)."""
    conditions: tuple[Condition, ...] = ("redundant", "single")
    """What to train on; conflicting modalities are kept for the shifted test."""
    rationale_noise: float = Field(default=0.25, ge=0, le=1)
    """Share of rationales that tell one modality wrongly."""
    rationale_own: float = Field(default=1.0, ge=0, le=1)
    """Share of rows that keep their own rationale; the others get those of each other."""
    redact: bool = False
    """Take out of the rationales the word that hints at the emotion."""
    media: tuple[Medium, ...] = ("video", "audio", "image")
    """The media that training and tests keep; the words always stay."""


class Arm(BaseModel):
    """One way of training."""

    model_config = SECTION

    train: bool = True
    """False: the start model as it is."""
    evidence: bool = False
    """Also answer the tests with the rationale in the prompt."""
    data: TrainData | None = None
    """In place of the experiment's."""
    set: dict[str, Any] = {}
    """Changes of `common`, dotted keys; null takes a key or section away."""


class Claim(BaseModel):
    """What one expects: accuracy of `better` above that of `worse`, pairwise by seed. An arm of another
    experiment is `name/arm`; with `@evidence` behind it, its answers with the rationale in the prompt."""

    model_config = SECTION

    says: str
    """The claim in words."""
    better: str
    """The arm that should be ahead."""
    worse: str
    """The arm that should be behind."""
    gain: bool = True
    """False: the claim is that `better` is not ahead at all."""
    tests: tuple[Test, ...] = ("in-domain",)
    """Where; each is judged by itself."""


class Experiment(BaseModel):
    """Arms x seeds."""

    model_config = SECTION

    name: str = Field(pattern=NAME)
    """Folder of its raw JSON below `benchmarks/results/experiments/`."""
    question: str
    """What it asks, in one sentence."""
    seeds: int = Field(default=5, ge=1, le=30)
    """Seeds 0 to n-1: each has training clips, order and sampling of its own; tests are the same for all."""
    reference: str
    """The arm that the others are compared with, pairwise by seed; `name/arm` is one of another experiment."""
    data: TrainData = TrainData()
    """Training clips."""
    tests: tuple[Test, ...] = ("in-domain", "looks", "noise", "missing", "conflict")
    """Held-out sets."""
    test_clips: int = Field(default=96, ge=6)
    """Items of each test."""
    claims: tuple[Claim, ...] = ()
    """What is judged, with numbers, in docs/evidence.md."""
    gap: bool = False
    """Measure the privileged teacher on the training clips before the first step: the pre-flight gap."""
    alarms: bool = False
    """Tell in docs/evidence.md when each alarm first held, and how the form of the answers went."""
    common: dict[str, Any]
    """The run config of all arms, without paths, names and seeds."""
    arms: dict[str, Arm]
    """By name."""

    @model_validator(mode="after")
    def _reference_is_an_arm(self) -> Experiment:
        if "/" not in self.reference and self.reference not in self.arms:
            raise ValueError(f"reference is {self.reference!r}; write one of {', '.join(self.arms)}")
        return self

    def data_of(self, arm: str) -> TrainData:
        """The training data of one arm."""
        return self.arms[arm].data or self.data

    def settings(self, arm: str, own: Mapping[str, Any]) -> dict[str, Any]:
        """The nested run config of one arm, with the harness's `own` dotted keys over it."""
        content: dict[str, Any] = {}
        for key, value in _flat(self.common):
            _put(content, key, value)
        for key, value in {**self.arms[arm].set, **own}.items():
            _put(content, key, value)
        return content


def read_experiment(path: Path) -> Experiment:
    """Raises ConfigError on YAML that cannot be read, pydantic's ValidationError on one that makes no sense."""
    return Experiment(**read_document(path).values)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return flat


def _put(content: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one dotted key; None takes the key away."""
    *sections, name = dotted.split(".")
    for section in sections:
        content = content.setdefault(section, {})
    if value is None:
        content.pop(name, None)
    else:
        content[name] = value
