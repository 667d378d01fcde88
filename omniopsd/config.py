"""The run config: one YAML states one run. Importable without torch.

`RunConfig` is the sum of the sections that the components own, plus those of the program itself.
Validators only judge; a default lives on its field, once.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from cluster.config import RuntimeConfig
from learner.config import LearnerConfig, ObjectiveConfig
from omniopsd.telemetry_config import AlarmsConfig, TelemetryConfig
from rationale_cache.config import RationaleCacheConfig
from rollout.config import MediaConfig, ModelConfig, RolloutConfig, WeightsConfig
from teacher.config import TeacherConfig

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
NAME = r"^\w[\w.-]*$"


class DataConfig(BaseModel):
    """The samples."""

    model_config = SECTION

    train: str
    """JSONL or Parquet file of training samples."""
    test: str | None = None
    """Held-out samples for the before/after table; never trained on."""
    shuffle: bool = True
    """A new order in every epoch, drawn from `run.seed`; false keeps the file's order."""
    media: MediaConfig = MediaConfig()
    """How media become arrays."""


class CheckpointConfig(BaseModel):
    """What is kept to resume from."""

    model_config = SECTION

    every: int = Field(default=100, ge=1)
    """Steps between checkpoints; the last step is always kept."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints that stay; older ones go after the newer one has been verified."""


class BenchEvalConfig(BaseModel):
    """Benchmark scores during training: the clips of a prepared folder, labels by fixed rules."""

    model_config = SECTION

    data: str
    """Folder that `omniopsd bench prepare` has written."""
    wheel: str | None = None
    """Folder `emotion_wheel` of the official release; unset: the one that `bench prepare` was given."""
    sets: tuple[str, ...] | None = None
    """Names of sets to measure; unset: all of the folder."""
    samples: int = Field(default=64, ge=1)
    """Use the first n clips of each set."""
    select: bool = False
    """Keep the checkpoint with the highest mean score whatever `checkpoint.keep` says; needs validation clips."""
    select_on_test: bool = False
    """Allow `select` on test clips; the score then carries this fact."""


class EvalConfig(BaseModel):
    """The before/after table; an answer is right when its cleaned text is one of the sample's labels."""

    model_config = SECTION

    every: int | None = Field(default=None, ge=1)
    """Steps between evaluations on `data.test` and `bench`; unset: only before the first and after the last step."""
    samples: int | None = Field(default=None, ge=1)
    """Use the first n test samples; unset: all."""
    teacher: bool = True
    """Also let the privileged teacher answer, before training: the gap that there is to close."""
    bench: BenchEvalConfig | None = None
    """Benchmark scores during training, and the best checkpoint."""


class RunSection(BaseModel):
    """The run itself."""

    model_config = SECTION

    name: str = Field(pattern=NAME)
    """Folder of the run, below `root`."""
    root: str = "runs"
    """Where run folders are made; relative to the working directory."""
    seed: int = Field(default=0, ge=0)
    """Decides the data order, every sampled token and the evidence of the control modes."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    samples_per_step: int = Field(default=16, ge=1)
    """Samples claimed in one step (B); each gives `rollout.rollouts_per_sample` responses."""
    log_rollouts: int = Field(default=4, ge=0)
    """Groups of each step that the run folder keeps in full (token ids, log-probs, divergence)."""


class RunConfig(BaseModel):
    """One run."""

    model_config = SECTION

    run: RunSection
    """The run itself."""
    model: ModelConfig
    """The student."""
    data: DataConfig
    """The samples."""
    rationale_cache: RationaleCacheConfig | None = None
    """Where rationales come from, when not from a column of the data."""
    rollout: RolloutConfig = RolloutConfig()
    """The pool of engines that sample the student's answers."""
    teacher: TeacherConfig = TeacherConfig()
    """The pool that scores the student's tokens under the privileged context."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """The token loss."""
    learner: LearnerConfig = LearnerConfig()
    """The DeepSpeed ranks."""
    weights: WeightsConfig = WeightsConfig()
    """How new weights reach the engines and the teachers."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Where the actors run."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is kept to resume from."""
    eval: EvalConfig = EvalConfig()
    """The before/after table."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """What is measured beside the loss."""
    alarms: AlarmsConfig = AlarmsConfig()
    """What of it speaks against going on."""
