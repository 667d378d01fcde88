"""The rollouts in the report: what was asked, what the student wrote, and where the teacher disagreed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from omniopsd.report_media import MediaShelf
from omniopsd.rollout_log import LoggedRollout, RolloutLogError, read_rollouts

SHOWN = 12
LEVELS = 6  # shades of one token colour in report.css


def rollout_section(folder: Path) -> str:
    """Cards of up to a dozen rollouts, from the first logged step to the last."""
    rollouts, faults = pick_rollouts(sorted(folder.glob("step_*.parquet")))
    said = "".join(f'<p class="note">{escape(fault)}</p>' for fault in faults)
    if not rollouts:
        return (
            f'{said}<p class="empty">No rollouts logged: run.log_rollouts is 0, or no step is finished.</p>'
        )
    full = full_colour(rollouts)
    shelf = MediaShelf()
    cards = "".join(_card(rollout, full, shelf) for rollout in rollouts)
    return f'{said}{_key(full)}<div class="cards">{cards}</div>'


def pick_rollouts(paths: Sequence[Path], most: int = SHOWN) -> tuple[list[LoggedRollout], list[str]]:
    """Up to `most` rollouts, evenly over the files, with samples and outcomes as mixed as they come.

    Returns them by step, and a sentence for each file that cannot be read.
    """
    chosen: list[LoggedRollout] = []
    faults: list[str] = []
    seen: Counter[object] = Counter()
    files = _evenly(paths, most)
    for place, path in enumerate(files):
        try:
            rest = list(read_rollouts(path))
        except RolloutLogError as error:
            faults.append(str(error))
            continue
        quota = (most * (place + 1)) // len(files) - (most * place) // len(files)
        for _ in range(min(quota, len(rest))):
            best = min(rest, key=lambda one: (seen[one.sample_id], seen[(one.dataset, one.correct)]))
            rest.remove(best)
            seen.update([best.sample_id, (best.dataset, best.correct)])
            chosen.append(best)
    return chosen, faults


def full_colour(rollouts: Sequence[LoggedRollout]) -> float:
    """The divergence drawn at full strength: the 95th percentile of all shown tokens, above 0."""
    values = [strength for rollout in rollouts if (strength := _strength(rollout)) is not None]
    flat = np.concatenate(values) if values else np.zeros(0)
    return max(float(np.quantile(flat, 0.95)), 1e-6) if len(flat) else 1.0


def _evenly(paths: Sequence[Path], most: int) -> list[Path]:
    if len(paths) <= most:
        return list(paths)
    return [paths[round(index * (len(paths) - 1) / (most - 1))] for index in range(most)]


def _strength(rollout: LoggedRollout) -> np.ndarray | None:
    if rollout.divergence is not None:
        return np.abs(rollout.divergence)
    if rollout.student_logprobs is None or rollout.teacher_logprobs is None:
        return None
    return np.abs(rollout.teacher_logprobs - rollout.student_logprobs)


def _card(rollout: LoggedRollout, full: float, shelf: MediaShelf) -> str:
    labels = "".join(f'<span class="label">{escape(label)}</span>' for label in rollout.labels)
    asked = f'<pre class="asked">{escape(rollout.prompt_text)}</pre>' if rollout.prompt_text else ""
    return (
        f'<article class="card"><header><h3>{escape(rollout.sample_id)}</h3>{_badges(rollout)}</header>'
        f"{shelf.html(rollout.videos, rollout.audios, rollout.images)}"
        f'<div class="sides"><div><h4>The student was asked</h4>{asked}'
        f'<h4>Reference</h4><p class="labels">{labels or "none"}</p></div>'
        f"<div><h4>The student answered</h4>{_response(rollout, full)}{_evidence(rollout)}</div>"
        "</div></article>"
    )


def _badges(rollout: LoggedRollout) -> str:
    verdict = {True: ("right", "right"), False: ("wrong", "wrong"), None: ("unjudged", "not judged")}[
        rollout.correct
    ]
    teacher = "" if rollout.teacher_version is None else f", teacher v{rollout.teacher_version}"
    facts = [
        f"step {rollout.step}", f"student v{rollout.policy_version}{teacher}", rollout.dataset,
        f"{len(rollout.response_ids)} tokens", f"ended by {rollout.finish}",
    ]  # fmt: skip
    said = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    return f'<p class="facts"><span class="badge {verdict[0]}">{verdict[1]}</span>{said}</p>'


def _response(rollout: LoggedRollout, full: float) -> str:
    if rollout.tokens is None:
        return f'<p class="tokens">{escape(rollout.text)}</p>'
    spans = [_token(rollout, index, token, full) for index, token in enumerate(rollout.tokens)]
    return f'<p class="tokens" data-t="Point at a token to read its numbers">{"".join(spans)}</p>'


def _token(rollout: LoggedRollout, index: int, token: str, full: float) -> str:
    shown = token.replace("\n", "\u21b5\n")
    facts = [_quoted(token), _said("student", rollout.student_logprobs, index)]
    facts += [_said("teacher", rollout.teacher_logprobs, index)]
    if rollout.divergence is not None:
        facts.append(f"divergence {rollout.divergence[index]:.4f}")
    text = "   ".join(fact for fact in facts if fact)
    return f'<span class="{_shade(rollout, index, full)}" data-t="{escape(text)}">{escape(shown)}</span>'


def _shade(rollout: LoggedRollout, index: int, full: float) -> str:
    strength = _strength(rollout)
    if strength is None or not math.isfinite(strength[index]):
        return "t"
    level = min(LEVELS, round(LEVELS * float(strength[index]) / full))
    if rollout.student_logprobs is None or rollout.teacher_logprobs is None or level == 0:
        return f"t d{level}"
    likelier = rollout.teacher_logprobs[index] >= rollout.student_logprobs[index]
    return f"t {'p' if likelier else 'm'}{level}"


def _said(who: str, logprobs: np.ndarray | None, index: int) -> str:
    if logprobs is None:
        return ""
    value = float(logprobs[index])
    return f"{who} {value:.3f} ({math.exp(min(0.0, value)):.1%})"


def _quoted(token: str) -> str:
    return "\u201c" + token.replace("\n", "\u21b5") + "\u201d"


def _evidence(rollout: LoggedRollout) -> str:
    if rollout.privilege == "none":
        return '<p class="note">The teacher had no privileged context (control).</p>'
    source = f"mode {rollout.privilege}"
    if rollout.evidence_id and rollout.evidence_id != rollout.sample_id:
        source += f", taken from {rollout.evidence_id} (control)"
    text = rollout.evidence or f"stored under {rollout.evidence_id or 'no id'}; its text was not logged"
    return (
        f'<aside class="privileged"><h4>Privileged: only the teacher read this</h4>'
        f"<p>{escape(text)}</p><small>{escape(source)}</small></aside>"
    )


def _key(full: float) -> str:
    def scale(sign: str) -> str:
        return "".join(f'<i class="t {sign}{level}"></i>' for level in range(1, LEVELS + 1))

    return (
        '<p class="colourkey"><span class="scale">'
        + scale("m")
        + "</span> the teacher finds the token less likely "
        'than the student does <span class="scale">' + scale("p") + "</span> more likely "
        f"<span>strength: divergence of the two at this token, full colour from {full:.3g}</span></p>"
    )
