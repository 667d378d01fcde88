"""One contract for both rollout engines, over the tiny model folder; vLLM runs for real, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from omniopsd.mini_omni import write_mini_omni
from rollout.config import ModelConfig, RolloutConfig
from rollout.engine import RolloutEngine
from rollout.evidence import MediaMismatch
from rollout.features import FeatureExtractor
from rollout.forward import branches, thinker_hidden
from rollout.messages import MediaPart, Message, TextPart
from rollout.renderer import END, Renderer
from rollout.sequence import pack_groups
from rollout.thinker import load_thinker, read_weights, save_thinker
from rollout.types import Media, MediaUse, Prompt, RolloutGroup, SamplingSpec
from rollout.weights import WeightDigest, WeightFault, chunk_tensors

pytestmark = pytest.mark.slow

SPEC = SamplingSpec(rollouts=3, max_new_tokens=12, temperature=0.8, top_p=1.0, top_k=0, seed=7)
TOLERANCE = 1e-3
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights four times as large: at its own scale every answer is a coin toss."""
    root = tmp_path_factory.mktemp("model")
    write_mini_omni(root / "plain", size="tiny", corpus=["What does he feel? Subtitle: I am fine."])
    loud = {name: tensor * 4 if tensor.ndim > 1 else tensor for name, tensor in read_weights(root / "plain")}
    save_thinker(loud.items(), root / "plain", root / "loud")
    return root / "loud"


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[RolloutEngine]:
    model = ModelConfig(path=str(folder), max_context=512)
    config = RolloutConfig(engine=request.param, kv_cache_gib=0.25)
    if request.param == "transformers":
        from rollout.transformers_engine import TransformersEngine

        yield TransformersEngine(model, config, "engine 0")
    else:
        from rollout.vllm_engine import VllmEngine

        yield VllmEngine(model, config, "engine 0")


@pytest.fixture(scope="module")
def prompts(folder: Path) -> dict[str, Prompt]:
    """One prompt of each kind: everything, words only, audio in video (two tracks, two videos, sparse).

    vLLM caches key-values in blocks of 128 tokens on the CPU. The words before a shared span put the
    end of a block inside it: behind it come the rest of one track, or (sparse) audio and then video.
    """
    draw = np.random.default_rng(3)
    video = Media.of("video", draw.integers(0, 255, (4, 56, 56, 3), np.uint8), fps=3.0)
    short = Media.of("video", draw.integers(0, 255, (2, 56, 56, 3), np.uint8), fps=3.0)
    sparse = Media.of("video", draw.integers(0, 255, (6, 56, 56, 3), np.uint8), fps=0.4)
    tone = Media.of("audio", 0.3 * np.sin(np.arange(20000) / 9).astype(np.float32))
    noise = Media.of("audio", 0.2 * draw.standard_normal(20000).astype(np.float32))
    long_noise = Media.of("audio", 0.2 * draw.standard_normal(60000).astype(np.float32))
    image = Media.of("image", draw.integers(0, 255, (60, 44, 3), np.uint8))
    renderer = Renderer(folder)

    def prompt(name: str, *media: Media, in_video: bool = False, words: int = 1) -> Prompt:
        parts = [MediaPart(kind=m.kind) for m in media if not (in_video and m.kind == "audio")]
        before, after = TextPart(text="q" * words), TextPart(text="What does he feel?")
        message = Message(role="user", parts=(before, *parts, after))
        rendered = renderer.render((message,), media, audio_in_video=in_video)
        return Prompt(sample_id=name, rendered=rendered)

    return {
        "all": prompt("all", video, noise, image),
        "words": prompt("words"),
        "tone": prompt("tone", video, tone),
        "in-video": prompt("in-video", video, noise, in_video=True, words=100),
        "in-video-tone": prompt("in-video-tone", video, tone, in_video=True, words=100),
        "in-two-videos": prompt("in-two-videos", video, noise, short, tone, image, in_video=True),
        "in-sparse-video": prompt("in-sparse-video", sparse, long_noise, in_video=True, words=50),
    }


