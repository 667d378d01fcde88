"""Token weights, rows, rewards and advantages: what each option does, and that the driver finds the facts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.advantages import advantages, group_advantages
from learner.objective_config import ObjectiveConfig, RewardConfig
from learner.token_weights import RolloutFacts, asks_for_weights, position_factors, rollout_weights
from omniopsd.rewards import REWARDS, accuracy, format_valid, label_f1, reward_of
from omniopsd.samples import Sample, SampleInputs
from omniopsd.signals import UnlabelledSample, answer_start, require_labels, step_signals
from omniopsd.supervised import SupervisedError, require_targets, target_text
from rollout.media import MediaPaths
from rollout.renderer import Renderer
from rollout.types import Rollout, RolloutGroup

GOOD, WRONG = "<think>smile</think><answer>happy</answer>", "<think>frown</think><answer>sad</answer>"
FORMLESS = "he looks happy"


def facts(**changes: object) -> RolloutFacts:
    base = {"length": 6, "format_valid": True, "correct": False, "answer_start": 4, "pass_rate": 0.5}
    return RolloutFacts(**(base | changes))  # type: ignore[arg-type]


def weights(one: RolloutFacts, **fields: object) -> list[float]:
    return rollout_weights(ObjectiveConfig.model_validate(fields), one).tolist()


def sample(name: str = "a", labels: tuple[str, ...] = ("happy",), **changes: object) -> Sample:
    inputs = SampleInputs(sample_id=name, messages=(), paths=MediaPaths(), audio_in_video=False)
    base = {"rationale": "He smiles.", "response": None, "dataset": "", "where": f"x.jsonl:{name}"}
    return Sample(inputs=inputs, labels=labels, **(base | changes))  # type: ignore[arg-type]


def test_each_factor_alone_and_together() -> None:
    assert weights(facts()) == [1] * 6
    assert weights(facts(), tokens={"reasoning": 0.5, "answer": 2.0}) == [0.5] * 4 + [2.0] * 2
    assert weights(facts(answer_start=6), tokens={"answer": 9.0}) == [1] * 6
    assert weights(facts(), tokens={"skip_first": 2}) == [0, 0, 1, 1, 1, 1]
    assert weights(facts(length=1, answer_start=1), tokens={"skip_first": 4}) == [0]
    assert weights(facts(format_valid=False), tokens={"format_invalid": 0.0}) == [0] * 6
    assert weights(facts(), tokens={"format_invalid": 0.0}) == [1] * 6
    assert weights(facts(correct=True), rows="failures") == [0] * 6
    assert weights(facts(), rows="failures") == [1] * 6
    assert weights(facts(pass_rate=0.25), pass_rate_weight=True) == pytest.approx([0.1875**0.5] * 6)
    assert weights(facts(pass_rate=1.0), pass_rate_weight=True) == [0] * 6
    slope = weights(facts(), tokens={"position": 1.0, "answer": 2.0, "skip_first": 1})
    assert slope == pytest.approx([0, 3 / 6, 5 / 6, 7 / 6, 2 * 9 / 6, 2 * 11 / 6])


@given(st.floats(-1, 1), st.integers(1, 300))
def test_position_weights_have_mean_one_and_are_never_negative(slope: float, length: int) -> None:
    found = position_factors(slope, length)
    assert found.mean() == pytest.approx(1.0) and (found > 0).all()
    assert (np.diff(found) * slope >= 0).all()


def test_plain_settings_ask_for_nothing() -> None:
    gate = {"tokens": {"entropy_gate": 1.0, "entropy_floor": 0.1}}
    assert not asks_for_weights(ObjectiveConfig()) and not asks_for_weights(
        ObjectiveConfig.model_validate(gate)
    )
    for fields in ({"rows": "failures"}, {"pass_rate_weight": True}, {"tokens": {"answer": 2.0}}):
        assert asks_for_weights(ObjectiveConfig.model_validate(fields))


# --- rewards and advantages --------------------------------------------------------------------


def test_rewards() -> None:
    assert [accuracy(text, ["Happy"]) for text in (GOOD, WRONG, FORMLESS)] == [1, 0, 0]
    assert [format_valid(text, ["happy"]) for text in (GOOD, WRONG, FORMLESS)] == [1, 1, 0]
    several = "<think></think><answer>Happy, calm, happy</answer>"
    assert label_f1(several, ["happy", "surprised"]) == pytest.approx(0.5)
    assert label_f1(several, ["calm", "happy"]) == 1 and label_f1(FORMLESS, ["happy"]) == 0
    assert label_f1("<think></think><answer></answer>", []) == 0
    config = RewardConfig(accuracy=2.0, format=0.5, label_f1=1.0)
    assert reward_of(GOOD, ["happy"], config) == 3.5 and reward_of(WRONG, ["happy"], config) == 0.5
    assert set(REWARDS) <= set(RewardConfig.model_fields)


def test_advantages_by_baseline() -> None:
    rewards = [[1.0, 0.0, 0.0, 1.0], [2.0, 2.0]]
    assert advantages(rewards, RewardConfig()) == rewards
    batch = advantages(rewards, RewardConfig(baseline="batch_baseline"))
    assert batch == [[0.0, -1.0, -1.0, 0.0], [1.0, 1.0]]
    group = advantages(rewards, RewardConfig(baseline="group"))
    assert group[0] == pytest.approx([0.9998, -0.9998, -0.9998, 0.9998])
    assert group[1] == [0.0, 0.0]
    plain = advantages(rewards, RewardConfig(baseline="group", normalize_std=False))
    assert plain[0] == [0.5, -0.5, -0.5, 0.5]


def test_equal_rewards_are_exactly_no_signal() -> None:
    assert (group_advantages(np.full(7, 0.1), normalize_std=True) == 0).all()


# --- what the driver finds -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    from omniopsd.mini_omni import write_mini_omni

    folder = tmp_path_factory.mktemp("model")
    write_mini_omni(folder, size="tiny", corpus=[GOOD, WRONG], vocabulary=320)
    return Renderer(folder)


def group(renderer: Renderer, name: str, texts: list[str]) -> RolloutGroup:
    rollouts = []
    for index, text in enumerate(texts):
        ids = renderer.encode_response(text)
        rollouts.append(
            Rollout(
                rollout_id=f"1/{name}/{index}",
                sample_id=name,
                index=index,
                response_ids=ids,
                rollout_logprobs=np.zeros(len(ids), np.float32),
                temperature=1.0,
                policy_version=0,
                finish="stop",
            )  # fmt: skip
        )
    return RolloutGroup(sample_id=name, rollouts=tuple(rollouts), media_use=(), seconds=0.0)


@pytest.mark.parametrize(
    "text", [GOOD, "<think>été 😀 😀</think><answer>é</answer>", "<answer>x</answer>", "a<answer>", "<answer"]
)
def test_the_answer_starts_in_the_token_that_holds_its_tag(renderer: Renderer, text: str) -> None:
    ids = renderer.encode_response(text)
    start = answer_start(ids, renderer)
    if "<answer>" not in text:
        assert start == len(ids)
        return
    assert "<answer>" in renderer.decode(ids[start:]) and "<answer>" not in renderer.decode(ids[start + 1 :])
    assert "<answer>" not in renderer.decode(ids[:start])


def test_a_step_gets_weights_and_advantages_from_its_texts(renderer: Renderer) -> None:
    objective = ObjectiveConfig.model_validate(
        {"rows": "failures", "tokens": {"reasoning": 0.5}, "reward": {"baseline": "batch_baseline"}}
    )
    samples = {"a": sample("a"), "b": sample("b", labels=("sad",))}
    groups = {"a": group(renderer, "a", [GOOD, WRONG]), "b": group(renderer, "b", [FORMLESS, WRONG])}
    found = step_signals(objective, samples, groups, renderer)
    assert [signal.reward for name in "ab" for signal in found[name]] == [2, 1, 0, 2]
    assert [signal.advantage for name in "ab" for signal in found[name]] == [0.75, -0.25, -1.25, 0.75]
    right, wrong = (signal.weights for signal in found["a"])
    start = answer_start(groups["a"].rollouts[1].response_ids, renderer)
    assert right is not None and wrong is not None and (right == 0).all()
    assert (wrong[:start] == 0.5).all() and (wrong[start:] == 1).all() and 0 < start < len(wrong)
    assert step_signals(ObjectiveConfig(), samples, groups, renderer) == {}


def test_rewards_need_labels_and_supervised_answers_their_parts() -> None:
    bare = [sample("a"), sample("b", labels=())]
    asking = ObjectiveConfig.model_validate({"reward": {}})
    with pytest.raises(UnlabelledSample, match=r"x.jsonl:b: no labels \(1 such samples\)"):
        require_labels(asking, bare)
    require_labels(ObjectiveConfig(), bare)
    assert target_text(sample(), "label") == "<think></think><answer>happy</answer>"
    assert target_text(sample(), "rationale") == "<think>He smiles.</think><answer>happy</answer>"
    assert target_text(sample(response="x"), "response") == "x"
    for which, row, missing in (
        ("label", sample(labels=()), "labels"),
        ("rationale", sample(rationale=None), "rationale"),
        ("response", sample(), "response"),
    ):
        with pytest.raises(SupervisedError, match=f"no {missing} .*objective.supervised is {which}"):
            require_targets([row], which)  # type: ignore[arg-type]
