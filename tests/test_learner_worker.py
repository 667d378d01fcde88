"""One rank: what it refuses, what it trains, what it sends and keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.runtime import InlineRef, InlineRuntime
from learner.config import LearnerConfig, LoraConfig, ObjectiveConfig
from learner.engine import LearnerFault
from learner.group import LearnerGroup
from learner.head import ForeignHead
from learner.worker import ForeignRecord, LearnerWorker
from rollout.config import WeightsConfig
from rollout.evidence import MediaMismatch
from rollout.forward import branches, thinker_hidden
from rollout.sequence import pack_groups
from rollout.thinker import load_thinker, read_weights
from rollout.types import RecordError
from rollout.weights import WeightDigest
from teacher.config import TeacherConfig
from teacher.types import GroupScore
from tests.learner_scene import Scene, free_address, full_weights, make_scene, worker

pytestmark = pytest.mark.slow

TRAIN = LearnerConfig(lr=1e-3, zero_stage=0, freeze=())
ALL = [[[0, 1, 2, 3], [4]]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(
        tmp_path_factory.mktemp("worker"), kinds=("text", "image", "audio", "video", "video+audio")
    )


def one_rank(scene: Scene, learner: LearnerConfig = TRAIN, **others: object) -> LearnerWorker:
    return worker(scene, 0, learner, free_address(), **others)


def train(one: LearnerWorker, scene: Scene, cells: list = ALL, steps: int = 1) -> list[float]:
    plan = scene.plan(cells)
    return [one.train_step(plan, scene.of(plan, 0)).loss for _ in range(steps)]


def changed(scene: Scene, at: int, **fields: object) -> Scene:
    """The scene with other fields in one group's input."""
    groups = list(scene.groups)
    groups[at] = dataclasses.replace(groups[at], **fields)
    return dataclasses.replace(scene, groups=tuple(groups))


def score_of(scene: Scene, at: int) -> GroupScore:
    return scene.groups[at].scores.get()[0]


def test_the_loss_falls_and_the_report_adds_up(scene: Scene) -> None:
    one = one_rank(scene)
    plan = scene.plan(ALL)
    report = one.train_step(plan, scene.of(plan, 0))
    assert (report.tokens, report.sequences, report.version) == (plan.tokens, plan.sequences, 1)
    assert report.sums["divergence"] == pytest.approx(
        sum(d.sum() for d in report.divergence.values()), rel=1e-5
    )
    bins = sum(report.sums[f"divergence_bin_{number}"] for number in range(8))
    assert bins == pytest.approx(report.sums["divergence"], rel=1e-6)
    means = [d.mean() for d in report.divergence.values()]
    assert report.loss == pytest.approx(np.mean(means), rel=1e-5)  # mean over tokens, then over sequences
    assert set(report.media_use) == {f"s{at}" for at in range(5)}
    assert len(report.media_use["s4"]) == 2
    assert train(one, scene, steps=10)[-1] < 0.98 * report.loss


def test_the_statistics_are_those_of_a_plain_forward_pass(scene: Scene) -> None:
    one = one_rank(scene)
    group, score = scene.groups[4], score_of(scene, 4)
    plan = scene.plan([[[4]]])
    report = one.train_step(plan, scene.of(plan, 0))
    thinker = load_thinker(scene.model.path, "float32")
    features = one.features.features(group.prompt)
    responses = [r.response_ids for r in group.rollouts.rollouts]
    pack = pack_groups([branches(thinker, group.prompt, features, responses)])
    with torch.no_grad():
        logits = thinker.lm_head(thinker_hidden(thinker, pack, [features]))
    assert one.features.vocab_size < logits.shape[1]
    # the engine samples from all rows of the head; the divergence knows the tokenizer's entries alone
    whole, logprobs = logits.log_softmax(-1), logits[:, : one.features.vocab_size].log_softmax(-1)
    targets = torch.from_numpy(pack.targets)[:, None]
    own, real = (values.gather(1, targets)[:, 0].numpy() for values in (whole, logprobs))
    theirs = np.concatenate([s.logprobs for s in score.scores])
    rolled = np.concatenate([r.rollout_logprobs for r in group.rollouts.rollouts])
    assert np.concatenate(list(report.student_logprobs.values())) == pytest.approx(own, abs=1e-5)
    assert report.sums["teacher_gain"] == pytest.approx((theirs - real).sum(), rel=1e-4)
    assert report.sums["logprob_gap"] == pytest.approx(np.abs(rolled - own).sum(), rel=1e-4)
    entropy = -(logprobs.exp() * logprobs).sum()
    assert report.sums["student_entropy"] == pytest.approx(float(entropy), rel=1e-4)


