"""`omniopsd check`: everything that can be wrong with a run before anything starts.

Looks at the config, the model folder and the data, renders prompts, and prints the resolved config and
the token budget. All problems come at once.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from safetensors import safe_open

from omniopsd.bench.callback import BenchCallback
from omniopsd.config import RunConfig
from omniopsd.config_file import config_yaml
from omniopsd.order import DataOrder
from omniopsd.prompts import make_book
from omniopsd.rationales.lookup import run_samples
from omniopsd.samples import Sample
from omniopsd.signals import require_labels
from omniopsd.supervised import require_targets
from omniopsd.token_budget import TokenBudget
from rollout.renderer import Renderer, token_counts
from rollout.thinker import ModelFolderError, read_config
from teacher.shards import undivided

P = ParamSpec("P")
T = TypeVar("T")

LAYERS = "thinker.model.layers."
MOST_PROBLEMS = 20


class CheckError(ValueError):
    """A run that would fail or mislead; one line for each problem."""


def check(config: RunConfig, *, limit: int = 64) -> None:
    """Print the resolved config and the token budget. Raises CheckError with all problems.

    Media are decoded for at most `limit` samples of each data file, spread over the file.
    """
    print(config_yaml(config))
    problems: list[str] = []
    renderer, train, test = _read(config, problems)
    if renderer:
        path, digest = config.model.path, renderer.vocab_digest
        print(f"model {path}: {renderer.vocab_size} tokens, vocabulary {digest} for all roles")
    if train:
        _rendered("data.train", train, config, renderer, limit, problems)
    if config.eval.bench and renderer and train:
        _attempt(problems, BenchCallback, config, config.eval.bench, Path(config.run.root), renderer, train)
    if test:
        _rendered("data.test", test, _for_test(config), renderer, limit, problems)
    _report(problems)


def require_sound(config: RunConfig) -> tuple[Renderer, Sequence[Sample], Sequence[Sample] | None]:
    """What `check` sees without decoding media; every run asks it first. Raises CheckError.

    Gives what it has read: the renderer, the training samples, and the test samples if there are any.
    """
    problems: list[str] = []
    renderer, train, test = _read(config, problems)
    _raise(problems)
    assert renderer is not None and train is not None  # else there was a problem
    return renderer, train, test


def _read(
    config: RunConfig, problems: list[str]
) -> tuple[Renderer | None, Sequence[Sample] | None, Sequence[Sample] | None]:
    """Model folder and data files, with what is wrong with them."""
    renderer = _attempt(problems, _model, config, problems)
    train = _attempt(problems, run_samples, config, config.data.train)
    test = None
    if config.data.test:
        test = _attempt(problems, run_samples, config, config.data.test, held_out=True)
    problems += _installed(config)
    if train:
        _attempt(problems, require_labels, config.objective, train)
    if train and config.objective.divergence == "cross_entropy":
        _attempt(problems, require_targets, train, config.objective.supervised)
    if train and test:
        problems += _shared_samples(train, test)
    if test:
        problems += _without_labels("data.test", test, "no answer to them could be right")
    if train and config.objective.has_teacher and config.teacher.weights == "gated":
        problems += _without_labels("data.train", train, "teacher.weights: gated cannot judge their answers")
    return renderer, train, test


def _attempt(problems: list[str], work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | None:
    """The value of `work`, or None and its error among the problems."""
    try:
        return work(*args, **kwargs)
    except ValueError as error:
        problems += str(error).splitlines()
        return None


def _model(config: RunConfig, problems: list[str]) -> Renderer:
    path = config.model.path
    settings = read_config(path)
    renderer = Renderer(path)
    text = settings["thinker_config"].get("text_config", {})
    problems += _sizes(config, text, renderer)
    problems += _architecture(config, settings)
    problems += _split(config, settings)
    problems += _lora_targets(config)
    return renderer


def _architecture(config: RunConfig, settings: dict[str, Any]) -> Iterator[str]:
    found = settings.get("architectures")
    if config.rollout.engine == "vllm" and found != ["Qwen2_5OmniModel"]:
        yield (
            f"{config.model.path}/config.json: architectures is {found}, and vLLM knows this model as "
            '["Qwen2_5OmniModel"]; write that'
        )


def _split(config: RunConfig, settings: dict[str, Any]) -> Iterator[str]:
    """Sizes of the model that the ranks of a split teacher do not divide."""
    ranks = config.teacher.ranks if config.objective.has_teacher else 1
    uneven = undivided(settings["thinker_config"], ranks)
    if uneven:
        yield (
            f"teacher.tensor_parallel_size: {ranks} does not divide the model's {', '.join(uneven)}; "
            "write a number that divides them all"
        )


def _sizes(config: RunConfig, text: dict[str, Any], renderer: Renderer) -> Iterator[str]:
    path = config.model.path
    rows = text.get("vocab_size", renderer.vocab_size)
    if rows < renderer.vocab_size:
        yield f"{path}: the tokenizer has {renderer.vocab_size} tokens and the model's head {rows} rows"
    longest = text.get("max_position_embeddings", config.model.max_context)
    if config.model.max_context > longest:
        found = config.model.max_context
        yield f"model.max_context: {found} is above the model's {longest} positions; lower it"
    sizes = config.objective.support.endswith("topk") or config.objective.support == "union"
    if sizes and config.objective.top_k >= renderer.vocab_size:
        yield (
            f"objective.top_k: {config.objective.top_k} is not below the {renderer.vocab_size} tokens of the "
            "vocabulary; lower it, or write support: full"
        )


def _lora_targets(config: RunConfig) -> Iterator[str]:
    # peft skips a name that matches nothing as long as another one matches.
    files = sorted(Path(config.model.path).glob("*.safetensors"))
    if not files:
        raise ModelFolderError(f"model.path {config.model.path}: no *.safetensors file found")
    if config.learner.lora is None:
        return
    layers = set()
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            layers |= {name.split(".")[-2] for name in tensors.keys() if name.startswith(LAYERS)}  # noqa: SIM118
    for target in config.learner.lora.targets:
        if target not in layers:
            yield f"learner.lora.targets: the language model has no layer {target}; correct it"


def _installed(config: RunConfig) -> Iterator[str]:
    if importlib.util.find_spec("deepspeed") is None:
        yield "deepspeed is not installed; install this project with its dependencies"
    if config.rollout.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        yield "rollout.engine: vllm is not installed; install the extra cpu or gpu, or write transformers"


def _shared_samples(train: Sequence[Sample], test: Sequence[Sample]) -> Iterator[str]:
    known = {_question(sample) for sample in train}
    shared = [sample for sample in test if _question(sample) in known]
    if shared:
        yield (
            f"data.test: {len(shared)} of {len(test)} samples are in data.train too (first: "
            f"{shared[0].where}); take them out of one file"
        )


def _question(sample: Sample) -> tuple[object, ...]:
    inputs, root = sample.inputs, Path(sample.inputs.paths.root)
    paths = (*inputs.paths.videos, *inputs.paths.audios, *inputs.paths.images)
    return inputs.messages, tuple(str((root / path).resolve()) for path in paths), inputs.audio_in_video


def _without_labels(key: str, samples: Sequence[Sample], why: str) -> Iterator[str]:
    bare = [sample for sample in samples if not sample.labels]
    if bare:
        yield (
            f"{key}: {len(bare)} of {len(samples)} samples have no labels (first: {bare[0].where}), so "
            f"{why}; add labels, or take them out"
        )


def _for_test(config: RunConfig) -> RunConfig:
    """The test samples need evidence only where the teacher answers them too."""
    changes: dict[str, str] = {} if config.eval.teacher else {"privilege": "none"}
    if config.rationale_cache is not None:
        changes["missing"] = "skip"
    return config.model_copy(update={"teacher": config.teacher.model_copy(update=changes)})


def _rendered(
    name: str,
    samples: Sequence[Sample],
    config: RunConfig,
    renderer: Renderer | None,
    limit: int,
    problems: list[str],
) -> None:
    """Render up to `limit` samples of one file, and print what they cost."""
    book = _attempt(problems, make_book, config, samples, renderer) if renderer else None
    if book is None:
        return
    trained = name == "data.train"
    if trained:
        _attempt(problems, _order, config, len(book.samples))
    chosen = _spread(book.samples, limit)
    prompts, contexts = [], []
    for sample in chosen:
        prompt = _attempt(problems, book.prompt, sample)
        context = _attempt(problems, book.context, sample) if prompt else None
        if context is not None and prompt is not None:
            prompts.append(token_counts(prompt.rendered))
            contexts.append(token_counts(context.rendered))
    budget = TokenBudget(prompts=tuple(prompts), contexts=tuple(contexts))
    skipped = f", {book.skipped} skipped for missing evidence" if book.skipped else ""
    print(f"\n{name}: {len(samples)} samples{skipped}; media of {len(chosen)} of them decoded")
    if prompts:
        print("\n".join(budget.lines(config, trained=trained)))
        problems += budget.problems(config)


def _order(config: RunConfig, count: int) -> DataOrder:
    run = config.run
    return DataOrder(count, per_step=run.samples_per_step, seed=run.seed, shuffle=config.data.shuffle)


def _spread(samples: Sequence[Sample], limit: int) -> list[Sample]:
    count = min(limit, len(samples))
    return [samples[at * len(samples) // count] for at in range(count)]


def _report(problems: Sequence[str]) -> None:
    _raise(problems)
    print("\nno problem found")


def _raise(problems: Sequence[str]) -> None:
    unique = list(dict.fromkeys(problems))
    if not unique:
        return
    shown = unique[:MOST_PROBLEMS]
    if len(unique) > MOST_PROBLEMS:
        shown.append(f"... and {len(unique) - MOST_PROBLEMS} more")
    raise CheckError("\n".join(shown))
