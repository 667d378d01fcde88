"""Objectives that would train something else than they say, and objective keys that do nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from learner.objective_config import ObjectiveConfig, TokenWeightsConfig
from omniopsd.config import RunConfig

Finding = tuple[str, str]
"""A dotted key, and one sentence about it."""

TOPK = ("topk", "student_topk", "union")
ENTRY_CLIPS = ("pointwise", "bregman", "soft", "token")


def objective_conflicts(config: RunConfig) -> Iterator[Finding]:
    """Values of the objective that do not go together."""
    objective = config.objective
    if objective.has_teacher:
        yield from _support(objective)
        yield from _shape(objective)
        yield from _clip(objective)
        yield from _contrast(config)
    yield from _sampling(config)
    yield from _off_policy(config)
    yield from _rows(config)
    yield from _reward(config)


def _support(objective: ObjectiveConfig) -> Iterator[Finding]:
    name, support = objective.divergence, objective.support
    if objective.draws and name in ("sampled", "power"):
        if support != "full":
            yield (
                "objective.draws",
                f"draws need both whole distributions, but support is {support}; write support: full",
            )
    elif name == "sampled" and support != "sampled":
        yield (
            "objective.support",
            f"divergence: sampled looks at the sampled token alone, but support is {support}; "
            "write support: sampled, or another divergence",
        )
    if support == "sampled" and name == "reverse_kl":
        yield (
            "objective.divergence",
            "reverse_kl needs more than the sampled token that support: sampled keeps: the log-ratio of one "
            "sample, differentiated, has an expected gradient of zero; write divergence: sampled",
        )
    elif support == "sampled" and name not in ("sampled", "power"):
        yield (
            "objective.divergence",
            f"{name} needs more than the sampled token that support: sampled keeps; "
            "write divergence: sampled, or support: full or topk",
        )
    if name == "power" and support in TOPK:
        yield (
            "objective.support",
            f"power on {support} is no bound of the whole (it is no f-divergence); write full or sampled",
        )
    if name == "topk_reverse_kl" and support == "full":
        yield (
            "objective.support",
            "topk_reverse_kl needs a top-k; write topk, student_topk or union, or divergence: reverse_kl",
        )
    if name == "entropy_switched" and support == "topk":
        yield (
            "objective.support",
            "entropy_switched asks for the entropy of the teacher's whole distribution, and topk sends a part; "
            "write full, student_topk or union",
        )
    if objective.temperature != 1.0 and objective.transport != "full":
        yield (
            "objective.temperature",
            f"with support: {support} the teacher sends scores at temperature 1 only; "
            "write 1.0, or support: full",
        )
    if support in TOPK and objective.tail == "renormalized" and objective.top_k == 1:
        yield (
            "objective.top_k",
            "1 with tail: renormalized is 1 against 1, a loss of 0; write more, or tail: bucket",
        )


def _shape(objective: ObjectiveConfig) -> Iterator[Finding]:
    if objective.target != "teacher" and objective.estimates:
        yield (
            "objective.target",
            f"{objective.target} needs whole distributions, and {objective.divergence} looks at sampled tokens; "
            "write teacher, or support: full without draws",
        )
    if objective.target != "teacher" and objective.divergence == "topk_reverse_kl":
        yield (
            "objective.target",
            f"{objective.target} would be normalised over the top-k alone; write teacher",
        )
    if objective.tokens.entropy_gate and objective.transport != "full":
        yield (
            "objective.tokens.entropy_gate",
            f"asks for the entropy of the teacher's whole distribution, and support: {objective.support} sends "
            "a part; write support: full, student_topk or union",
        )


def _clip(objective: ObjectiveConfig) -> Iterator[Finding]:
    clip, name = objective.clip, objective.divergence
    if clip == "advantage" and not objective.estimates:
        yield (
            "objective.clip",
            f"{name} with support: {objective.support} has no advantage; write token or soft",
        )
    if clip in ENTRY_CLIPS and objective.estimates:
        yield "objective.clip", f"{name} on sampled tokens has an advantage and no entries; write advantage"
    if clip == "bregman" and name not in ("forward_kl", "reverse_kl") and not objective.estimates:
        why = (
            "does not sum to the same on a part of the vocabulary; write pointwise or soft"
            if name in ("topk_reverse_kl", "entropy_switched")
            else "has no negative entries to mend; write pointwise"
        )
        yield "objective.clip", f"bregman is for forward_kl and reverse_kl: {name} {why}"


def _contrast(config: RunConfig) -> Iterator[Finding]:
    objective, privilege = config.objective, config.teacher.privilege
    contrast = objective.contrast
    if contrast is None:
        return
    if objective.transport != "full":
        yield (
            "objective.contrast",
            f"compares whole distributions, and support: {objective.support} sends a part; write support: full",
        )
    rationale = privilege in ("rationale", "rationale+label")
    if contrast.kind == "wrong_rationale" and not rationale:
        yield (
            "objective.contrast.kind",
            f"wrong_rationale is compared with the right one, and teacher.privilege is {privilege}; "
            "write privilege: rationale",
        )
    elif privilege == "none":
        yield (
            "objective.contrast.kind",
            f"{contrast.kind} measures what the privilege adds, and teacher.privilege is none; choose one",
        )
    if contrast.kind == "anchored" and contrast.partial == privilege:
        yield (
            "objective.contrast.partial",
            f"{contrast.partial}, which is the teacher's whole privilege: the two contexts would be the same; "
            "write none",
        )


def _sampling(config: RunConfig) -> Iterator[Finding]:
    rollout, objective = config.rollout, config.objective
    if rollout.top_k == 1:
        yield "rollout.top_k", "1 is greedy decoding: there is nothing on-policy to learn from it; write 0"
    by_token = objective.estimates and not objective.draws
    if not by_token and objective.reward is None:
        return
    what = f"objective.divergence: {objective.divergence}" if by_token else "objective.reward"
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} if by_token else {"top_p": 1.0, "top_k": 0}
    for name, value in plain.items():
        if getattr(rollout, name) != value:
            yield (
                f"rollout.{name}",
                f"{what} is an estimate under the policy's own distribution, and "
                f"{getattr(rollout, name)} samples another one; write {value:g}, or choose a full divergence",
            )


def _off_policy(config: RunConfig) -> Iterator[Finding]:
    rollout, objective = config.rollout, config.objective
    if objective.divergence == "cross_entropy":
        return
    bounded = objective.divergence == "none" and objective.reward and objective.reward.ratio_clip
    if rollout.max_policy_lag > 0 and objective.importance == "off" and not bounded:
        yield (
            "rollout.max_policy_lag",
            f"{rollout.max_policy_lag} trains off-policy tokens as if on-policy; "
            "set objective.importance: capped (or uncorrected, if that is meant)",
        )
    if objective.importance in ("off", "uncorrected"):
        return
    if objective.draws and objective.estimates and objective.reward is None:
        yield (
            "objective.importance",
            f"{objective.importance} weighs the sampled token, and draws are taken from the student of now; "
            "write uncorrected",
        )
    for name, cuts in (("top_p", rollout.top_p < 1.0), ("top_k", rollout.top_k > 0)):
        if cuts:
            yield (
                f"rollout.{name}",
                f"{getattr(rollout, name)} samples from a cut distribution, which "
                f"objective.importance: {objective.importance} cannot correct; write top_p: 1.0 and top_k: 0, "
                "or importance: off",
            )
    if objective.importance != "block" and objective.importance_cap < 1.0:
        yield (
            "objective.importance_cap",
            f"a cap of {objective.importance_cap:g} shrinks on-policy tokens too, "
            "whose weight is 1; write 1 or more",
        )
    if objective.importance == "gated" and objective.importance_floor > 1.0:
        yield (
            "objective.importance_floor",
            f"a floor of {objective.importance_floor:g} drops on-policy tokens, whose ratio is 1; write 1 or less",
        )


def _rows(config: RunConfig) -> Iterator[Finding]:
    objective, rollout = config.objective, config.rollout
    if not objective.has_teacher and objective.divergence != "cross_entropy":
        return
    tokens = objective.tokens
    if tokens.reasoning == 0 and tokens.answer == 0:
        yield "objective.tokens.answer", "0 with reasoning: 0 leaves no token to train; raise one of them"
    if tokens.skip_first >= rollout.max_new_tokens:
        yield (
            "objective.tokens.skip_first",
            f"{tokens.skip_first} leaves nothing of answers of at most {rollout.max_new_tokens} tokens; lower it",
        )
    if objective.pass_rate_weight and rollout.rollouts_per_sample == 1 and objective.has_teacher:
        yield (
            "objective.pass_rate_weight",
            "with rollout.rollouts_per_sample: 1 every group passes or fails as a whole, a weight of 0; "
            "raise it, or write false",
        )


def _reward(config: RunConfig) -> Iterator[Finding]:
    objective, reward = config.objective, config.objective.reward
    if reward is None:
        if objective.divergence == "none":
            yield (
                "objective.divergence",
                "none leaves nothing to train; add objective.reward, or write a divergence",
            )
        return
    if objective.divergence == "cross_entropy":
        yield "objective.reward", "cross_entropy learns given answers, which earn nothing; leave it out"
    if not (reward.accuracy or reward.format or reward.label_f1):
        yield "objective.reward.accuracy", "all rewards have weight 0; raise one of them"
    rollouts = config.rollout.rollouts_per_sample
    if reward.baseline == "group" and rollouts == 1:
        yield (
            "objective.reward.baseline",
            "group with rollout.rollouts_per_sample: 1 is an advantage of 0; raise it, or write batch_baseline",
        )
    if reward.baseline == "batch_baseline" and rollouts * config.run.samples_per_step == 1:
        yield "objective.reward.baseline", "batch_baseline of one rollout is an advantage of 0; write raw"


def objective_idle_keys(objective: ObjectiveConfig) -> Iterator[Finding]:
    """Keys of the objective that have no effect beside the others."""
    if objective.divergence != "cross_entropy":
        yield "objective.supervised", f"no effect with divergence: {objective.divergence}; leave it out"
    if not objective.has_teacher:
        yield from _idle_without_teacher(objective)
    else:
        yield from _idle_divergence(objective)
    if objective.aggregation != "fixed":
        yield (
            "objective.fixed_tokens",
            f"no effect with aggregation: {objective.aggregation}; leave it out, or write fixed",
        )
    if objective.tokens.entropy_gate == 0:
        yield (
            "objective.tokens.entropy_floor",
            "no effect without tokens.entropy_gate; leave it out, or set the gate",
        )
    if objective.reward is not None and objective.reward.baseline != "group":
        yield (
            "objective.reward.normalize_std",
            f"no effect with baseline: {objective.reward.baseline}; leave it out, or write group",
        )
    yield from _idle_importance(objective)


def _idle_without_teacher(objective: ObjectiveConfig) -> Iterator[Finding]:
    what = "cross_entropy, which has no teacher" if objective.divergence == "cross_entropy" else "none"
    why = f"no effect with divergence: {what}; leave it out"
    names = ["beta", "normalize", "power", "entropy_threshold", "target", "target_weight", "support", "top_k"]
    names += ["tail", "draws", "clip", "clip_at", "contrast", "tokens.entropy_gate"]
    if objective.divergence == "cross_entropy":
        names += ["importance", "importance_cap", "importance_floor", "importance_block", "temperature"]
        names += ["rows", "pass_rate_weight"]
    else:
        names += ["rows", "pass_rate_weight", *(f"tokens.{name}" for name in TokenWeightsConfig.model_fields)]
    for name in dict.fromkeys(names):
        yield f"objective.{name}", why


def _idle_divergence(objective: ObjectiveConfig) -> Iterator[Finding]:
    found = objective.divergence
    for key, owner in (
        ("beta", "jsd"),
        ("normalize", "jsd"),
        ("power", "power"),
        ("entropy_threshold", "entropy_switched"),
    ):
        if found != owner:
            yield f"objective.{key}", f"no effect with divergence: {found}; leave it out, or write {owner}"
    if found not in ("sampled", "power"):
        yield "objective.draws", f"no effect with divergence: {found}; leave it out, or write sampled"
    if objective.target == "teacher":
        yield (
            "objective.target_weight",
            "no effect with target: teacher; leave it out, or write skewed or proximal",
        )
    if objective.support not in TOPK:
        for key in ("top_k", "tail"):
            yield (
                f"objective.{key}",
                f"no effect with support: {objective.support}; leave it out, or write topk",
            )
    elif found == "topk_reverse_kl":
        yield "objective.tail", "no effect with divergence: topk_reverse_kl, which has none; leave it out"
    if objective.contrast is not None:
        anchored = objective.contrast.kind == "anchored"
        for key in ("b", "bound") if anchored else ("partial", "lam"):
            yield f"objective.contrast.{key}", f"no effect with kind: {objective.contrast.kind}; leave it out"
    if objective.clip == "off":
        yield "objective.clip_at", "no effect with clip: off; leave it out, or choose a clip"


def _idle_importance(objective: ObjectiveConfig) -> Iterator[Finding]:
    if objective.divergence == "cross_entropy":
        return
    found = objective.importance
    uses: dict[str, tuple[str, ...]] = {"importance_cap": ("capped", "gated")}
    uses |= {"importance_floor": ("gated",), "importance_block": ("block",)}
    for key, owners in uses.items():
        if found not in owners:
            yield (
                f"objective.{key}",
                f"no effect with importance: {found}; leave it out, or write {owners[0]}",
            )
    bounded = objective.divergence == "none" and objective.reward and objective.reward.ratio_clip
    if bounded and found != "off":
        yield (
            "objective.importance",
            "no effect with reward.ratio_clip, which weighs by its own ratio; leave it out",
        )