def test_truncated_answers_are_masked_and_counted(scene: Scene) -> None:
    group = scene.groups[0].rollouts
    cut = dataclasses.replace(group.rollouts[0], finish="length")
    other = changed(scene, 0, rollouts=dataclasses.replace(group, rollouts=(cut, group.rollouts[1])))
    one = one_rank(other, objective=ObjectiveConfig(train_truncated=False))
    plan = dataclasses.replace(other.plan([[[0]]]), sequences=1, tokens=len(group.rollouts[1].response_ids))
    report = one.train_step(plan, other.of(plan, 0))
    assert (report.tokens, report.sequences, report.sums["truncated"]) == (plan.tokens, 1, 1)
    assert report.loss == pytest.approx(report.divergence["0-1"].mean(), rel=1e-5)
    assert set(report.divergence) == {"0-0", "0-1"}


@pytest.mark.parametrize("support", ["topk", "sampled"])
def test_other_supports_need_no_head(scene: Scene, support: str) -> None:
    score = score_of(scene, 0)
    top = np.tile(np.arange(8, dtype=np.int32), (64, 1))
    flat = np.full((64, 8), -5.0, np.float32)
    bare = [
        dataclasses.replace(
            s,
            hidden=None,
            head_digest="",
            topk_ids=top[: len(s.logprobs)] if support == "topk" else None,
            topk_logprobs=flat[: len(s.logprobs)] if support == "topk" else None,
        )
        for s in score.scores
    ]
    other = changed(scene, 0, scores=InlineRef([dataclasses.replace(score, scores=tuple(bare))]))
    divergence = "jsd" if support == "topk" else "sampled"
    one = one_rank(other, objective=ObjectiveConfig(support=support, divergence=divergence))
    assert np.isfinite(train(one, other, [[[0]]])[0])


def test_cross_entropy_trains_without_a_teacher(scene: Scene) -> None:
    bare = changed(scene, 0, scores=None)
    one = one_rank(bare, objective=ObjectiveConfig(divergence="cross_entropy"))
    first, *_, last = train(one, bare, [[[0]]], steps=8)
    assert last < first
    with pytest.raises(ForeignRecord, match="s0: no score"):
        train(one_rank(bare), bare, [[[0]]])


def test_records_that_do_not_belong_together_are_refused(scene: Scene) -> None:
    one = one_rank(scene)
    before = full_weights(one)
    group, score = scene.groups[3], score_of(scene, 3)
    use = score.media_use
    newer = tuple(dataclasses.replace(r, policy_version=7) for r in group.rollouts.rollouts)
    foreign = tuple(dataclasses.replace(s, head_digest="00") for s in score.scores)
    wrong = [
        (
            MediaMismatch,
            "rollout: sample s3",
            {"rollouts": dataclasses.replace(group.rollouts, media_use=())},
        ),
        (
            MediaMismatch,
            "teacher: sample s3",
            {"scores": [dataclasses.replace(score, media_use=(*use, *use))]},
        ),
        (ForeignRecord, "version 7", {"rollouts": dataclasses.replace(group.rollouts, rollouts=newer)}),
        (ForeignHead, "3-0", {"scores": [dataclasses.replace(score, scores=foreign)]}),
        (RecordError, "s3", {"scores": [score_of(scene, 2)]}),
    ]
    for error, text, fields in wrong:
        packed = {key: InlineRef(value) if key == "scores" else value for key, value in fields.items()}
        with pytest.raises(error, match=text):
            train(one, changed(scene, 3, **packed), [[[3]]])
    poor = dataclasses.replace(group.prompt, media_use=tuple(dataclasses.replace(u, tokens=1) for u in use))
    fields = {"prompt": poor, "rollouts": dataclasses.replace(group.rollouts, media_use=poor.media_use)}
    same = InlineRef([dataclasses.replace(score, media_use=poor.media_use)])
    with pytest.raises(MediaMismatch, match="learner: sample s3: video 0 has 8 tokens"):
        train(one, changed(scene, 3, scores=same, **fields), [[[3]]])
    assert all(torch.equal(tensor, before[name]) for name, tensor in full_weights(one).items())
    assert one.version == 0


