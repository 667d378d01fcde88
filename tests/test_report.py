"""The report: whole, readable without a network, and safe to open whatever the rollouts say."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from omniopsd.config import RunConfig
from omniopsd.metrics import MetricsLog
from omniopsd.report import build_report
from omniopsd.report_charts import Series, line_chart, stacked_chart, ticks
from omniopsd.report_media import MediaShelf, video_stills, waveform
from omniopsd.report_rollouts import pick_rollouts
from omniopsd.report_table import change_interval, eval_table, gap_closed, rate_of, wilson
from omniopsd.rollout_log import LoggedRollout, write_rollouts
from omniopsd.run_folder import RunFolder

ATTACK = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "hr", "input", "link"}
ANSWER = (
    "<think>",
    "\n",
    "She",
    " speaks",
    " fast",
    ",",
    " her",
    " voice",
    " rises",
    ".",
    " The",
    " raised",
    " brows",
    " and",
    " open",
    " mouth",
    " suggest",
    " surprise",
    " rather",
    " than",
    " fear",
    ".",
    "</think>",
    "\n",
    "<answer>",
    "surprise",
    "</answer>",
    "<|im_end|>",
)


class Page(HTMLParser):
    """Parses a page and checks that tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "action", "data", "poster")
        ]
        assert not [name for name, _ in attrs if name.startswith("on")], attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


