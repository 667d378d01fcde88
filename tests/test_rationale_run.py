"""Rationales in a run: made from real clips, looked up by key, trained with, audited."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.yaml_file import ConfigError
from omniopsd.check import CheckError, require_sound
from omniopsd.config import RunConfig
from omniopsd.config_file import load_config
from omniopsd.prompts import make_book
from omniopsd.rationales.audit import choose
from omniopsd.rationales.audit_counts import MODES, Measured, audit_json, paired_interval, worth
from omniopsd.rationales.audit_report import audit_page, no_gain, warnings
from omniopsd.rationales.lookup import run_samples
from omniopsd.rationales.make import MakeError, make
from omniopsd.rationales.progress import progress_line
from omniopsd.rationales.requests import RequestBook, task_text
from omniopsd.rollout_log import read_rollouts
from omniopsd.samples import read_samples
from rationale_cache.reader import CacheReader
from rationale_cache.tally import Tally
from rationale_cache.types import Rationale
from rollout.renderer import Renderer
from teacher.context import EvidenceBook, Privileged
from tests.model_server import ModelServer, Play, Script, asked_text, completion, evidence
from tests.run_scene import bare, held_out, run_config, run_yaml

CANARY = "sk-canary-5520"


def scene(folder: Path, url: str = "http://127.0.0.1:9/v1", **cache: Any) -> RunConfig:
    """A small run whose rationales come from a cache."""
    given = run_config(folder, data={"test": held_out(folder)})
    data = {"train": bare(given.data.train), "test": bare(str(given.data.test))}
    settings = {
        "path": str(folder / "cache"),
        "model": "observer-1",
        "base_url": url,
        "backoff_seconds": 0.01,
        "filters": {"agreement": False},
    }
    return run_config(folder, data=data, rationale_cache=settings | cache)


def good(number: int, body: dict[str, Any]) -> Play:
    cues = [
        {"modality": "video", "text": "brows drawn together", "start": 0.0, "end": 0.5},
        {"modality": "audio", "text": "speaks fast", "start": None, "end": None},
    ]
    return Play(
        body=completion(evidence(f"Number {number}: the brows drop and the voice is fast.", cues=cues))
    )


def test_made_from_frames_and_sound_looked_up_trained_with_and_logged(tmp_path: Path) -> None:
    from omniopsd.train import train

    with ModelServer(good) as server:
        config = scene(tmp_path, server.url, on_miss="make", max_frames=2)
        run = train(config)
        content = server.seen[0].body["messages"][0]["content"]
        times = [part["text"] for part in content if re.fullmatch(r"\d\.\d s", part.get("text", ""))]
        assert len(times) == 2 and "input_audio" in [part["type"] for part in content]
        assert "[video 1]" in asked_text(server.seen[0].body)
        labels = {label for s in read_samples(config.data.train) for label in s.labels}
        assert len(server.seen) == 12  # 6 to train on, 6 that the teacher answers
        assert make(config).known == 12 and len(server.seen) == 12
    logged = [r for step in (1, 2, 3) for r in read_rollouts(run.rollout_path(step))]
    with CacheReader(config.rationale_cache.path) as cache:  # type: ignore[union-attr]
        for rollout in logged:
            record = cache.get(rollout.rationale_key)
            assert (
                record is not None
                and record.text == rollout.evidence
                and record.sample_id == rollout.sample_id
            )
    assert run.read_eval()["teacher"]["n"] == 6 and labels


def test_a_key_changes_with_all_that_could_change_the_text_and_with_nothing_else(tmp_path: Path) -> None:
    config = scene(tmp_path)
    assert config.rationale_cache is not None
    sample = read_samples(config.data.train)[0]

    def key(media: dict[str, Any] | None = None, sample: Any = sample, **changes: Any) -> str:
        section = config.rationale_cache.model_copy(update=changes)  # type: ignore[union-attr]
        return RequestBook(section, config.data.media.model_copy(update=media or {})).key(sample)

    others = {
        "model": key(model="observer-2"),
        "prompt": key(prompt="{task} and {media}"),
        "temperature": key(temperature=0.5),
        "seed": key(seed=1),
        "extra": key(extra_body={"top_k": 3}),
        "length": key(max_completion_tokens=99),
        "reply": key(reply="text"),
        "frames": key(max_frames=3),
        "side": key(max_side=100),
        "fps": key(media={"fps": 1.0}),
        "kinds": key(send=("video",)),
        "mode": key(mode="label_conditioned"),
    }
    assert len({key(), *others.values()}) == 1 + len(others)
    same = [
        key(max_concurrency=3),
        key(base_url="http://other/v1"),
        key(api_key_env="X"),
        key(path="elsewhere"),
    ]
    assert {key(media={"cache_bytes": 5}), *same} == {key()}

    relabelled = replace(sample, labels=("other",))
    assert key(sample=relabelled) == key()
    assert key(sample=relabelled, mode="label_conditioned") != key(mode="label_conditioned")
    clip = Path(sample.inputs.paths.root) / sample.inputs.paths.videos[0]
    before = key()
    clip.write_bytes(clip.read_bytes() + b"\0")
    assert key() != before
    assert "user: [video 1] [audio 1] [image 1]" in task_text(sample)


@pytest.fixture(scope="module")
def half_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with 2 of 6 training samples refused and 1 not asked for; the held-out ones whole but one."""
    folder = tmp_path_factory.mktemp("half")

    def script(number: int, body: dict[str, Any]) -> Play:
        if number in (1, 3):
            return Play(body=completion(None, refusal="I can't."))
        return good(number, body) if number != 11 else Play(status=400, body="{}")

    with ModelServer(script) as server, pytest.raises(MakeError, match="1 of 12 rows have no record"):
        make(scene(folder, server.url, max_asks=1, max_concurrency=1))
    train = Path(scene(folder).data.train)
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    extra = rows[0] | {
        "id": "new",
        "messages": [{"role": "user", "content": "<video><audio><image>\nAnd how old is he?"}],
    }
    train.with_name("more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, extra]))
    return folder


def half(folder: Path, **cache: Any) -> RunConfig:
    config = scene(folder, max_asks=1, **cache)
    data = config.data.model_copy(update={"train": config.data.train.replace("bare", "more")})
    return config.model_copy(update={"data": data})


def test_a_miss_is_an_error_or_left_out_and_counted(
    half_made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"1 of 7 samples have no record .*more.jsonl:7"):
        run_samples(half(half_made), half(half_made).data.train)
    skipping = half(half_made, on_miss="skip")
    samples = run_samples(skipping, skipping.data.train)
    assert len(samples) == 6 and sum(s.rationale is not None for s in samples) == 4
    said = capsys.readouterr().out
    assert "4 of 7 samples have a rationale" in said and "1 are not in it and left out" in said
    assert "2 have no rationale (2 refusal)" in said
    with pytest.raises(CheckError, match="2 of 6 samples have no"):
        _book(skipping, samples)
    allowed = skipping.model_copy(update={"teacher": skipping.teacher.model_copy(update={"missing": "skip"})})
    assert _book(allowed, samples) == 4
    tested = run_samples(skipping, str(skipping.data.test), held_out=True)
    assert len(tested) == 6 and sum(s.rationale is not None for s in tested) == 5


def _book(config: RunConfig, samples: Any) -> int:
    try:
        return len(make_book(config, samples, Renderer(config.model.path)).samples)
    except ValueError as error:
        raise CheckError(str(error)) from error


def test_a_sample_with_both_is_refused_or_ordered(half_made: Path) -> None:
    config = half(half_made, on_miss="skip")
    rows = [json.loads(line) for line in Path(config.data.train).read_text().splitlines()]
    made = {s.sample_id for s in run_samples(config, config.data.train) if s.rationale is not None}
    at = next(at for at, row in enumerate(rows) if row["id"] in made)
    rows[at]["rationale"] = "From the file."
    both = Path(config.data.train).with_name("both.jsonl")
    both.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"both.jsonl:{at + 1}: a rationale in the data file"):
        run_samples(config, str(both))
    for order, start in (("data", "From the file."), ("cache", "Number ")):
        found = run_samples(half(half_made, on_miss="skip", on_both=order), str(both))
        first = next(sample for sample in found if sample.sample_id == rows[at]["id"])
        assert str(first.rationale).startswith(start) and bool(first.rationale_key) == (order == "cache")


