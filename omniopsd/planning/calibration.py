"""Measured constants of one run's model on some machine, as a JSON file. Importable without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.yaml_file import ConfigError
from omniopsd.durable import write_durably

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
Role = Literal["rollout", "teacher", "learner"]
ROLES: tuple[Role, ...] = ("rollout", "teacher", "learner")
FORMAT = 1


class RoleRates(BaseModel):
    """What one actor of a role does: rates of its device, fixed times of its calls, memory of its process."""

    model_config = SECTION

    flops: float = Field(gt=0)
    """Operations per second in a matrix product of the model's own sizes, the role's type and threads."""
    bytes_per_second: float = Field(gt=0)
    """Memory traffic per second of a large copy, read and written."""
    seconds: dict[str, float]
    """Fixed seconds by what they are paid for (call, sample, step, token, number ...), fitted."""
    base_bytes: float = Field(ge=0)
    """Memory of the process beyond what the formulas count."""
    threads: int = Field(ge=1)
    """Threads that were used."""


class AnswerLengths(BaseModel):
    """How long the student's answers were."""

    model_config = SECTION

    mean: float = Field(gt=0)
    """Mean tokens of an answer."""
    longest: float = Field(gt=0)
    """Mean of the longest answer of a generate call."""
    limit: int = Field(ge=1)
    """`rollout.max_new_tokens` of the measurement."""


class Calibration(BaseModel):
    """One measurement."""

    model_config = SECTION

    format: Literal[1]
    """Version of this file's form."""
    source: Literal["measured"]
    """Where the numbers come from."""
    host: str
    """Machine."""
    date: str
    """When, UTC."""
    clock: Literal["wall", "cpu"]
    """Wall-clock seconds, or seconds of processor time (for machines that other programs use too)."""
    cores: int = Field(ge=1)
    """Processors of the machine."""
    gpu: str | None
    """What torch calls the GPU; null: measured on CPUs."""
    model: str
    """Digest of the model's config.json."""
    dtype: str
    """Type of the weights."""
    engine: str
    """`rollout.engine` of the measurement."""
    versions: dict[str, str]
    """Packages."""
    rates: dict[Role, RoleRates]
    """By role; a run without a teacher pool has none for it."""
    driver_sample_seconds: float = Field(ge=0)
    """What the driver needs to decode and render one sample that it has not seen yet."""
    driver_bytes: float = Field(ge=0)
    """Memory of the driver's process without its media cache."""
    push_seconds: dict[str, float]
    """Push: fixed seconds, and seconds per byte of sender, engine and teacher."""
    answers: AnswerLengths
    """Lengths of the answers."""


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration file. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--calibration {path}: cannot be read: {error}") from error
    try:
        return Calibration.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"--calibration {path}: {where}: {first['msg']}; make the file anew with `omniopsd plan calibrate`"
        ) from error


def save_calibration(path: str | Path, calibration: Calibration) -> None:
    """Write it."""
    text = json.dumps(calibration.model_dump(mode="json"), indent=1, sort_keys=True)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_durably(Path(path), (text + "\n").encode())