class Reference:
    """Log-probs by the forward pass that teacher and learner use."""

    def __init__(self, folder: Path) -> None:
        self.thinker = load_thinker(folder, "float32")
        self.extractor = FeatureExtractor(folder)
        self.end = self.extractor.processor.tokenizer.convert_tokens_to_ids(END)

    def load(self, weights: Weights) -> None:
        self.thinker.load_state_dict(weights, strict=False)

    @torch.no_grad()
    def logprobs(self, prompt: Prompt, response: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        features = self.extractor.features(prompt.rendered)
        pack = pack_groups([branches(self.thinker, prompt.rendered, features, [response])])
        logits = self.thinker.lm_head(thinker_hidden(self.thinker, pack, [features])) / temperature
        rows = logits.log_softmax(-1).gather(-1, torch.from_numpy(pack.targets)[:, None])
        return rows[:, 0].numpy()


@pytest.fixture
def reference(folder: Path) -> Reference:
    return Reference(folder)


def changed(folder: Path, seed: int) -> Weights:
    """The folder's weights with noise on every one."""
    torch.manual_seed(seed)
    return {
        name: tensor + 0.3 * max(float(tensor.std(correction=0)), 0.1) * torch.randn_like(tensor)
        for name, tensor in read_weights(folder)
    }


def push(engine: RolloutEngine, version: int, weights: Weights) -> str:
    digest = WeightDigest()
    engine.start_update(version)
    for chunk in chunk_tensors(weights.items(), 40_000):
        for wire in chunk:
            digest.add(wire)
        engine.load_chunk(chunk)
    receipt = engine.finish_update(version, digest.hexdigest())
    assert (receipt.receiver, receipt.version, receipt.digest) == ("engine 0", version, digest.hexdigest())
    return receipt.digest


def gap(engine: RolloutEngine, reference: Reference, prompt: Prompt, response: np.ndarray) -> float:
    return float(np.abs(engine.score(prompt, response) - reference.logprobs(prompt, response)).mean())


def require_reference(group: RolloutGroup, prompt: Prompt, reference: Reference) -> None:
    for rollout in group.rollouts:
        expected = reference.logprobs(prompt, rollout.response_ids, rollout.temperature)
        assert np.abs(rollout.rollout_logprobs - expected).mean() < TOLERANCE, rollout.rollout_id


class TestEngine:
    """What `RolloutEngine` promises."""

    def test_samples_with_the_logprobs_of_the_reference(self, engine, prompts, reference, folder) -> None:
        push(engine, 1, dict(read_weights(folder)))
        groups = engine.generate(list(prompts.values()), SPEC, step=4)
        assert [group.sample_id for group in groups] == list(prompts)
        for group, prompt in zip(groups, prompts.values(), strict=True):
            assert group.media_use == prompt.rendered.media_use
            assert [r.rollout_id for r in group.rollouts] == [f"4/{prompt.sample_id}/{i}" for i in range(3)]
            for rollout in group.rollouts:
                assert (rollout.policy_version, rollout.temperature) == (1, 0.8)
                assert (rollout.finish == "stop") == (rollout.response_ids[-1] == reference.end)
            require_reference(group, prompt, reference)

    def test_a_cached_prompt_gives_the_same(self, engine, prompts, reference, folder) -> None:
        push(engine, 2, dict(read_weights(folder)))
        for name in ("in-video", "in-video-tone", "in-sparse-video"):
            for _ in range(2):
                (group,) = engine.generate([prompts[name]], SPEC, step=4)
                require_reference(group, prompts[name], reference)

    def test_a_rerun_draws_the_same_whatever_else_is_asked(self, engine, prompts) -> None:
        both = engine.generate([prompts["all"], prompts["words"]], SPEC, step=5)
        alone = engine.generate([prompts["words"]], SPEC, step=5)
        other = engine.generate([prompts["words"]], SPEC, step=6)
        ids = [[list(r.response_ids) for r in group.rollouts] for group in (both[1], alone[0], other[0])]
        assert ids[0] == ids[1] != ids[2]
        assert len({tuple(one) for one in ids[0]}) == 3

    def test_stops_at_the_end_token_and_keeps_it(self, engine, prompts, reference, folder) -> None:
        weights = dict(read_weights(folder))
        push(engine, 2, weights | {"model.norm.weight": torch.zeros_like(weights["model.norm.weight"])})
        groups = engine.generate([prompts["words"]], SPEC_LONG, step=8)
        stopped = [r for r in groups[0].rollouts if r.finish == "stop"]
        assert stopped, "with equal logits some of 16 rollouts of 300 tokens end"
        for rollout in stopped:
            assert list(rollout.response_ids).index(reference.end) == len(rollout.response_ids) - 1
        assert all(len(r.response_ids) == 300 for r in groups[0].rollouts if r.finish == "length")

    def test_greedy_takes_the_likeliest(self, engine, prompts, reference, folder) -> None:
        push(engine, 3, dict(read_weights(folder)))
        asked = [prompts["all"], prompts["in-video"]]
        for prompt, answer in zip(asked, engine.greedy(asked, 6), strict=True):
            assert 1 <= len(answer) <= 6
            best = reference.logprobs(prompt, answer)
            for other in range(0, 300, 37):
                swapped = np.array([other, *answer[1:]], np.int32)
                assert reference.logprobs(prompt, swapped)[0] <= best[0] + 1e-5

    def test_three_pushes_are_held_exactly(self, engine, prompts, reference, folder) -> None:
        response = np.array([9, 8, 7, 6, 5], np.int32)
        before = engine.score(prompts["all"], response)
        for version in (4, 5, 6):
            weights = changed(folder, version)
            push(engine, version, weights)
            reference.load(weights)
            for group in engine.generate([prompts["in-video"]], SPEC, step=3):
                require_reference(group, prompts["in-video"], reference)
            for name in ("all", "words", "in-two-videos"):
                assert gap(engine, reference, prompts[name], response) < TOLERANCE
            assert engine.policy_version == version
        assert np.abs(engine.score(prompts["all"], response) - before).mean() > 0.1
        assert all(
            rollout.policy_version == 6
            for group in engine.generate([prompts["words"]], SPEC, step=9)
            for rollout in group.rollouts
        )

    def test_the_probe_sees_one_stale_tensor(self, engine, prompts, reference, folder) -> None:
        new, old = changed(folder, 20), dict(read_weights(folder))
        reference.load(new)
        for name in (
            "model.embed_tokens.weight",
            "model.layers.1.mlp.down_proj.weight",
            "visual.merger.ln_q.weight",
        ):
            push(engine, 20, new | {name: old[name]})
            assert gap(engine, reference, prompts["all"], np.array([9, 8, 7], np.int32)) > TOLERANCE, name
        push(engine, 20, new)
        assert gap(engine, reference, prompts["all"], np.array([9, 8, 7], np.int32)) < TOLERANCE

    def test_refuses_other_media_than_promised(self, engine, prompts) -> None:
        rendered = prompts["tone"].rendered
        for use, words in (
            (
                MediaUse(kind="audio", digest="0" * 32, tokens=rendered.media_use[1].tokens),
                "audio 0 has digest",
            ),
            (MediaUse(kind="audio", digest=rendered.media_use[1].digest, tokens=3), "audio"),
        ):
            wrong = replaced(rendered, media_use=(rendered.media_use[0], use))
            with pytest.raises(MediaMismatch, match=f"rollout: sample tone: {words}"):
                engine.generate([Prompt(sample_id="tone", rendered=wrong)], SPEC, step=1)
        engine.generate([prompts["tone"]], SPEC, step=1)

    def test_a_push_with_a_hole_leaves_no_version(self, engine, prompts, folder) -> None:
        weights = dict(read_weights(folder))
        hole = {name: tensor for name, tensor in weights.items() if name != "model.norm.weight"}
        with pytest.raises(WeightFault, match=r"1 tensors missing \['model.norm.weight'\]"):
            push(engine, 30, hole)
        with pytest.raises(RuntimeError, match="did not finish"):
            engine.generate([prompts["words"]], SPEC, step=1)


SPEC_LONG = SamplingSpec(rollouts=16, max_new_tokens=300, temperature=1.0, top_p=1.0, top_k=0, seed=1)


def replaced(record, **fields):
    import dataclasses

    return dataclasses.replace(record, **fields)