def test_a_plan_with_another_denominator_is_refused_before_the_step(scene: Scene) -> None:
    one = one_rank(scene)
    plan = dataclasses.replace(scene.plan([[[0, 1]]]), tokens=1000)
    with pytest.raises(LearnerFault, match="the plan divides by 1000 in 4"):
        one.train_step(plan, scene.of(plan, 0))
    assert one.version == 0


def test_a_loss_that_is_not_finite_changes_nothing(scene: Scene) -> None:
    score = score_of(scene, 0)
    bad = [dataclasses.replace(s, hidden=np.full_like(s.hidden, np.nan)) for s in score.scores]
    poisoned = changed(scene, 0, scores=InlineRef([dataclasses.replace(score, scores=tuple(bad))]))
    for stage in (0, 2):
        one = one_rank(scene, TRAIN.model_copy(update={"zero_stage": stage}))
        before = full_weights(one)
        with pytest.raises(LearnerFault, match="step 1: the loss is not finite"):
            train(one, poisoned)
        assert all(torch.equal(tensor, before[name]) for name, tensor in full_weights(one).items())


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_frozen_towers_stay_and_have_no_graph(scene: Scene, stage: int) -> None:
    one = one_rank(scene, TRAIN.model_copy(update={"freeze": ("vision", "audio"), "zero_stage": stage}))
    before = full_weights(one)
    train(one, scene, steps=2)
    moved = {name for name, tensor in full_weights(one).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.startswith("model.")}


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_only_adapters_train_and_the_push_is_base_plus_delta(scene: Scene, stage: int) -> None:
    lora = LoraConfig(rank=2, alpha=8.0)
    one = one_rank(scene, TRAIN.model_copy(update={"lora": lora, "zero_stage": stage}))
    base = dict(read_weights(scene.model.path))
    first = full_weights(one)
    assert list(first) == [name for name, _ in load_thinker(scene.model.path, "float32").named_parameters()]
    assert all(torch.equal(first[name], base[name]) for name in base)
    losses = train(one, scene, steps=6)
    assert losses[-1] < losses[0]
    after = full_weights(one)
    moved = {name for name in base if not torch.equal(after[name], base[name])}
    assert moved and all(name.rsplit(".", 2)[1] in lora.targets for name in moved)
    if stage < 3:
        layer = one.policy.thinker.model.layers[0].self_attn.q_proj
        delta = 4.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        name = "model.layers.0.self_attn.q_proj.weight"
        torch.testing.assert_close(after[name], base[name] + delta.detach(), rtol=0, atol=1e-7)
    merged = load_thinker(scene.model.path, "float32")
    merged.load_state_dict(after, strict=False)
    response = scene.groups[4].rollouts.rollouts[0].response_ids
    features = one.features.features(scene.groups[4].prompt)
    pack = pack_groups([branches(merged, scene.groups[4].prompt, features, [response])])
    with torch.no_grad():
        plain = merged.lm_head(thinker_hidden(merged, pack, [features])).log_softmax(-1)
    wanted = plain.gather(1, torch.from_numpy(pack.targets)[:, None])[:, 0].numpy()
    assert one.probe(scene.groups[4].prompt, response, 1.0) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [(0, "float32"), (2, "float32"), (3, "float32"), (1, "bfloat16"), (2, "bfloat16"), (3, "bfloat16")],
)
def test_a_resumed_learner_is_bit_identical(tmp_path: Path, stage: int, dtype: str) -> None:
    own = make_scene(tmp_path, kinds=("text", "video+audio"), dtype=dtype)
    config = TRAIN.model_copy(update={"zero_stage": stage, "warmup_steps": 3})
    cells = [[[0], [1]]]
    one = one_rank(own, config)
    train(one, own, cells, steps=2)
    one.save(str(tmp_path / "state"))
    straight = train(one, own, cells, steps=2)
    again = one_rank(own, config)
    assert again.load(str(tmp_path / "state")) == 2
    assert train(again, own, cells, steps=2) == straight
    for (name, tensor), (_, other) in zip(
        full_weights(one).items(), full_weights(again).items(), strict=True
    ):
        assert torch.equal(tensor, other), name
    assert all(torch.equal(a, b) for a, b in zip(one.engine._masters, again.engine._masters, strict=True))


