"""Settings of the model, the media and the rollout pool. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
Transport = Literal["object_store", "nccl"]


class ModelConfig(BaseModel):
    """The student: one Hugging Face folder that student, teacher and engines all start from."""

    model_config = SECTION

    path: str
    """Folder of a Qwen2.5-Omni thinker (full config, processor, `thinker.*` weights)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in the forward passes of all three roles; masters are always float32."""
    max_context: int = Field(default=24576, ge=16)
    """Longest prompt + response in tokens, for student and teacher alike (paper: 24K)."""


class MediaConfig(BaseModel):
    """How media become arrays; every station works from these."""

    model_config = SECTION

    fps: float = Field(default=2.0, gt=0)
    """Frames per second to sample; lowered for a sample whose longest video would need more than `max_frames`."""
    max_frames: int = Field(default=16, ge=1, le=16)
    """Most frames of one video (paper: 1 to 16)."""
    max_seconds: float = Field(default=600.0, gt=0)
    """Longest audio or video; a longer file is an error, not a cut."""
    max_pixels: int = Field(default=16_777_216, gt=0)
    """Largest decoded image or frame, width x height; a larger one is refused before it is decoded."""
    cache_bytes: int = Field(default=1_000_000_000, ge=0)
    """Decoded media that the driver keeps in memory between epochs."""
    decoders: int = Field(default=0, ge=0)
    """Actors of one CPU each, spread over the nodes, that decode the next step's media while engines sample; 0: the
    driver decodes. The arrays are the same."""


class RolloutConfig(BaseModel):
    """The pool of engines that sample the student's answers."""

    model_config = SECTION

    engine: Literal["vllm", "transformers"] = "vllm"
    """vLLM, or plain transformers for machines without it (slow, for debugging)."""
    replicas: int = Field(default=1, ge=1)
    """Engines in the pool; each is one Ray actor."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs of one engine, passed through to vLLM."""
    cpus: float = Field(default=1.0, gt=0)
    """CPUs that Ray reserves for one engine."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs that Ray reserves for one engine; must equal `tensor_parallel_size` when not 0."""
    straddle_nodes: bool = False
    """Let one tensor-parallel engine lie on GPUs of several nodes where no node has enough. Every layer then waits
    for the network between them; only for models that fit no single node."""
    rollouts_per_sample: int = Field(default=4, ge=1)
    """Answers sampled for one prompt (G)."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Longest answer (paper: 512)."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature. Greedy decoding is for `omniopsd eval`: there is nothing on-policy to learn from it."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus; below 1 the sampled distribution is not the policy's, and importance correction is refused."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all. Same warning as `top_p`."""
    max_policy_lag: int = Field(default=0, ge=0)
    """How many versions old a trained rollout may be; 0 is the strictly on-policy loop of the paper."""
    samples_per_call: int = Field(default=8, ge=1)
    """Prompts of one generate call; scoring starts as each call returns."""
    memory_fraction: float = Field(default=0.2, gt=0, le=1)
    """Share of the device's memory for vLLM (`gpu_memory_utilization`)."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Size of vLLM's key-value cache on the CPU; on GPUs `memory_fraction` decides."""
    enforce_eager: bool = True
    """No CUDA graphs or compilation in vLLM; set false on GPUs for speed."""
    timeout_seconds: float = Field(default=600.0, gt=0)
    """Longest wait for one generate call before the step fails."""


class WeightsConfig(BaseModel):
    """How new weights reach the engines and the teachers."""

    model_config = SECTION

    transport: Transport = "object_store"
    """Ray's shared memory (works everywhere), or `nccl`: broadcast from the learner's first GPU to every engine.

    Teachers that follow the student (`live`, `ema`) always receive through shared memory."""
    chunk_bytes: int = Field(default=268_435_456, ge=1_000_000)
    """Size of one piece of the push; bounds the memory that a gather needs."""
    probe_every: int = Field(default=1, ge=1)
    """Compare engine and learner log-probs on a fixed prompt after every this many pushes."""
    probe_tolerance: float = Field(default=1e-3, gt=0)
    """Largest mean absolute difference of the probe (float32); bfloat16 needs about 5e-2."""
    timeout_seconds: float = Field(default=300.0, gt=0)
    """Longest wait for all receivers to confirm a version."""
