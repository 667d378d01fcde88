"""Settings of the model endpoint and of the rationale cache. Importable without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class EndpointConfig(BaseModel):
    """A model behind an OpenAI-compatible API."""

    model_config = SECTION

    model: str = Field(min_length=1)
    """Name of the model, as the endpoint knows it."""
    base_url: str = "https://api.openai.com/v1"
    """Address of the API, up to and with its version."""
    api_key_env: str | None = None
    """Environment variable with the API key. The key itself is never written into the YAML."""
    api_key_file: str | None = None
    """File with the API key, readable by its owner only (chmod 600)."""
    max_concurrency: int = Field(default=8, ge=1)
    """Requests that are out at the same time."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Most requests that leave in any minute; unset: no limit of our own."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Most tokens (in and out) in any minute, by an estimate that each reply corrects."""
    request_timeout_seconds: float = Field(default=120.0, gt=0)
    """Longest wait for one reply, from the first byte sent to the last byte received."""
    deadline_seconds: float = Field(default=600.0, gt=0)
    """Longest time of one row over all its attempts; waits for a rate limit or an outage do not count."""
    max_attempts: int = Field(default=8, ge=1)
    """Requests of one row that may fail on the way (429, 5xx, timeout, reset) before it is left for another run."""
    backoff_seconds: float = Field(default=0.5, gt=0)
    """Wait after a first failure; doubled each time, half of it by chance, at most 60 seconds."""
    breaker_failures: int = Field(default=5, ge=1)
    """Failures in a row after which only single probes leave, at growing distances, until one is answered."""
    give_up_seconds: float = Field(default=900.0, gt=0)
    """An endpoint that answered nothing for so long, or asks to wait for so long, ends the run; nothing is lost."""
