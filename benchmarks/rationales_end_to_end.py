"""The whole path of the rationale cache, once, with a real model server on the CPU.

    python benchmarks/rationales_end_to_end.py --out benchmarks/results/rationales_end_to_end.json \
        [--run examples/ravdess/run.yaml]

vLLM's OpenAI server serves the student of a run YAML (without one: the demo's, on mer-mini clips); it writes
rationales for 50 of its clips; a run of 5 steps trains with them; a second `make` must ask for nothing. Calls are
counted at the server, by its own metrics. About 5 minutes on 2 CPU cores. Neither student was taught to observe:
what is shown here is the path, not the evidence.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from omniopsd.config_file import load_config
from omniopsd.demo import STUDENT
from omniopsd.mer_mini.write import write_mer_mini
from omniopsd.rationales.make import make
from omniopsd.rollout_log import read_rollouts
from omniopsd.run_folder import RunFolder, provenance_now
from rationale_cache.reader import CacheReader

CLIPS, SEED, STEPS = 50, 707, 5
SERVED = "student"
START_SECONDS = 300.0


def main() -> None:
    options = _arguments()
    root = Path(options.root)
    values = yaml.safe_load(Path(options.run).read_text()) if options.run else _demo_run(root)
    model, rows = values["model"]["path"], Path(values["data"]["train"])
    config_file = _config(root, values, _without_rationales(rows), port := _free_port())
    server = _serve(model, port, root / "server.log")
    try:
        _wait(port, server)
        results = _path(config_file, port)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
    Path(options.out).write_text(json.dumps(results, indent=1, default=str))
    print(json.dumps(results, indent=1, default=str))


def _path(config_file: Path, port: int) -> dict[str, Any]:
    config = load_config(config_file)
    assert config.rationale_cache is not None
    begin = time.monotonic()
    first = make(config)
    seconds = time.monotonic() - begin
    asked = _served(port)
    subprocess.run([sys.executable, "-m", "omniopsd.cli", "train", str(config_file)], check=True)
    second = make(config)
    run = RunFolder(config.run.root, config.run.name)
    logged = [r for step in range(1, STEPS + 1) for r in read_rollouts(run.rollout_path(step))]
    with CacheReader(config.rationale_cache.path) as cache:
        texts = {record.key: record.text for record in cache.records()}
    read = sum(texts.get(r.rationale_key) == r.evidence for r in logged)
    assert read == len(logged) > 0, "a rollout was scored with evidence that is not the cache's"
    assert asked == CLIPS == first.made and _served(port) == asked and second.known == CLIPS
    return {
        "provenance": provenance_now(),
        "model": config.model.path,
        "first_make": {
            "rows": first.rows,
            "made": first.made,
            "calls": asked,
            "tokens": first.tokens,
            "seconds": seconds,
        },
        "distinct_texts": len(set(texts.values())),
        "training": {"steps": STEPS, "rollouts_logged": len(logged), "whose_evidence_is_in_the_cache": read},
        "second_make": {"rows": second.rows, "known": second.known, "calls": _served(port) - asked},
    }


def _demo_run(root: Path) -> dict[str, Any]:
    return {
        "run": {"samples_per_step": 10},
        "model": {"path": str(STUDENT), "max_context": 1024},
        "data": {
            "train": str(write_mer_mini(root / "clips", CLIPS, SEED, "train")),
            "media": {"max_frames": 4},
        },
        "rollout": {"rollouts_per_sample": 2, "max_new_tokens": 48},
        "teacher": {"template": "\nRationale: {evidence}"},
        "learner": {"lr": 1e-3, "freeze": [], "packing": False},
        "runtime": {"kind": "ray", "cpus": 8},
    }


def _config(root: Path, values: dict[str, Any], rows: Path, port: int) -> Path:
    """The run YAML with a short run, the bare rows and the cache that the server fills."""
    values["run"] |= {"name": "end-to-end", "root": str(root / "runs"), "steps": STEPS, "log_rollouts": 4}
    values["data"] = {**values["data"], "train": str(rows), "test": None}
    values["checkpoint"] = {"every": STEPS}
    values["learner"] |= {"warmup_steps": 0}
    values["rationale_cache"] = {
        "path": str(root / "cache"),
        "model": SERVED,
        "base_url": f"http://127.0.0.1:{port}/v1",
        # so small a model answers its own question and no other one
        "reply": "text",
        "prompt": "{task}",
        "filters": {"agreement": False, "absent_media": False},
        "max_frames": 4,
        "max_completion_tokens": 60,
        "temperature": 0.7,
        "seed": 0,
        "max_concurrency": 4,
    }
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(model: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
    }
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name",
        SERVED, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--gpu-memory-utilization", "0.2",
    ]  # fmt: skip
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True
        )


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}; see server.log")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise SystemExit("the server did not start; see server.log")


def _served(port: int) -> int:
    """Requests that the server has finished, by its own count."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("vllm:request_success_total")]
    return round(sum(float(line.rpartition(" ")[2]) for line in counts))


def _without_rationales(file: Path) -> Path:
    """The first clips of a row file, beside it: media paths are relative to it."""
    rows = [json.loads(line) for line in file.read_text().splitlines()[:CLIPS]]
    bare = file.with_name("bare.jsonl")
    bare.write_text("".join(json.dumps({**row, "rationale": None}) + "\n" for row in rows))
    return bare


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The whole path of the rationale cache with a real model server."
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="JSON of the results")
    parser.add_argument(
        "--run", metavar="YAML", help="a run whose student and clips to use (default: the demo's)"
    )
    parser.add_argument(
        "--root", default="runs/rationales-end-to-end", metavar="DIR", help="new folder to work in"
    )
    options = parser.parse_args()
    Path(options.root).mkdir(parents=True)
    return options


if __name__ == "__main__":
    main()
