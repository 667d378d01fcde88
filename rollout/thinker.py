"""The model folder: a Qwen2.5-Omni thinker with its processor, as Hugging Face and vLLM both read it.

A folder has `config.json` (model type `qwen2_5_omni`, the thinker's part under `thinker_config`),
weights named `thinker.*` in safetensors, and the processor's files. Inside the program the weights
carry the names of transformers' thinker class ("model.layers.0...", without that prefix).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration
from transformers.distributed import DistributedConfig

PREFIX = "thinker."
SHARD_BYTES = 4_000_000_000
# Over the library's plan, which splits a tied embedding and leaves its head without the sums that this needs;
# ids beyond a split embedding would also become rows of zeros without a word (transformers 5.19). The style's
# own work is in the backward pass, which a teacher never makes.
WHOLE = {"model.embed_tokens": "replicated_with_grad_allreduce"}


class ModelFolderError(ValueError):
    """A model folder that is missing, incomplete or of another architecture."""


def read_config(path: str | Path) -> dict[str, Any]:
    """The folder's `config.json`. Raises ModelFolderError when it is not a Qwen2.5-Omni thinker."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ModelFolderError(
            f"model.path {path}: no config.json found; give a folder with a Qwen2.5-Omni model"
        )
    config: dict[str, Any] = json.loads(file.read_text())
    if config.get("model_type") != "qwen2_5_omni" or "thinker_config" not in config:
        raise ModelFolderError(
            f"{file}: model_type is {config.get('model_type')!r}; a qwen2_5_omni folder with a thinker_config is needed"
        )
    return config


def load_thinker(
    path: str | Path, dtype: str, *, ranks: int = 1
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The thinker in eval mode, its weights as `dtype` ("float32" or "bfloat16"), attention by SDPA.

    With `ranks` above 1 this process's part of it, by the library's plan for the model: the processes of the
    present group must load together, and the text layers' weights are then DTensors on its device.
    Raises ModelFolderError when a weight is missing, left over or of another shape.
    """
    read_config(path)
    try:
        thinker, info = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            output_loading_info=True,
            local_files_only=True,
            distributed_config=DistributedConfig(tp_size=ranks, tp_plan=WHOLE) if ranks > 1 else None,
        )
    except (OSError, RuntimeError) as error:
        raise ModelFolderError(f"model.path {path}: the weights cannot be loaded: {error}") from error
    missing = set(info["missing_keys"]) - {"lm_head.weight" if thinker.config.tie_word_embeddings else ""}
    foreign = {key for key in info["unexpected_keys"] if key.startswith(PREFIX)}
    if missing or foreign or info["mismatched_keys"]:
        raise ModelFolderError(
            f"model.path {path}: the weights do not fit its config.json: missing {sorted(missing)[:3]}, "
            f"left over {sorted(foreign)[:3]}, of another shape {sorted(map(str, info['mismatched_keys']))[:3]}"
        )
    thinker.eval()
    thinker.config.use_cache = False
    return thinker


def read_weights(path: str | Path) -> Iterable[tuple[str, torch.Tensor]]:
    """All weights of a folder under their thinker names; those of other parts are left out."""
    files = sorted(Path(path).glob("*.safetensors"))
    if not files:
        raise ModelFolderError(f"model.path {path}: no *.safetensors file found")
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                if name.startswith(PREFIX):
                    yield name.removeprefix(PREFIX), tensors.get_tensor(name)


def save_thinker(weights: Iterable[tuple[str, torch.Tensor]], source: str | Path, out: str | Path) -> None:
    """Write a model folder: `weights` by thinker name, config and processor files from `source`."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(Path(source).iterdir()):
        kept = file.suffix in {".json", ".txt", ".jinja"} and "safetensors" not in file.name
        if file.is_file() and kept and file.resolve() != (out / file.name).resolve():
            shutil.copyfile(file, out / file.name)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in weights:
        bytes_ = tensor.numel() * tensor.element_size()
        if size + bytes_ > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][PREFIX + name] = tensor.detach().cpu().contiguous().clone()
        size += bytes_
    _write_shards(shards, out)


def _write_shards(shards: list[dict[str, torch.Tensor]], out: Path) -> None:
    if len(shards) == 1:
        save_file(shards[0], out / "model.safetensors", metadata={"format": "pt"})
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, out / name, metadata={"format": "pt"})
        where.update(dict.fromkeys(shard, name))
    index = {"metadata": {}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
