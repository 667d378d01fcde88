"""Settings of the model endpoint and of the rationale cache. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rationale_cache.types import Mode

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
Kind = Literal["video", "audio", "image"]


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


class FiltersConfig(BaseModel):
    """What a reply must be to become evidence. A reply that fails is asked for again, `max_asks` times in all."""

    model_config = SECTION

    min_chars: int = Field(default=20, ge=1)
    """Shortest rationale."""
    max_chars: int = Field(default=2000, ge=1)
    """Longest rationale; a longer one is not cut, because a cut text ends in the middle of its evidence."""
    agreement: bool = True
    """The model's own answer must be one of the labels: the check of the blind mode, and a sign of contradiction
    in the other. Needs `reply: schema`; not judged for a sample without labels."""
    absent_media: bool = True
    """Refuse cues of, and words about, media that were not sent (a voice without audio, a face without pictures)."""
    language: str | None = Field(default=None, pattern="^[a-z]{2}$")
    """ISO 639-1 code of the language that the rationale must be in; unset: any."""
    near_duplicate: float | None = Field(default=None, gt=0.5, le=1)
    """Refuse a text that shares this part of its word triples (Jaccard) with another sample's; unset: allowed."""
    redact_labels: bool = False
    """Write `[...]` for the sample's labels wherever the rationale names them."""


class PricesConfig(BaseModel):
    """US dollars for a million tokens."""

    model_config = SECTION

    input: float = Field(ge=0)
    """Prompt tokens."""
    output: float = Field(ge=0)
    """Completion tokens, those of hidden reasoning included."""
    cached_input: float | None = Field(default=None, ge=0)
    """Prompt tokens that the endpoint had cached; unset: as `input`."""
    audio_input: float | None = Field(default=None, ge=0)
    """Prompt tokens of audio; unset: as `input`."""


class BudgetConfig(BaseModel):
    """Where making stops. Counts what the cache holds of this model already, so that a restart starts no new budget."""

    model_config = SECTION

    max_cost: float | None = Field(default=None, gt=0)
    """US dollars; needs `prices`. A request that could go above it is not sent."""
    max_requests: int | None = Field(default=None, ge=1)
    """Requests, those that fail included (of earlier runs: the answered ones)."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens in and out."""


class RationaleCacheConfig(EndpointConfig):
    """Rationales come from a cache by the hash of their request, instead of from a column of the data."""

    path: str = Field(min_length=1)
    """Folder of the cache; several runs and data sets may share one."""
    mode: Mode = "blind"
    """`blind`: the model does not see the label, and its own answer is checked against it afterwards.
    `label_conditioned`: it is told the label and explains it."""
    prompt: str | None = None
    """What the model is asked, with `{task}` (the sample's messages), `{media}` (what was attached) and, when
    label-conditioned, `{label}`; unset: the built-in prompt of the mode (`omniopsd rationales prompt`)."""
    reply: Literal["schema", "text"] = "schema"
    """Structured output (cues by modality with spans, a rationale, an answer), or the reply's whole text."""
    send: tuple[Kind, ...] = ("video", "audio", "image")
    """Kinds of media that are sent; leave one out that the model cannot take."""
    max_frames: int = Field(default=8, ge=1)
    """Most frames sent of one video, spread over those of `data.media`."""
    max_side: int = Field(default=512, ge=28)
    """Longest side of a frame or image in pixels; larger ones are scaled down."""
    max_completion_tokens: int = Field(default=800, ge=1)
    """Longest reply, hidden reasoning included."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature; unset: not sent, because some models take none."""
    seed: int | None = Field(default=None, ge=0)
    """Sent plus the number of the repeat; a new one asks for new rationales of every sample. Unset: not sent."""
    extra_body: dict[str, JsonValue] = {}
    """More parameters of the endpoint, sent as they are (`reasoning_effort`, `top_k`, ...)."""
    max_asks: int = Field(default=3, ge=1)
    """Replies that one row may get until one is good; then it is kept as `no rationale`, with the reason."""
    stop_after: int = Field(default=50, ge=1)
    """Rows in a row without rationale after which the run stops: the prompt, the model or a filter is wrong. Those rows
    get no record, and their replies are judged anew by the next run."""
    on_miss: Literal["make", "fail", "skip"] = "fail"
    """A sample that the cache has no record of, at the start of a run: make it, stop, or leave the sample out."""
    on_both: Literal["fail", "cache", "data"] = "fail"
    """A sample that has a rationale in the data file too: stop, or say which of the two counts."""
    on_model_change: Literal["warn", "fail"] = "warn"
    """Replies that name another model than earlier ones of this cache: say so, or stop."""
    on_no_gain: Literal["warn", "fail"] = "warn"
    """An audit in which the privileged teacher is no better than the student: say so loudly, or exit with an error."""
    commit_every: int = Field(default=200, ge=1)
    """Rows between two commits; what is not committed is in the write-ahead log, and lost to nobody."""
    filters: FiltersConfig = FiltersConfig()
    """What a reply must be to become evidence."""
    budget: BudgetConfig = BudgetConfig()
    """Where making stops."""
    prices: PricesConfig | None = None
    """What tokens cost; unset: cost is not known."""