def test_label_conditioned_without_labels_is_refused(half_made: Path) -> None:
    config = half(half_made, mode="label_conditioned", on_miss="skip")
    rows = [json.loads(line) for line in Path(config.data.train).read_text().splitlines()]
    rows[2].pop("labels")
    file = Path(config.data.train).with_name("unlabelled.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"unlabelled.jsonl:3: no labels \(1 of 7"):
        run_samples(config, str(file))


def test_check_says_what_is_still_to_be_made_and_asks_nobody(
    half_made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = half(half_made, on_miss="make")
    require_sound(config)
    assert "1 are not in it and still to be made" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "key", "said"),
    [
        ({"api_key": CANARY}, "rationale_cache.api_key", "unknown key"),
        ({"api_key_env": CANARY}, "rationale_cache.api_key_env", "not shown"),
        ({"api_key_file": CANARY}, "rationale_cache.api_key_file", "not shown"),
        ({"base_url": f"https://user:{CANARY}@host/v1"}, "rationale_cache.base_url", "not shown"),
        ({"base_url": f"https://host/v1?key={CANARY}"}, "rationale_cache.base_url", "not shown"),
        ({"base_url": "host/v1"}, "rationale_cache.base_url", "no address"),
        ({"base_url": "https://api.openai.com/v1"}, "rationale_cache.api_key_env", "wants a key"),
        ({"api_key_env": "A", "api_key_file": "b"}, "rationale_cache.api_key_file", "keep one"),
        ({"budget": {"max_cost": 1.0}}, "rationale_cache.budget.max_cost", "without prices"),
        ({"prompt": "Describe."}, "rationale_cache.prompt", "{task}"),
        ({"prompt": "{task} {label}"}, "rationale_cache.prompt", "blind must not show"),
        ({"prompt": "{task}", "mode": "label_conditioned"}, "rationale_cache.prompt", "{label}"),
        ({"reply": "text", "filters": {}}, "rationale_cache.filters.agreement", "plain text"),
        ({"extra_body": {"stream": True}}, "rationale_cache.extra_body", "stream"),
        ({"filters": {"min_chars": 9, "max_chars": 5}}, "rationale_cache.filters.min_chars", "no reply"),
        ({"model": "imported:x", "on_miss": "make"}, "rationale_cache.on_miss", "cannot be made"),
        ({"tokens_per_minute": 100}, "rationale_cache.tokens_per_minute", "never lets"),
    ],
)
def test_what_contradicts_itself_is_refused_at_load_and_no_key_is_shown(
    tmp_path: Path, section: dict[str, Any], key: str, said: str
) -> None:
    plain = {"path": "c", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    path = run_yaml(tmp_path, rationale_cache=plain | section)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    text = str(error.value)
    assert f"{key}: " in text and said in text and CANARY not in text


SCRIPT: Script = lambda number, body: (  # noqa: E731
    Play(status=500, body=CANARY) if number % 4 == 1 else good(number, body)
)


def test_the_key_is_in_no_file_line_or_process_list(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(CANARY)
    key.chmod(0o600)
    with ModelServer(SCRIPT) as server:
        scene(tmp_path, server.url, api_key_file=str(key), on_miss="make", max_asks=2)
        code = (
            "import logging, sys; logging.basicConfig(level=logging.DEBUG)\n"
            "from omniopsd.cli import main; sys.exit(main(sys.argv[1:]))"
        )
        arguments = [sys.executable, "-c", code, "rationales", "make", str(tmp_path / "run.yaml")]
        environment = os.environ | {"OMNIOPSD_DEBUG": "1", "OPENAI_LOG": "debug"}
        child = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        listed = (
            Path(f"/proc/{child.pid}/cmdline").read_bytes() + Path(f"/proc/{child.pid}/environ").read_bytes()
        )
        output, _ = child.communicate(timeout=120)
        assert child.returncode == 0, output
        assert {seen.headers["authorization"] for seen in server.seen} == {f"Bearer {CANARY}"}
        (tmp_path / "shut").write_text(output)
    assert CANARY.encode() not in listed
    key.unlink()
    found = [
        str(file) for file in tmp_path.rglob("*") if file.is_file() and CANARY.encode() in file.read_bytes()
    ]
    assert found == []


def test_a_run_is_not_resumed_with_other_rationales(half_made: Path) -> None:
    config = half(half_made, on_miss="skip", on_both="cache")
    samples = run_samples(config, config.data.train)
    given = config.teacher.model_copy(update={"missing": "skip"})
    renderer = Renderer(config.model.path)
    whole = [sample for sample in samples if sample.rationale is not None]
    others = [whole[1:], [replace(sample, rationale="Another.") for sample in samples]]
    digests = {make_book(config, part, renderer, given).digest for part in (samples, *others)}
    assert len(digests) == 3 and make_book(config, samples, renderer, given).digest in digests


def test_a_signal_lets_what_is_out_come_in_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    with ModelServer(lambda number, body: replace(good(number, body), delay=0.4)) as server:
        config = scene(tmp_path, server.url, max_concurrency=2)
        command = [sys.executable, "-m", "omniopsd.cli", "rationales", "make", str(tmp_path / "run.yaml")]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while len(server.seen) < 3 and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        said = child.communicate(timeout=60)[1]
        assert child.returncode == 2 and "interrupted by SIGTERM" in said and "run it again" in said
        asked = len(server.seen)
        assert 3 <= asked < 12
        tally = make(config)
        assert tally.known == asked and len(server.seen) == 12


def test_two_processes_make_a_cache_in_one_flight(tmp_path: Path) -> None:
    with ModelServer(lambda number, body: replace(good(number, body), delay=0.05)) as server:
        scene(tmp_path, server.url, on_miss="make", max_concurrency=2)
        code = (
            "import sys; from omniopsd.config_file import load_config; from omniopsd.rationales.make import make\n"
            "make(load_config(sys.argv[1]), wait=True)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "run.yaml")]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [child.communicate(timeout=120)[0] for child in both]
        assert [child.returncode for child in both] == [0, 0]
        assert len(server.seen) == 12 and sorted(" 0 made" in text for text in said) == [False, True]


# --- audit -------------------------------------------------------------------------------------------


def measured(number: int, right: set[str], moved: float = 0.0, dataset: str = "a") -> Measured:
    return Measured(
        sample_id=str(number),
        dataset=dataset,
        modality="video+audio" if number % 2 else "text",
        student_correct="student" in right,
        correct={mode: mode in right for mode in MODES},
        logprobs={
            mode: np.full(4, -1.0 + (moved if mode == "rationale" else 0.0), np.float32) for mode in MODES
        },
    )


def test_gains_are_paired_and_gaps_are_per_token() -> None:
    samples = [
        measured(n, {"rationale"} | ({"student", "none"} if n < 3 else set()), -0.5) for n in range(10)
    ]
    one = worth(samples, "rationale")
    assert (one.n, one.accuracy, one.student, one.tokens) == (10, 1.0, 0.3, 40)
    assert one.gain == pytest.approx(0.7) and one.low < 0.7 < one.high
    assert one.gap == pytest.approx(0.5) and one.signed_gap == pytest.approx(-0.5)
    none = worth(samples, "none")
    assert (none.gain, none.gap) == (0.0, 0.0) and none.low < 0 < none.high
    result = audit_json(samples)
    assert result["by_modality"]["text"]["rationale"]["n"] == 5
    json.dumps(result, allow_nan=False)


def test_the_paired_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(2000):
        before = rng.random(60) < 0.4
        after = np.where(before, rng.random(60) < 0.9, rng.random(60) < 0.5)
        low, high = paired_interval(after.astype(float), before.astype(float))
        hits += low <= 0.6 * 0.5 - 0.4 * 0.1 <= high
    assert 0.93 <= hits / 2000 <= 0.985


def test_no_gain_is_a_loud_warning_and_so_is_a_gain_that_shuffled_shares() -> None:
    def result(rights: set[str]) -> dict[str, Any]:
        samples = [measured(n, rights) for n in range(6)]
        return {"model": "m", "data": "d", "left_out": 0, "privilege": "rationale"} | audit_json(samples)

    assert "nothing to distil" in no_gain(result({"student"})["modes"], "rationale")
    assert "does not come from the evidence" in no_gain(
        result({"rationale", "shuffled"})["modes"], "rationale"
    )
    assert no_gain(result({"rationale"})["modes"], "rationale") == ""
    page = audit_page(result({"student"}))
    assert "nothing to distil" in page and page.count("<svg") == 2 and len(warnings(result({"student"}))) == 3


def test_redacted_evidence_keeps_everything_but_the_label() -> None:
    row = Privileged(sample_id="a", labels=("sad",), rationale=Rationale.of("Sadly he looks down, sad."))
    book = EvidenceBook([row], "redacted", seed=0)
    found = book.of("a")
    assert found is not None and found.text == "[...] he looks down, [...]." and found.rationale_key
    with pytest.raises(ValueError, match="redacted"):
        EvidenceBook([Privileged(sample_id="a", labels=(), rationale=row.rationale)], "redacted", seed=0)


def test_an_audit_needs_samples_with_both() -> None:
    with pytest.raises(ValueError, match="0 of 0"):
        choose([], 5)


@pytest.mark.slow
def test_an_audit_measures_five_modes_with_the_real_engines(tmp_path: Path) -> None:
    from omniopsd.rationales.audit import AuditError, audit

    config = run_config(tmp_path)
    result = audit(config, samples=5, out=str(tmp_path / "out"))
    assert result["n"] == 5 and list(result["modes"]) == list(MODES)
    modes = result["modes"]
    assert modes["none"]["gap"] == 0.0 and abs(modes["none"]["gain"]) < 1e-9
    assert all(modes[mode]["gap"] > 0 for mode in ("label", "rationale", "redacted", "shuffled"))
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == result
    assert "Tokens moved" in (tmp_path / "out" / "audit.html").read_text()
    with ModelServer(good) as server:
        cached = scene(tmp_path / "cached", server.url, on_no_gain="fail")
        make(cached)
        with pytest.raises(AuditError, match="on_no_gain: fail"):
            audit(cached)  # a model of random weights gains nothing


def test_the_progress_line_tells_rate_cost_and_failures() -> None:
    tally = Tally(rows=2000, known=100, made=90, tokens=14_400, cost=0.5)
    tally.none.update({"empty": 10})
    tally.failed.update({"timeout": 3})
    line = progress_line(tally, 60.0)
    assert line.startswith("200/2000 rows  100.0 rows/min  0:18:00 left  14.4k tokens  $0.50 of about $9.50")
    assert "none: 10 empty" in line and "failed: 3 timeout" in line
