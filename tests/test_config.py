"""Run configs: what loads, what is refused, and what the refusal says."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from cluster.yaml_file import ConfigError, lay_over, override, parse_document
from learner.objective_config import RewardConfig
from omniopsd.config import RunConfig
from omniopsd.config_checks import conflicts, contradictions
from omniopsd.config_docs import TARGET, configuration_markdown
from omniopsd.config_file import PRESETS, config_keys, config_yaml, load_config
from omniopsd.idle_keys import idle_keys

ROOT = Path(__file__).resolve().parent.parent
MINIMAL = """run:
  name: x
  steps: 10
model:
  path: m
data:
  train: train.jsonl
  test: test.jsonl
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads MINIMAL plus some lines, as `run.yaml` in an own folder."""
    monkeypatch.chdir(tmp_path)

    def run(more: str = "", *settings: str, text: str = MINIMAL) -> RunConfig:
        Path("run.yaml").write_text(text + more)
        return load_config("run.yaml", settings)

    return run


def message(error: pytest.ExceptionInfo[ConfigError]) -> str:
    return str(error.value)


# --- values ------------------------------------------------------------------------------------


def test_plain_scalars_are_read_as_they_look():
    text = "a: off\nb: 1e-6\nc: 007\nd: 2026-01-01\ne: 1_000\nf: no\ng: .5\nh: 1:30\ni: null\nj: true\nk: -3"
    assert parse_document(text, "x").values == {
        "a": "off", "b": 1e-6, "c": "007", "d": "2026-01-01", "e": 1000, "f": "no", "g": 0.5,
        "h": "1:30", "i": None, "j": True, "k": -3,
    }  # fmt: skip


def test_exponents_and_off_reach_the_config(load):
    config = load("learner:\n  lr: 1e-6\nobjective:\n  importance: off\n")
    assert config.learner.lr == 1e-6 and config.objective.importance == "off"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "run.yaml: empty"),
        ("- a", "run.yaml:1: expected `key: value` lines, found a list"),
        ("a: 1\nb: 2\na: 3", "run.yaml:3: a: given twice; first at run.yaml:1"),
        ("a:\n  b: &x 1", "run.yaml:2: anchors (&) and aliases (*) are refused"),
        ("a: *x", "run.yaml:1: anchors (&) and aliases (*) are refused"),
        ("a: !!python/object:os.system x", "run.yaml:1: tags (!) are refused"),
        ("a: 1\n---\nb: 2", "run.yaml:2: expected a single document"),
        ("a: [1", "run.yaml:1: while parsing"),
        ("1: a", "run.yaml:1: a key must be text, found '1'"),
        ("[a]: b", "run.yaml:1: a key must be text, found a list"),
        ("a: 1e999", "run.yaml:1: a: 1e999 is too large a number"),
        ('a: "\\ud800"', "run.yaml:1: a: the text has half of a surrogate pair"),
        ("a: \0", "run.yaml: not YAML"),
        ("[" * 4000, "run.yaml: nested too deeply"),
        ("a: {{b}: c}", "run.yaml:1: a: a key must be text, found a mapping"),
    ],
)
def test_yaml_that_is_refused(text, says):
    with pytest.raises(ConfigError) as error:
        parse_document(text, "run.yaml")
    assert message(error).startswith(says)


@pytest.mark.parametrize(
    ("data", "says"),
    [(None, "no such file"), (b"x" * 1_000_001, "larger than 1 MB"), (b"a: \xff", "byte 3 is not UTF-8")],
)
def test_files_that_are_refused(tmp_path, data, says):
    path = tmp_path / "run.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_every_structural_problem_is_listed():
    with pytest.raises(ConfigError) as error:
        parse_document("a: 1\na: 2\n3: 4", "run.yaml")
    assert len(message(error).splitlines()) == 2


def test_merging_keeps_siblings_and_places():
    under = parse_document("a:\n  b: 1\n  c: [1, 2]\nd: 1", "under")
    merged = lay_over(under, parse_document("\n\na:\n  c: 5", "over"))
    assert merged.values == {"a": {"b": 1, "c": 5}, "d": 1}
    assert merged.place(("a", "b")) == "under:2" and merged.place(("a", "c")) == "over:4"
    assert ("a", "c", "0") not in merged.places


# --- what pydantic refuses ---------------------------------------------------------------------

BAD = """preset: paper
run:
  nam: x
  steps: 0
  log_rollouts: true
