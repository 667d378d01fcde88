"""`bench run` end to end on the miniature sets: the committed student in vLLM, killed midway, then an endpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from omniopsd.cli import main
from omniopsd.demo import STUDENT

ROOT = Path(__file__).resolve().parent.parent
CLIPS = 4
SETTINGS = [
    "runtime.kind=inline",
    "rollout.max_new_tokens=40",
    "data.media.max_frames=4",
    "model.max_context=256",
]
pytestmark = pytest.mark.slow


def run_arguments(folder: Path, *more: str) -> list[str]:
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    out, data = str(folder / "out"), str(folder / "prepared")
    return ["bench", "run", "mer-mini", "--model", str(STUDENT), "--out", out, "--data", data, *sets, *more]


class Extractor(BaseHTTPRequestHandler):
    """Answers both steps as a language model would; notes every prompt that was asked."""

    asked: Counter[str] = Counter()
    delay = 0.0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        Extractor.asked[prompt] += 1
        time.sleep(Extractor.delay)
        found = re.findall(r"<answer>(.*?)</answer>", prompt)
        text = f"Output: [{found[-1]}]" if found else "positive" if "[happy]" in prompt[-40:] else "negative"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        reply = json.dumps(
            {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice]}
        )
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply.encode())
        except OSError:  # the asker was killed
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Extractor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets and samples made by the commands, and a run that was killed with some answers on the disk."""
    folder = tmp_path_factory.mktemp("bench")
    assert (
        main(
            [
                "data",
                "mer-mini-bench",
                "--out",
                str(folder / "root"),
                "--clips",
                str(CLIPS),
                "--val-clips",
                "1",
            ]
        )
        == 0
    )
    prepare = [
        "bench",
        "prepare",
        "mer-mini",
        "--root",
        str(folder / "root"),
        "--out",
        str(folder / "prepared"),
    ]
    assert main(prepare) == 0
    command = [sys.executable, "-m", "omniopsd.cli", *run_arguments(folder, "--no-llm", "--chunk", "2")]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    answers, deadline = folder / "out" / "answers.jsonl", time.monotonic() + 900
    while not (answers.exists() and answers.read_bytes().count(b"\n") >= 2):
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()[1][-2000:]
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return folder


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().split("\n")[:-1]]


def test_a_killed_run_goes_on_and_scores_all_nine_sets(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = lines(folder / "out" / "answers.jsonl")
    assert 2 <= len(kept) < 9 * CLIPS
    assert main(run_arguments(folder, "--no-llm")) == 0
    said = capsys.readouterr().out
    assert f"answers: {len(kept)} of {9 * CLIPS} are there already" in said
    rows = lines(folder / "out" / "answers.jsonl")
    assert rows[: len(kept)] == kept and len(rows) == 9 * CLIPS
    assert len({json.loads(row)["clip"] for row in rows}) == 9 * CLIPS
    scores = json.loads((folder / "out" / "scores.json").read_text())
    assert len(scores["sets"]) == 9 and 0 <= scores["safe_mean"] <= 100
    assert scores["extraction"]["kind"] == "fixed rules" and scores["words"]["version"] == "own"
    assert sum("<answer>" in json.loads(row)["text"] for row in rows) > 0.8 * len(
        rows
    )  # the student's own form
    assert (folder / "out" / "report.html").stat().st_size > 100_000


def test_nothing_is_asked_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "out" / "answers.jsonl").read_bytes()
    scores = json.loads((folder / "out" / "scores.json").read_text())
    assert main(run_arguments(folder, "--no-llm")) == 0
    assert "starting" not in capsys.readouterr().out
    assert (folder / "out" / "answers.jsonl").read_bytes() == before
    again = json.loads((folder / "out" / "scores.json").read_text())
    assert again["sets"] == scores["sets"] and again["answers"] == scores["answers"]


