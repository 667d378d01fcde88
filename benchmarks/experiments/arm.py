"""One run: one arm of an experiment under one seed, trained by the program's own loop and examined."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.experiments.answers import Answer, Examiner
from benchmarks.experiments.data import write_tests, write_train
from benchmarks.experiments.measures import measure
from benchmarks.experiments.spec import Experiment
from omniopsd.alarms import alarms
from omniopsd.config import RunConfig
from omniopsd.config_file import load_config
from omniopsd.demo import STUDENT
from omniopsd.metrics import read
from omniopsd.model_source import newest_model
from omniopsd.run_folder import provenance_now
from omniopsd.telemetry_config import AlarmsConfig
from omniopsd.train import train

EXAM_TOKENS = 96
CURVES = (
    "loss",
    "divergence",
    "teacher_gain",
    "accuracy_train",
    "format_rate",
    "response_length",
    "response_length_p95",
)
Examiners = dict[tuple[str, ...], Examiner]


class ArmRunner:
    """Runs the arms of one experiment below `root`; test prompts are decoded once."""

    def __init__(self, experiment: Experiment, root: Path) -> None:
        self.experiment, self.root = experiment, root
        self._examiners: Examiners = {}
        self._untrained: dict[str, dict[str, Any]] = {}

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """Train and examine; everything that there is to know of the run, as JSON."""
        begin = time.monotonic()
        config = self.config(arm, seed)
        spec = self.experiment.arms[arm]
        result: dict[str, Any] = {"experiment": self.experiment.name, "arm": arm, "seed": seed}
        if self.experiment.gap:
            result["teacher_gap"] = self._gap(config)
        model = Path(config.model.path)
        if spec.train:
            model, rows = self._train(config)
            result |= {"curves": _curves(rows), "first_alarms": first_alarms(rows, config.alarms)}
        result["train_seconds"] = time.monotonic() - begin
        tests = self._untrained.get(arm) or self._tests(config, arm, model)
        if not spec.train:  # no seed changes the start model or the tests
            self._untrained[arm] = tests
        result |= tests
        result["seconds"] = time.monotonic() - begin
        shutil.rmtree(Path(config.run.root) / config.run.name, ignore_errors=True)
        return result | {"settings": _settings(config), "provenance": provenance_now()}

    def _tests(self, config: RunConfig, arm: str, model: Path) -> dict[str, Any]:
        """The held-out answers, and those with the rationale in the prompt where the arm asks for them."""
        examiner = self._examiner(config, self.experiment.data_of(arm).media)
        found: dict[str, Any] = {"tests": _record(examiner.answers(model))}
        if self.experiment.arms[arm].evidence:
            found["tests_with_evidence"] = _record(examiner.answers(model, evidence=True))
        return found

    def config(self, arm: str, seed: int) -> RunConfig:
        """The run config of one arm and seed. Raises ConfigError."""
        name = f"{self.experiment.name}-{arm}-{seed}"
        data = write_train(
            self.root / "data", self.experiment.data_of(arm), seed, f"{self.experiment.name}-{arm}"
        )
        own = {
            "run.name": name,
            "run.root": str(self.root / "runs"),
            "run.seed": seed,
            "model.path": str(STUDENT),
            "data.train": str(data),
        }
        path = self.root / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.experiment.settings(arm, own), indent=1))
        return load_config(path)

    def _train(self, config: RunConfig) -> tuple[Path, list[dict[str, Any]]]:
        log = self.root / "logs" / f"{config.run.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(Path(config.run.root) / config.run.name, ignore_errors=True)  # a run that was cut off
        with log.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            folder = train(config)
        return newest_model(folder.path), read(folder.metrics_path)

    def _gap(self, config: RunConfig) -> dict[str, float]:
        """Accuracy on the training clips with the rationale in the prompt, and without: before any step."""
        examiner = Examiner(config, {"train": Path(config.data.train)}, EXAM_TOKENS)
        model = Path(config.model.path)
        with_it, without = (examiner.answers(model, evidence=told)["train"] for told in (True, False))
        return {"teacher": _accuracy(with_it), "student": _accuracy(without)}

    def _examiner(self, config: RunConfig, media: tuple[str, ...]) -> Examiner:
        if media not in self._examiners:
            files = write_tests(self.root / "data", self.experiment, media)
            self._examiners[media] = Examiner(config, files, EXAM_TOKENS)
        return self._examiners[media]


def first_alarms(rows: list[dict[str, Any]], config: AlarmsConfig) -> dict[str, int]:
    """The step at which each alarm first held; empty for a run without one."""
    first: dict[str, int] = {}
    for at, row in enumerate(rows, start=1):
        for alarm in alarms(rows[:at], config):
            first.setdefault(alarm.name, row["step"])
    return first


def _settings(config: RunConfig) -> dict[str, Any]:
    """The whole run config but for the paths of this machine."""
    return config.model_dump(
        mode="json", exclude={"run": {"root"}, "model": {"path"}, "data": {"train"}, "rationale_cache": True}
    )


def _curves(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    found = {name: [round(row[name], 5) for row in rows if name in row] for name in CURVES}
    return {name: values for name, values in found.items() if values}


def _accuracy(answers: list[Answer]) -> float:
    return sum(answer.correct for answer in answers) / len(answers)


def _record(answers: dict[str, list[Answer]]) -> dict[str, Any]:
    """Measures and the bare answers of each test; texts are kept in full once only."""
    record: dict[str, Any] = defaultdict(dict)
    for test, rows in answers.items():
        record[test] = {
            "measures": measure(
                [row.label for row in rows],
                [row.answer for row in rows],
                [row.confidence for row in rows],
                [row.tokens for row in rows],
                [row.text for row in rows],
            ),
            "labels": [row.label for row in rows],
            "answers": [row.answer for row in rows],
            "confidence": [round(row.confidence, 4) for row in rows],
            "tokens": [row.tokens for row in rows],
            "examples": [row.text for row in rows[:3]],
        }
    return dict(record)