def test_a_state_of_another_learner_is_refused(scene: Scene, tmp_path: Path) -> None:
    one_rank(scene).save(str(tmp_path))
    with pytest.raises(LearnerFault, match="zero_stage"):
        one_rank(scene, TRAIN.model_copy(update={"zero_stage": 2})).load(str(tmp_path))
    with pytest.raises(LearnerFault, match="no such file"):
        one_rank(scene).load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_moves_at_the_papers_rate(tmp_path: Path, stage: int) -> None:
    own = make_scene(tmp_path, kinds=("text",), dtype="bfloat16")
    one = one_rank(own, TRAIN.model_copy(update={"zero_stage": stage, "lr": 1e-6, "max_grad_norm": 1.0}))
    before, weights = [m.clone() for m in one.engine._masters], full_weights(one)
    assert all(master.dtype == torch.float32 for master in before)
    train(one, own, [[[0]]], steps=5)
    most = max(float((a - b).detach().abs().max()) for a, b in zip(one.engine._masters, before, strict=True))
    assert 3e-6 < most < 6e-6
    after = full_weights(one)
    norm = "model.norm.weight"  # 1.0, where bfloat16 cannot hold a change below 0.004
    assert torch.equal(after[norm], weights[norm])
    assert any(not torch.equal(after[name], weights[name]) for name in weights)


def test_bfloat16_without_zero_is_refused(tmp_path: Path) -> None:
    own = make_scene(tmp_path, kinds=("text",), dtype="bfloat16")
    with pytest.raises(LearnerFault, match="use learner.zero_stage 1"):
        one_rank(own)


def test_warm_up_and_clipping(scene: Scene) -> None:
    one = one_rank(scene, TRAIN.model_copy(update={"warmup_steps": 4, "max_grad_norm": 1e-3}))
    rates = []
    for _ in range(5):
        rates.append(one.engine.learning_rate)
        train(one, scene, [[[0]]])
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_the_rate_falls_to_the_end_of_its_decay(scene: Scene) -> None:
    one = one_rank(scene, TRAIN.model_copy(update={"warmup_steps": 2, "decay_steps": 6}))
    rates = []
    for one.engine.steps in range(6):
        rates.append(one.engine.learning_rate)
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


@pytest.mark.parametrize("stage", [0, 3])
def test_gradient_checkpointing_changes_no_number(scene: Scene, stage: int) -> None:
    config = TRAIN.model_copy(update={"zero_stage": stage})
    plain = train(one_rank(scene, config), scene, steps=2)
    again = train(one_rank(scene, config.model_copy(update={"gradient_checkpointing": True})), scene, steps=2)
    assert again == pytest.approx(plain, rel=1e-6)


def test_the_group_publishes_what_it_holds(scene: Scene, tmp_path: Path) -> None:
    teacher = TeacherConfig(weights="live")
    group = LearnerGroup(
        InlineRuntime(), scene.model, TRAIN, ObjectiveConfig(), teacher, WeightsConfig(chunk_bytes=1_000_000)
    )
    group.wait_ready()
    plan = scene.plan(ALL)
    result = group.step(plan, dict(enumerate(scene.groups)))
    assert result.version == group.version == 1
    assert result.means["divergence"] > 0 and len(result.student_logprobs) == 10
    update = group.publish()
    digest = WeightDigest()
    names = []
    for chunk in update.chunks:
        for wire in chunk.get():
            digest.add(wire)
            names.append(wire.name)
    assert (digest.hexdigest(), update.version) == (update.digest, 1)
    assert set(names) == {name for name, _ in read_weights(scene.model.path)}
    with pytest.raises(ForeignHead):  # the scores were made with the first head, the live teacher moved on
        group.step(plan, dict(enumerate(scene.groups)))
    group.save_model(str(tmp_path / "model"))
    saved = dict(read_weights(tmp_path / "model"))
    assert set(saved) == set(names)
    prompt, response = scene.groups[1].prompt, scene.groups[1].rollouts.rollouts[0].response_ids
    reloaded = LearnerGroup(
        InlineRuntime(),
        scene.model.model_copy(update={"path": str(tmp_path / "model")}),
        TRAIN,
        ObjectiveConfig(),
        teacher,
        WeightsConfig(),
    )
    reloaded.wait_ready()
    assert reloaded.probe(prompt, response, 1.0) == pytest.approx(
        group.probe(prompt, response, 1.0), abs=1e-6
    )


def test_two_ranks_need_processes(scene: Scene) -> None:
    with pytest.raises(LearnerFault, match="learner.ranks: 1"):
        LearnerGroup(
            InlineRuntime(),
            scene.model,
            LearnerConfig(ranks=2),
            ObjectiveConfig(),
            TeacherConfig(),
            WeightsConfig(),
        )