def test_an_endpoint_extracts_and_every_prompt_is_paid_once(
    folder: Path, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Extractor.asked.clear()
    more = ["--endpoint", endpoint, "--llm", "Qwen2.5-7B-Instruct"]
    assert main(run_arguments(folder, *more)) == 0
    assert Extractor.asked and set(Extractor.asked.values()) == {1}
    scores = json.loads((folder / "out" / "scores.json").read_text())
    assert scores["extraction"]["kind"] == "endpoint" and scores["extraction"]["prompts"] == "own"
    assert "The extraction prompts are in the project's own wording, not the official one." in scores["marks"]
    assert not any("extraction model is" in mark for mark in scores["marks"])
    asked = sum(Extractor.asked.values())
    assert main(run_arguments(folder, *more)) == 0
    assert sum(Extractor.asked.values()) == asked
    again = json.loads((folder / "out" / "scores.json").read_text())
    assert again["extraction"]["sha256"] == scores["extraction"]["sha256"]


def chat_model(folder: Path) -> Path:
    """A tiny Qwen2 of random weights with the student's tokenizer and chat template."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = json.loads((STUDENT / "generation_config.json").read_text())["eos_token_id"][0]
    config = Qwen2Config(
        vocab_size=1024, num_key_value_heads=2, max_position_embeddings=512, eos_token_id=end, **sizes
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((STUDENT / name).read_bytes())
    return folder


def test_a_local_engine_extracts(tmp_path: Path) -> None:
    from omniopsd.bench.engine_asker import EngineAsker
    from omniopsd.bench.extract import Extraction, LanguageModelSteps
    from omniopsd.bench.journal import Journal
    from omniopsd.bench.templates import Templates
    from omniopsd.model_source import eval_config
    from rollout.vllm_text import TextSampling
    from tests.bench_scene import QUIET

    config = eval_config(str(STUDENT), "unused.jsonl", ["runtime.kind=inline", "rollout.kv_cache_gib=0.1"])
    sampling = TextSampling(temperature=0.7, top_p=0.8, repetition_penalty=1.05, max_new_tokens=6)
    templates = Templates(labels="Words: {text} Which emotion", polarity="Which: {text}", source="file")
    replies = {
        f"MOSI/{number}": f"the tone is {word}" for number, word in enumerate(("even", "rough", "even"))
    }
    model = chat_model(tmp_path / "chat")

    def extract(path: Path) -> Extraction:
        with Journal(path) as journal, EngineAsker(config, str(model), sampling) as asker:
            steps = LanguageModelSteps(
                asker=asker, templates=templates, passed="whole", journal=journal, console=QUIET
            )
            found = steps(replies, lambda id_: True)
            assert len(journal) == 2 + len(set(found.labels.values()))  # equal prompts are asked once
            return found

    first = extract(tmp_path / "a.jsonl")
    assert first.labels["MOSI/0"] == first.labels["MOSI/2"] and len(first.keys) == 6
    assert extract(tmp_path / "b.jsonl") == first  # seeds of their own: a rerun draws the same
    kept = (tmp_path / "b.jsonl").read_bytes()
    assert extract(tmp_path / "b.jsonl") == first and (tmp_path / "b.jsonl").read_bytes() == kept


EXTRACT = """
import sys
from pathlib import Path
from rich.console import Console
from omniopsd.bench.endpoint_asker import EndpointAsker
from omniopsd.bench.extract import LanguageModelSteps
from omniopsd.bench.journal import Journal
from omniopsd.bench.templates import own_templates
from rationale_cache.config import EndpointConfig
from rollout.vllm_text import TextSampling
sampling = TextSampling(temperature=0.7, top_p=0.8, repetition_penalty=1.05, max_new_tokens=64)
config = EndpointConfig(model="m", base_url=sys.argv[1], max_concurrency=3)
replies = {f"MOSI/{n}": f"<answer>word{n}</answer>" for n in range(60)}
with Journal(Path(sys.argv[2])) as journal:
    steps = LanguageModelSteps(asker=EndpointAsker(config, sampling), templates=own_templates(), passed="whole",
                               journal=journal, console=Console(quiet=True))
    found = steps(replies, lambda id_: True)
    print(len(found.labels), len(found.polarity), found.labels["MOSI/7"])
"""


def test_a_killed_extraction_pays_no_journaled_reply_again(endpoint: str, tmp_path: Path) -> None:
    import random

    Extractor.asked.clear()
    Extractor.delay, rng, journal = 0.02, random.Random(9), tmp_path / "extraction.jsonl"
    command = [sys.executable, "-c", EXTRACT, endpoint, str(journal)]
    most, kills = 0, 0
    for _ in range(2):
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        seen = sum(Extractor.asked.values())
        while sum(Extractor.asked.values()) < seen + rng.randint(5, 25):
            assert child.poll() is None
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
        held = journal.read_bytes().count(b"\n")
        assert held > most  # every attempt kept what it had got
        most = held
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["60", "60", "[word7]"]
    assert journal.read_bytes().count(b"\n") == len(Extractor.asked) == 120
    # asked again: only what was under way when a kill came, at most the three open requests of each
    again = sum(Extractor.asked.values()) - len(Extractor.asked)
    assert again <= 3 * kills
    Extractor.delay = 0.0


def test_what_is_wrong_is_said_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*more: str) -> str:
        assert main(run_arguments(folder, *more)) == 2
        return capsys.readouterr().err

    assert "--llm FOLDER, --endpoint URL --llm NAME, or --no-llm" in told()
    assert "--prompts: no effect, --no-llm asks no language model" in told("--no-llm", "--prompts", "x.yaml")
    assert "--concurrency: no effect, a local engine has no endpoint" in told(
        "--llm", "m", "--concurrency", "2"
    )
    assert "'MELD2' is not a set of MER-UniBench" in told("--no-llm", "--sets", "MELD2")
    assert "unknown key" in told("--no-llm", "--set", "rollout.replica=2")
    assert "no model folder" in told("--llm", str(folder))
    wrong = [word if word != "mer-mini" else "mer-unibench" for word in run_arguments(folder, "--no-llm")]
    assert main(wrong) == 2 and "holds mer-mini, not mer-unibench" in capsys.readouterr().err