model: {path: 5}
data:
rollout:
  replica: 3
  engine: vlm
learner:
  freeze: [vision, adio]
  betas: [0.9]
  gpus: 2
  lora: {rnk: 3}
objective: {lr: 3}
eval: {metric: exact}
foo: 3
"""


def test_all_problems_at_once_each_with_its_place(load):
    with pytest.raises(ConfigError) as error:
        load("", "learner.lr=-1", "rollot.x=3", text=BAD)
    assert message(error).splitlines() == [
        "run.yaml:2: run.name: required and not given (Folder of the run, below `root`)",
        'run.yaml:3: run.nam: unknown key; did you mean "name"?',
        "run.yaml:4: run.steps: expected at least 1, found 0",
        "run.yaml:5: run.log_rollouts: expected a whole number, found true",
        "run.yaml:6: model.path: expected text, found 5; put it in quotes",
        "run.yaml:7: data: expected a section with keys of its own, found nothing",
        'run.yaml:9: rollout.replica: unknown key; did you mean "replicas"?',
        'run.yaml:10: rollout.engine: expected vllm or transformers, found "vlm"; did you mean "vllm"?',
        'run.yaml:12: learner.freeze.1: expected vision or audio, found "adio"; did you mean "audio"?',
        "run.yaml:13: learner.betas.1: expected one more value, found [0.9]",
        "run.yaml:14: learner.gpus: expected 0 or 1, found 2",
        'run.yaml:15: learner.lora.rnk: unknown key; did you mean "rank"?',
        'run.yaml:16: objective.lr: unknown key; did you mean "learner.lr"?',
        "run.yaml:17: eval.metric: unknown key; known here: every, samples, teacher, bench",
        "run.yaml:18: foo: unknown key; known here: run, model, data, rationale_cache, rollout, teacher, "
        "objective, learner, weights, runtime, checkpoint, eval, telemetry, alarms",
        "--set learner.lr: expected a value above 0.0, found -1",
        '--set rollot.x: rollot: unknown key; did you mean "rollout"?',
    ]


@pytest.mark.parametrize(
    "setting",
    [
        "rollout.replicas='2'", "rollout.replicas=2.0", "rollout.replicas=true", "learner.gpus=true",
        "learner.zero_stage=1.0", "learner.lr='1e-6'", "learner.lr=.nan", "learner.lr=.inf",
        "learner.lr=true", "rollout.enforce_eager=1", "rollout.enforce_eager=yes", "model.path=null",
        "learner.freeze=vision", "learner.betas=[0.9, 0.9, 0.9]", "learner.betas=0.9",
        "run.name=../x", "run.name=''", "run.name=a/b",
        "run.name=.", "run.name=3", "objective.beta=1", "learner.lora=8", "data.media.max_frames=17",
    ],
)  # fmt: skip
def test_no_value_is_bent_into_shape(load, setting):
    with pytest.raises(ConfigError, match=f"^--set {re.escape(setting.split('=')[0])}"):
        load("", setting)


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("learner.betas=[0.8, 0.9]", lambda c: c.learner.betas == (0.8, 0.9)),
        ("learner.freeze=[]", lambda c: c.learner.freeze == ()),
        ("learner.lora.rank=8", lambda c: c.learner.lora.rank == 8),
        ("data.test=null", lambda c: c.data.test is None),
        ("learner.lr=1", lambda c: c.learner.lr == 1.0),
        ("run.name='007'", lambda c: c.run.name == "007"),
        ("run.root=a=b", lambda c: c.run.root == "a=b"),
        ("preset=paper", lambda c: c.model.dtype == "bfloat16"),
    ],
)
def test_overrides(load, setting, read):
    assert read(load("", setting))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("learner.lr", "--set learner.lr: expected section.key=value"),
        ("=1", "--set =1: expected section.key=value"),
        ("learner..lr=1", "--set learner..lr=1: expected section.key=value"),
        ("learner.lr=", "--set learner.lr: no value; write null"),
        ("learner.lora={rank: 3}", "--set learner.lora: expected one value or a [list]"),
        ("learner.lr=[", "--set learner.lr: while parsing"),
        ("learner.lr=1e999", "--set learner.lr: 1e999 is too large a number"),
    ],
)
def test_overrides_that_are_refused(load, setting, says):
    with pytest.raises(ConfigError) as error:
        load("", setting)
    assert message(error).startswith(says)


def test_an_override_given_twice_is_refused(load):
    with pytest.raises(ConfigError, match="--set run.seed: given twice"):
        load("", "run.seed=1", "run.seed=2")


def test_override_leaves_the_rest_alone():
    document = override(parse_document("a:\n  b: 1\n  c: 2", "x"), "a.b=3")
    assert document.values == {"a": {"b": 3, "c": 2}}


# --- presets and resolved configs --------------------------------------------------------------


def test_the_paper_preset_lies_under_the_file(load):
    config = load("preset: paper\nlearner:\n  lr: 2e-6\n")
    assert config.learner.lr == 2e-6 and config.learner.freeze == ("vision",)
    assert (config.objective.divergence, config.objective.beta, config.objective.support) == (
        "jsd",
        0.5,
        "full",
    )
    assert (config.teacher.weights, config.teacher.ema) == ("ema", 0.999)
    assert (config.model.dtype, config.model.max_context, config.rollout.max_new_tokens) == (
        "bfloat16", 24576, 512
    )  # fmt: skip


def test_a_key_of_the_preset_is_not_the_users_contradiction(load):
    assert load("preset: paper\nteacher:\n  weights: frozen\n").teacher.weights == "frozen"
    with pytest.raises(ConfigError, match=r"run.yaml:12: teacher.ema: no effect with weights: frozen"):
        load("preset: paper\nteacher:\n  weights: frozen\n  ema: 0.999\n")


def test_an_unknown_preset_names_the_known_ones(load):
    with pytest.raises(
        ConfigError, match='run.yaml:9: preset: no preset "papr"; there is async, opsd, paper, sdft, sdpo'
    ):
        load("preset: papr\n")


@pytest.mark.parametrize("setting", ["run.seed=0", "preset=paper", "objective.divergence=forward_kl"])
def test_a_resolved_config_loads_again_and_chose_nothing(load, setting, tmp_path):
    config = load("", setting)
    (tmp_path / "resolved.yaml").write_text(config_yaml(config))
    assert load_config(tmp_path / "resolved.yaml") == config
    with pytest.raises(ConfigError, match="--set teacher.ema: no effect"):
        load_config(tmp_path / "resolved.yaml", ["teacher.weights=live", "teacher.ema=0.9"])


def yaml_files() -> list[Path]:
    folders = [ROOT / name for name in ("examples", "docs", "benchmarks", "omniopsd")]
    return sorted(path for folder in folders for path in folder.rglob("*.yaml") if path.parent != PRESETS)


def yaml_blocks() -> list[tuple[str, str]]:
    """Fenced YAML in the documentation that states a run."""
    blocks = []
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        for number, text in enumerate(re.findall(r"```ya?ml\n(.*?)```", path.read_text(), re.DOTALL)):
            block = textwrap.dedent(text)  # it may stand inside a list
            if re.search(r"^run:", block, re.MULTILINE):
                blocks.append((f"{path.name}[{number}]", block))
    return blocks


@pytest.mark.parametrize("path", yaml_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_run_yaml_of_the_repository_loads(path):
    if isinstance(found := yaml.safe_load(path.read_text()), dict) and "run" in found:
        load_config(path)


@pytest.mark.parametrize(("name", "text"), yaml_blocks())
def test_every_run_in_the_documentation_loads(name, text, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    load_config(tmp_path / "run.yaml")


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_loads(load, path):
    load(f"preset: {path.stem}\n")


# --- contradictions ----------------------------------------------------------------------------

STRADDLE = ["rollout.straddle_nodes=true", "rollout.tensor_parallel_size=2", "rollout.gpus=2"]
SHARED = ["runtime.colocate=rollout-learner", "rollout.gpus=1", "learner.gpus=1"]
REFUSED = [
    (["objective.divergence=sampled"], "objective.support", "sampled token alone"),
    (["objective.support=sampled"], "objective.divergence", "needs more than the sampled token"),
    (["objective.support=topk", "objective.divergence=sampled"], "objective.support", "sampled token alone"),
    (["objective.support=topk", "objective.temperature=2"], "objective.temperature", "temperature 1 only"),
    (["objective.importance=capped", "rollout.top_p=0.9"], "rollout.top_p", "cannot correct"),
    (["objective.importance=capped", "rollout.top_k=20"], "rollout.top_k", "cannot correct"),
    (["objective.importance=capped", "objective.importance_cap=0.5"], "objective.importance_cap", "shrinks"),
    (["rollout.max_policy_lag=1"], "rollout.max_policy_lag", "off-policy tokens as if on-policy"),
    (["objective.divergence=k1"], "objective.divergence", "an expected gradient of exactly zero; write sampled"),
    (["objective.divergence=k2"], "objective.divergence", "token for token; write sampled"),
    (["objective.divergence=k3"], "objective.divergence", "the gradient of forward KL, not of reverse KL"),
    (
        ["objective.divergence=reverse_kl", "objective.support=sampled"],
        "objective.divergence",
        "differentiated, has an expected gradient of zero",
    ),
    (
        ["objective.divergence=sampled", "objective.draws=4", "objective.support=sampled"],
        "objective.draws",
        "need both whole distributions",
    ),
    (["objective.draws=4"], "objective.draws", "no effect with divergence: jsd"),
    (["objective.divergence=power", "objective.support=union"], "objective.support", "no bound of the whole"),
    (["objective.divergence=topk_reverse_kl"], "objective.support", "needs a top-k"),
    (
        ["objective.divergence=entropy_switched", "objective.support=topk"],
        "objective.support",
        "entropy of the teacher's whole distribution",
    ),
    (
        ["objective.support=union", "objective.top_k=1", "objective.tail=renormalized"],
        "objective.top_k",
        "a loss of 0",
    ),
    (
        ["objective.divergence=sampled", "objective.support=sampled", "objective.target=skewed"],
        "objective.target",
        "needs whole distributions",
    ),
    (
        ["objective.divergence=topk_reverse_kl", "objective.support=topk", "objective.target=proximal"],
        "objective.target",
        "normalised over the top-k alone",
    ),
    (
        ["objective.support=topk", "objective.tokens.entropy_gate=1"],
        "objective.tokens.entropy_gate",
        "sends a part",
    ),
    (["objective.clip=advantage"], "objective.clip", "has no advantage"),
    (
        ["objective.divergence=sampled", "objective.support=sampled", "objective.clip=soft"],
        "objective.clip",
        "write advantage",
    ),
    (["objective.clip=bregman"], "objective.clip", "jsd has no negative entries to mend"),
    (
        ["objective.clip=bregman", "objective.divergence=entropy_switched"],
        "objective.clip",
        "does not sum to the same",
    ),
    (["objective.clip_at=1"], "objective.clip_at", "no effect with clip: off"),
    (
        ["objective.divergence=sampled", "objective.draws=4", "objective.importance=capped"],
        "objective.importance",
        "taken from the student of now",
    ),
    (
        ["objective.importance=gated", "objective.importance_floor=1.5"],
        "objective.importance_floor",
        "drops on-policy tokens",
    ),
    (["objective.importance=block", "objective.importance_cap=3"], "objective.importance_cap", "no effect"),
    (["objective.importance_floor=0.1"], "objective.importance_floor", "write gated"),
    (
        ["objective.tokens.reasoning=0", "objective.tokens.answer=0"],
        "objective.tokens.answer",
        "no token to train",
    ),
    (["objective.tokens.skip_first=512"], "objective.tokens.skip_first", "leaves nothing of answers"),
    (["objective.tokens.entropy_floor=0.1"], "objective.tokens.entropy_floor", "without tokens.entropy_gate"),
    (
        ["objective.pass_rate_weight=true", "rollout.rollouts_per_sample=1"],
        "objective.pass_rate_weight",
        "a weight of 0",
    ),
    (["objective.divergence=none"], "objective.divergence", "leaves nothing to train"),
    (["objective.divergence=none", "objective.reward.alpha=1", "objective.beta=0.5"], "objective.beta", "none"),
    (
        ["objective.divergence=none", "objective.reward.alpha=1", "objective.tokens.answer=2"],
        "objective.tokens.answer",
        "no effect with divergence: none",
    ),
    (
        ["objective.divergence=none", "objective.reward.alpha=1", "teacher.weights=ema"],
        "teacher.weights",
        "has no teacher",
    ),
    (
        ["objective.divergence=none", "objective.reward.ratio_clip=0.2", "objective.importance=capped"],
        "objective.importance",
        "weighs by its own ratio",
    ),
    (
        ["objective.divergence=cross_entropy", "objective.reward.alpha=1"],
        "objective.reward",
        "which earn nothing",
    ),
    (
        ["objective.reward.accuracy=0", "objective.reward.format=0"],
        "objective.reward.accuracy",
        "all rewards have weight 0",
    ),
    (
        ["objective.reward.baseline=group", "rollout.rollouts_per_sample=1"],
        "objective.reward.baseline",
        "an advantage of 0",
    ),
    (
        ["objective.reward.baseline=batch_baseline", "rollout.rollouts_per_sample=1", "run.samples_per_step=1"],
        "objective.reward.baseline",
        "an advantage of 0",
    ),
    (["objective.reward.normalize_std=false"], "objective.reward.normalize_std", "write group"),
    (["objective.reward.alpha=0.2", "rollout.top_p=0.9"], "rollout.top_p", "objective.reward is an estimate"),
    (["objective.fixed_tokens=8"], "objective.fixed_tokens", "write fixed"),
    (["objective.supervised=label"], "objective.supervised", "no effect with divergence: jsd"),
    (["objective.normalize=true", "objective.divergence=forward_kl"], "objective.normalize", "write jsd"),
    (["objective.support=union", "teacher.scorer=vllm"], "teacher.scorer", "support: union cannot be rebuilt"),
    (["rollout.top_k=1"], "rollout.top_k", "greedy"),
    (["rollout.max_new_tokens=30000"], "rollout.max_new_tokens", "no room for a prompt"),
    (["rollout.max_new_tokens=8192"], "learner.max_pack_tokens", "do not hold the answers"),
    (["rollout.gpus=2"], "rollout.gpus", "write the same number"),
    (["rollout.tensor_parallel_size=2"], "rollout.tensor_parallel_size", "needs as many GPUs"),
    (["rollout.engine=transformers", "rollout.gpus=2"], "rollout.gpus", "runs on one GPU"),
    (["rollout.engine=transformers", "rollout.memory_fraction=0.5"], "rollout.memory_fraction", "no effect"),
    (["rollout.gpus=1", "rollout.kv_cache_gib=2"], "rollout.kv_cache_gib", "no effect on GPUs"),
    (["objective.divergence=forward_kl", "objective.beta=0.5"], "objective.beta", "no effect"),
    (["objective.top_k=20"], "objective.top_k", "no effect with support: full"),
    (["objective.importance_cap=3"], "objective.importance_cap", "no effect with importance: off"),
    (["objective.divergence=cross_entropy", "teacher.weights=ema"], "teacher.weights", "has no teacher"),
    (["objective.divergence=cross_entropy", "objective.beta=0.5"], "objective.beta", "has no teacher"),
    (["teacher.weights=live", "teacher.ema=0.999"], "teacher.ema", "no effect with weights: live"),
    (["teacher.copy_every=5"], "teacher.copy_every", "no effect with weights: ema"),
    (["teacher.weights=hard", "teacher.gate_gain=0.1"], "teacher.gate_gain", "write weights: gated"),
    (["teacher.trust=0.3"], "teacher.trust", "write weights: trust_region"),
    (["teacher.weights=hard", "teacher.copy_every=11"], "teacher.copy_every", "could come at step 11"),
    (["teacher.weights=gated", "teacher.copy_every=6"], "teacher.copy_every", "could come at step 12"),
    (["teacher.privilege=none", "teacher.missing=skip"], "teacher.missing", "no effect with privilege: none"),
    (["teacher.template=hint"], "teacher.template", "{evidence} 0 times"),
    (["teacher.template='{evidence} {evidence}'"], "teacher.template", "{evidence} 2 times"),
    (["teacher.template='<audio> {evidence}'"], "teacher.template", "has <audio>"),
    (["teacher.gpus=2"], "teacher.gpus", "teacher.tensor_parallel_size is 1; write the same number"),
    (["teacher.tensor_parallel_size=4", "teacher.gpus=2"], "teacher.gpus", "is 4; write the same number"),
    (["teacher.tensor_parallel_size=2", "learner.gpus=1"], "teacher.gpus", "0 puts the 2 ranks of a teacher on the"),
    (["teacher.tensor_parallel_size=2", "runtime.kind=inline"], "teacher.tensor_parallel_size", "need a process each"),
    (["teacher.scorer=colocated", "teacher.tensor_parallel_size=2"], "teacher.tensor_parallel_size", "the learner"),
    (["teacher.scorer=vllm"], "teacher.scorer", "support: full cannot be rebuilt"),
    (["teacher.scorer=vllm", "teacher.gpus=2"], "teacher.gpus", "write the same number"),
    (["teacher.scorer=vllm", "teacher.tensor_parallel_size=2"], "teacher.tensor_parallel_size", "as many GPUs"),
    (["teacher.scorer=vllm", "runtime.kind=inline"], "teacher.scorer", "two vLLM engines"),
    (["teacher.scorer=vllm", "teacher.max_pack_tokens=99"], "teacher.max_pack_tokens", "batches by itself"),
    (["teacher.kv_cache_gib=2"], "teacher.kv_cache_gib", "write scorer: vllm"),
    (["learner.betas=[0.9, 1.0]"], "learner.betas", "1 is no decay"),
    (["learner.warmup_steps=10"], "learner.warmup_steps", "leaves none of 10"),
    (["learner.decay_steps=9"], "learner.decay_steps", "0 after 9 of 10 steps"),
    (["learner.lora.targets=[]"], "learner.lora.targets", "trains nothing"),
    (["learner.micro_batches=17"], "learner.micro_batches", "some are always empty"),
    (["learner.ranks=17"], "run.samples_per_step", "without work"),
    (["model.dtype=bfloat16"], "weights.probe_tolerance", "below the rounding"),
    (["weights.probe_tolerance=0.05"], "weights.probe_tolerance", "stale weights pass"),
    (["weights.probe_every=11"], "weights.probe_every", "no push would be verified"),
    (["model.dtype=bfloat16", "learner.zero_stage=0"], "learner.zero_stage", "adds up gradients in bfloat16"),
    (
        ["rollout.gpus=1", "learner.gpus=1", "weights.transport=nccl", "weights.probe_every=2"],
        "weights.probe_every",
        "the probe alone verifies it",
    ),
    (["weights.transport=nccl"], "weights.transport", "rollout.gpus and learner.gpus are 0"),
    (["weights.transport=nccl", "rollout.engine=transformers"], "weights.transport", "goes through vLLM"),
    (["runtime.kind=inline", "learner.ranks=2"], "learner.ranks", "is one process"),
    (["runtime.kind=inline", "rollout.replicas=2"], "rollout.replicas", "is one process"),
    (["runtime.kind=inline", "teacher.replicas=2"], "teacher.replicas", "is one process"),
    (["runtime.kind=inline", "learner.gpus=1"], "learner.gpus", "runs on the CPU"),
    (["runtime.kind=inline", "runtime.cpus=4"], "runtime.cpus", "no effect"),
    (["runtime.kind=inline", "runtime.address=auto"], "runtime.address", "no effect"),
    (["runtime.kind=inline", "runtime.colocate=teacher-learner"], "runtime.colocate", "no effect"),
    (["runtime.colocate=teacher-learner"], "runtime.colocate", "shares GPUs, but learner.gpus is 0"),
    (["runtime.colocate=teacher-learner", "teacher.replicas=2"], "runtime.colocate", "pairs each teacher"),
    (["runtime.colocate=rollout-learner"], "runtime.colocate", "vLLM has no sleep mode"),
    (["runtime.colocate=rollout-learner", "rollout.engine=transformers"], "runtime.colocate", "needs vLLM"),
    ([*SHARED, "learner.ranks=2"], "runtime.colocate", "replicas 1 x tensor_parallel_size 1 is 1"),
    ([*SHARED, "rollout.max_policy_lag=1"], "rollout.max_policy_lag", "the engines sleep then"),
    ([*SHARED, "weights.transport=nccl"], "weights.transport", "two members on one GPU"),
    ([*SHARED, "objective.divergence=cross_entropy"], "runtime.colocate", "samples nothing"),
    (["rollout.straddle_nodes=true"], "rollout.straddle_nodes", "tensor_parallel_size above 1"),
    ([*STRADDLE, "runtime.kind=inline"], "rollout.straddle_nodes", "is one process"),
    (
        [*STRADDLE, "runtime.colocate=rollout-learner", "learner.ranks=2", "learner.gpus=1"],
        "rollout.straddle_nodes",
        "lie on one node",
    ),
    (["runtime.colocate=teacher-learner", "teacher.tensor_parallel_size=2"], "runtime.colocate", "a whole teacher"),
    (["runtime.address=somewhere"], "runtime.address", "write local, auto, or host:port"),
    (["runtime.cpus=2"], "runtime.cpus", "the roles ask for 3"),
    (["data.test=./train.jsonl"], "data.test", "the same file"),
    (["data.test=null", "eval.every=5"], "eval.every", "no effect without data.test"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "key", "says"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_contradictions_are_refused(load, settings, key, says):
    with pytest.raises(ConfigError) as error:
        load("", *settings)
    lines = [line for line in message(error).splitlines() if f"{key}:" in line]
    assert any(says in line for line in lines), message(error)


@pytest.mark.parametrize("name", ["temperature=1.1", "top_p=0.9", "top_k=20"])
def test_a_sampled_divergence_needs_plain_sampling(load, name):
    with pytest.raises(
        ConfigError, match=f"--set rollout.{name.split('=')[0]}: objective.divergence: sampled"
    ):
        load("", "objective.divergence=sampled", "objective.support=sampled", f"rollout.{name}")


@pytest.mark.parametrize(
    "settings",
    [
        ["teacher.weights=live", "teacher.privilege=none"],
        ["objective.importance=capped"],
        ["objective.importance=capped", "rollout.max_policy_lag=2"],
        ["objective.divergence=sampled", "objective.support=sampled"],
        ["objective.divergence=cross_entropy"],
        ["objective.support=topk", "objective.top_k=20"],
        ["objective.divergence=sampled", "objective.draws=8", "rollout.top_p=0.9"],
        ["objective.importance=uncorrected", "rollout.max_policy_lag=8"],
        ["objective.divergence=none", "objective.reward.ratio_clip=0.2", "rollout.max_policy_lag=2"],
        ["objective.divergence=none", "objective.reward.baseline=group", "rollout.temperature=1.2"],
        ["objective.divergence=cross_entropy", "objective.supervised=label", "objective.tokens.answer=2"],
        ["objective.divergence=topk_reverse_kl", "objective.support=topk", "objective.clip=pointwise"],
        ["objective.support=student_topk", "objective.temperature=2", "objective.tokens.entropy_gate=1"],
        ["objective.rows=failures", "objective.pass_rate_weight=true", "objective.aggregation=fixed"],
        ["learner.lora.rank=8", "learner.freeze=[vision, audio]", "learner.gradient_checkpointing=true"],
        ["learner.ranks=2", "learner.micro_batches=2", "rollout.replicas=2"],
        ["rollout.gpus=2", "rollout.tensor_parallel_size=2", "teacher.gpus=1", "learner.gpus=1"],
        ["rollout.gpus=1", "learner.gpus=1", "weights.transport=nccl"],
        ["rollout.gpus=1", "learner.gpus=1", "teacher.gpus=4", "teacher.tensor_parallel_size=4"],
        ["teacher.tensor_parallel_size=2"],
        ["runtime.kind=inline", "rollout.engine=transformers"],
        ["runtime.address=10.0.0.1:6379"],
        ["data.test=null"],
        ["data.test=null", "eval.every=null"],
    ],
    ids=" ".join,
)
def test_what_fits_together_is_allowed(load, settings):
    load("", *settings)


def test_a_contradiction_has_the_line_of_its_key(load):
    with pytest.raises(ConfigError) as error:
        load("rollout:\n  replicas: 1\n  max_policy_lag: 2\n")
    assert message(error).startswith("run.yaml:11: rollout.max_policy_lag: 2 trains off-policy")


def test_the_defaults_and_the_models_own_fields_can_be_judged_too():
    config = RunConfig.model_validate(
        {"run": {"name": "x", "steps": 10}, "model": {"path": "m"}, "data": {"train": "t"}}
    )
    assert contradictions(config) == []
    chosen = config.model_copy(update={"teacher": type(config.teacher)(weights="live", ema=0.9)})
    assert contradictions(chosen.model_validate(chosen.model_dump(exclude_unset=True))) == [
        ("teacher.ema", "no effect with weights: live; leave it out, or write weights: ema")
    ]


REWARD_KEYS = {f"objective.reward.{name}" for name in RewardConfig.model_fields}


def test_every_finding_names_a_real_key(load):
    keys = {".".join(path) for path in config_keys()} | {"learner.lora.targets", *REWARD_KEYS}
    odd = (
        "objective.divergence=cross_entropy",
        "rollout.engine=transformers",
        "runtime.kind=inline",
        "data.test=null",
    )
    config = load("", *odd)
    assert {key for key, _ in idle_keys(config)} <= keys
    assert {key for key, _ in conflicts(config)} <= keys


# --- documentation -----------------------------------------------------------------------------


def test_the_committed_documentation_is_current():
    assert TARGET.read_text() == configuration_markdown(), "run `make docs`"


def test_every_key_is_documented():
    text = configuration_markdown()
    for path in config_keys():
        assert f"| `{path[-1]}` |" in text
    for row in re.findall(r"^\| `.*\|$", text, re.MULTILINE):
        assert row.count(" | ") == 3 and not row.endswith("|  |")