def write_clip(path: Path, *, seconds: float = 2.0, sound: bool = True) -> None:
    """An mp4 with a moving square and, if asked, a tone."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = 160, 120, "yuv420p"
        tone = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index in range(int(seconds * 10)):
            image = np.full((120, 160, 3), (40, 60 + 6 * index % 180, 90), np.uint8)
            image[30:90, 4 * index : 4 * index + 50] = (240, 190, 70)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(picture.encode())
        if tone is not None:
            time = np.arange(int(seconds * 16000)) / 16000
            wave = (0.6 * np.sin(2 * np.pi * 220 * time) * np.sin(np.pi * time) ** 2).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.rate = 16000
            container.mux(tone.encode(frame))
            container.mux(tone.encode())


def write_sound(path: Path) -> None:
    import soundfile

    time = np.arange(24000) / 16000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 330 * time) * np.exp(-time), 16000)


def a_rollout(step: int, number: int, media: Path | None = None, **changes) -> LoggedRollout:
    random = np.random.default_rng([step, number])
    student = -random.exponential(0.5, len(ANSWER)).astype(np.float32)
    gap = random.normal(0.2, 0.9, len(ANSWER)).astype(np.float32) * (random.random(len(ANSWER)) < 0.5)
    teacher = np.minimum(student + gap, -1e-3).astype(np.float32)
    rollout = LoggedRollout(
        sample_id=f"clip-{number:04d}",
        rollout_id=f"{step}/clip-{number:04d}/0",
        step=step,
        dataset=("mer-mini/single", "mer-mini/redundant")[number % 2],
        policy_version=step - 1,
        teacher_version=step - 1,
        finish="stop",
        prompt_ids=np.arange(40, dtype=np.int32),
        response_ids=np.arange(len(ANSWER), dtype=np.int32),
        rollout_logprobs=student,
        student_logprobs=student,
        teacher_logprobs=teacher,
        divergence=np.abs(teacher - student) * 0.3,
        tokens=ANSWER,
        prompt_text="<video><audio>\nSubtitle: I never thought you would come!\nWhich emotions are shown?",
        text="".join(ANSWER),
        labels=("surprise", "joy"),
        correct=bool(number % 3),
        privilege="rationale",
        evidence_id=f"clip-{number:04d}",
        evidence="Raised brows and a dropped jaw on 'you'; pitch jumps by a fifth. The words could be joy.",
        videos=(str(media / "clip.mp4"),) if media else (),
        audios=(str(media / "clip.wav"),) if media else (),
    )
    return replace(rollout, **changes)


def a_step(step: int) -> dict[str, object]:
    noise = np.random.default_rng(step).normal(0, 1, 16)
    shape = math.exp(-step / 40)
    rollout, teacher, learner = 6 + 0.3 * noise[0], 1.4 + 0.1 * noise[1], 4.2 + 0.2 * noise[2]
    return {
        "loss": max(0.01, 0.12 * shape + 0.03 + 0.008 * noise[3]),
        "grad_norm": 1.1 + 0.2 * abs(noise[4]),
        "divergence": max(0.01, 0.12 * shape + 0.03 + 0.008 * noise[3]),
        "teacher_gain": 0.5 * shape + 0.05 * noise[5],
        "student_entropy": 0.9 + 0.3 * shape,
        "response_length": 90 + 20 * (1 - shape) + 3 * noise[6],
        "format_rate": min(1.0, 1.01 - 0.3 * shape),
        "accuracy_train": float(np.clip(0.6 - 0.3 * shape + 0.05 * noise[7], 0, 1)),
        "policy_version": step,
        "teacher_version": step,
        "staleness_max": 0,
        "divergence_by_position": [float(0.2 * shape / (1 + place) + 0.02) for place in range(8)],
        "seconds": {
            "rollout": rollout,
            "teacher": teacher,
            "learner": learner,
            "push": 0.5,
            "step": rollout + learner + 0.6,
        },
        "tokens_per_second": {"rollout": 640.0, "teacher": 2800.0, "learner": 930.0},
        "peak_bytes": {"driver": 900_000_000, "learner": 5_200_000_000},
        "probe_difference": 2e-4,
        "rollout_learner_difference": 1.5e-3,
    }


EVAL = {
    "before": {"n": 300, "correct": 90, "format_valid": 291, "by_dataset": {
        "mer-mini/single": {"n": 150, "correct": 52}, "mer-mini/redundant": {"n": 150, "correct": 38}}},
    "teacher": {"n": 300, "correct": 231, "format_valid": 300, "by_dataset": {
        "mer-mini/single": {"n": 150, "correct": 120}, "mer-mini/redundant": {"n": 150, "correct": 111}}},
    "after": {"n": 300, "correct": 171, "format_valid": 300, "by_dataset": {
        "mer-mini/single": {"n": 150, "correct": 96}, "mer-mini/redundant": {"n": 150, "correct": 75}}},
    "steps": {"20": {"n": 300, "correct": 121}, "40": {"n": 300, "correct": 149}},
}  # fmt: skip


def fake_run(root: Path, *, steps: int = 40, media: Path | None = None) -> RunFolder:
    """A run folder as a real run would leave it, with invented numbers."""
    folder = RunFolder(root, "mer-mini-demo")
    run = {"name": "mer-mini-demo", "steps": steps, "samples_per_step": 16}
    folder.create(
        RunConfig.model_validate({"run": run, "model": {"path": "models/tiny-omni"}, "data": {"train": "a"}})
    )
    with MetricsLog(folder.metrics_path) as log:
        for step in range(1, steps + 1):
            log.append(step, a_step(step))
    for step in range(1, steps + 1, 4):
        write_rollouts(folder.rollout_path(step), [a_rollout(step, number, media) for number in range(4)])
    folder.write_eval(EVAL)
    return folder


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4")
    write_sound(folder / "clip.wav")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, media) -> str:
    return build_report(fake_run(tmp_path_factory.mktemp("runs"), media=media)).read_text(encoding="utf-8")


def test_the_page_parses_and_loads_nothing(page):
    parsed = Page(page)
    assert "script" not in parsed.tags and "link" not in parsed.tags and "iframe" not in parsed.tags
    assert parsed.addresses and all(address.startswith(("#", "data:")) for address in parsed.addresses)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "piece",
    [
        "mer-mini-demo",
        "models/tiny-omni",
        "step 40 of 40",
        "30.0%",
        "77.0%",
        "57.0%",
        "[25.1, 35.4]",
        "+27.0",
        "mer-mini/redundant",
        "n = 300",
        "57% of the gap",
        "Loss",
        "Accuracy",
        "Divergence by position",
        "Response length",
        "Student entropy",
        "Teacher gain",
        "Seconds per stage",
        "held-out items",
        "Checks",
        "clip-0000",
        "The student was asked",
        "I never thought",
        "Privileged: only the teacher read this",
        "Raised brows",
        "surprise",
        "teacher -",
        "divergence 0.",
        "image/jpeg",
        "<audio controls",
        "<video controls",
        "config.yaml",
        "torch",
    ],
)
def test_every_piece_is_there(page, piece):
    assert piece in page


def test_a_dozen_rollouts_and_every_token(page):
    assert page.count('<article class="card">') == 12
    assert len(re.findall(r'<span class="t [pmd]\d" data-t=', page)) == 12 * len(ANSWER)
    assert page.count('class="medium"') == 24


def test_all_text_is_escaped(tmp_path):
    folder = fake_run(tmp_path, steps=1)
    evil = a_rollout(
        1,
        1,
        sample_id=ATTACK,
        dataset=ATTACK,
        tokens=(ATTACK, '" onmouseover="x', *ANSWER[2:]),
        text=ATTACK,
        prompt_text=ATTACK,
        labels=(ATTACK,),
        evidence=ATTACK,
        evidence_id=ATTACK + "2",
        privilege="other-row",
        finish=ATTACK,
        videos=(ATTACK,),
        images=('"><img src=x>',),
    )
    write_rollouts(folder.rollout_path(1), [evil])
    folder.write_eval({"before": {"n": 2, "correct": 1, "by_dataset": {ATTACK: {"n": 2, "correct": 1}}}})
    folder.config_path.write_text(f'run: {{steps: "{ATTACK}"}}\nmodel: {{path: "{ATTACK}"}}\n')
    html = build_report(folder).read_text()
    assert "<script" not in html and "<img src=x" not in html and "&lt;script&gt;" in html
    assert "script" not in Page(html).tags


def test_an_unfinished_run_has_a_report(tmp_path):
    folder = RunFolder(tmp_path, "new")
    sections = {"run": {"name": "new", "steps": 2}, "model": {"path": "m"}, "data": {"train": "a"}}
    folder.create(RunConfig.model_validate(sections))
    html = build_report(folder).read_text()
    Page(html)
    for sentence in ("No evaluation yet", "No steps yet", "No checks were measured", "No rollouts logged"):
        assert sentence in html
    MetricsLog(folder.metrics_path).append(1, {"loss": 1.0, "seconds": {"rollout": 1.0}})
    folder.write_eval({"before": {"n": 10, "correct": 0}, "teacher": None, "after": None, "steps": {}})
    Page(build_report(folder).read_text())


def test_rollouts_without_teacher_tokens_or_media(tmp_path):
    folder = fake_run(tmp_path, steps=1)
    bare = a_rollout(
        1,
        1,
        student_logprobs=None,
        teacher_logprobs=None,
        divergence=None,
        teacher_version=None,
        privilege="none",
        correct=None,
        videos=("/nowhere/gone.mp4",),
    )
    shuffled = a_rollout(1, 2, privilege="shuffled", evidence_id="clip-0009", evidence=None)
    write_rollouts(folder.rollout_path(1), [bare, replace(bare, tokens=None), shuffled])
    html = build_report(folder).read_text()
    Page(html)
    for piece in (
        "gone.mp4: not found",
        "not judged",
        "no privileged context (control)",
        "taken from clip-0009",
    ):
        assert piece in html


def test_a_damaged_rollout_file_is_a_sentence(tmp_path):
    folder = fake_run(tmp_path, steps=5)
    folder.rollout_path(1).write_bytes(b"PAR1 nonsense")
    html = build_report(folder).read_text()
    assert "step_000001.parquet: cannot be read" in html and '<article class="card">' in html


def test_a_broken_medium_is_a_caption(tmp_path, media):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    assert "broken.mp4: cannot be decoded" in MediaShelf().html([str(tmp_path / "broken.mp4")], [], [])
    silent = tmp_path / "silent.mp4"
    write_clip(silent, sound=False)
    html = MediaShelf(budget=0).html([str(silent)], [], [])
    assert "image/jpeg" in html and "<video" not in html and "waveform" not in html
    assert waveform(silent) is None


def test_stills_are_spread_over_the_clip(media):
    stills = video_stills(media / "clip.mp4", 4)
    places = [int(np.argmax(np.asarray(still)[60, :, 0] > 150)) for still in stills]
    assert len(places) == 4 and places == sorted(set(places)) and places[-1] - places[0] > 40


def test_rollouts_are_picked_from_first_step_to_last(tmp_path):
    paths = [tmp_path / f"step_{step:06d}.parquet" for step in range(1, 31)]
    for step, path in enumerate(paths, start=1):
        write_rollouts(path, [a_rollout(step, number) for number in range(4)])
    chosen, faults = pick_rollouts(paths)
    assert faults == [] and len(chosen) == 12
    assert (chosen[0].step, chosen[-1].step) == (1, 30)
    assert len({one.sample_id for one in chosen}) == 4


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(90, 300, 0.25098, 0.35415), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (1, 1, 0.20655, 1.0)],
)
def test_wilson_bounds(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=2e-4)


def test_newcombe_bounds():
    """The worked example of Newcombe 1998, table II (a): 56/70 against 48/80, method 10."""
    before, after = rate_of({"n": 80, "correct": 48}), rate_of({"n": 70, "correct": 56})
    assert before and after
    assert change_interval(before, after) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_the_gap_needs_a_better_teacher():
    rates = {
        role: rate_of({"n": 10, "correct": n}) for role, n in (("before", 2), ("teacher", 6), ("after", 5))
    }
    assert gap_closed(rates) == pytest.approx(0.75)
    assert gap_closed({**rates, "teacher": rates["before"]}) is None
    assert gap_closed({**rates, "after": None}) is None
    assert "No evaluation" in eval_table({"before": {"n": 0, "correct": 0}})


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 40), (-3.3, 0.2), (1e-6, 3e-6), (5, 5), (1, 100_000)])
def test_ticks_are_inside_and_few(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 6 and all(low - 1e-9 <= value <= high + 1e-9 for value in found)


def test_charts_of_many_and_of_no_points():
    many = [(float(step), math.sin(step / 50)) for step in range(1, 5001)]
    picture = line_chart("A", "b", [Series(name="a", points=many)])
    assert len(picture) < 40_000 and "nan" not in picture
    assert line_chart("A", "b", [Series(name="a", points=[])]) == "" == stacked_chart("A", "b", [], None)
    flat = line_chart("A", "b", [Series(name="a", points=[(1.0, 0.0), (2.0, 0.0)])], from_zero=True)
    Page(flat)
    layers = [Series(name=name, points=many) for name in ("x", "y")]
    Page(stacked_chart("A", "b", layers, Series(name="all", points=many)))


def test_the_page_replaces_the_older_one(tmp_path):
    folder = fake_run(tmp_path, steps=1)
    folder.report_path.write_text("older")
    assert build_report(folder).read_text().startswith("<!doctype html>")
