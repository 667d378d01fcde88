"""One training run from config to report: start, evaluate, step, checkpoint, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.output_guard import learn_variables
from cluster.runtime import Runtime, start_runtime
from omniopsd.alarms import AlarmStop, Watch
from omniopsd.bench.callback import BenchCallback
from omniopsd.bench.run_results import results_lines
from omniopsd.build import Parts, make_parts
from omniopsd.check import require_sound
from omniopsd.checkpoint import Checkpoint, CheckpointState, CheckpointStore
from omniopsd.config import RunConfig
from omniopsd.evaluate import Evaluation, held_out_evaluation, results_table
from omniopsd.loop import TrainLoop
from omniopsd.metrics import MetricsLog, read
from omniopsd.model_source import MODEL
from omniopsd.progress import STEPS, TrainProgress
from omniopsd.prompts import PromptBook, make_book
from omniopsd.recorder import Recorder
from omniopsd.report import build_report
from omniopsd.run_folder import RunFolder, config_digest, step_of
from omniopsd.stop import Stopped, StopRequest

LEARNER, TEACHER = "learner", "teacher"


class ResumeError(ValueError):
    """A checkpoint that does not belong to the data of now."""


def train(config: RunConfig, *, resume: bool = False) -> RunFolder:
    """Run to `run.steps` and give the run folder; with `resume`, from its newest whole checkpoint."""
    if config.rationale_cache is not None and config.rationale_cache.api_key_env is not None:
        learn_variables([config.rationale_cache.api_key_env])
    if config.rationale_cache is not None and config.rationale_cache.on_miss == "make":
        # brings the HTTP client, which other runs need not have
        from omniopsd.rationales.make import make_missing

        make_missing(config)
    renderer, samples, test = require_sound(config)
    folder = RunFolder(config.run.root, config.run.name)
    book = make_book(config, samples, renderer)
    held_out = held_out_evaluation(config, test, renderer) if test is not None else None
    bench = None
    if config.eval.bench is not None:
        bench = BenchCallback(config, config.eval.bench, folder.path, renderer, samples)
    folder.create(config, resume=resume)
    if not (resume and is_finished(config, folder, bench)):
        runtime = start_runtime(config.runtime)
        try:
            with StopRequest() as stop:
                Run(config, folder, runtime, book, held_out, bench, stop).go(resume)
        finally:
            runtime.shutdown()
    build_report(folder)
    _say_end(config, folder)
    return folder


def is_finished(config: RunConfig, folder: RunFolder, bench: BenchCallback | None = None) -> bool:
    """Whether the run has a checkpoint of its last step and, where clips are asked, its last answers."""
    newest = CheckpointStore(folder.checkpoints_path, keep=1).newest_whole()
    answered = config.data.test is None or bool(folder.read_eval().get("after"))
    answered = answered and (bench is None or str(config.run.steps) in bench.steps())
    return answered and newest is not None and step_of(newest) == config.run.steps


class TrainError(ValueError):
    """A run that cannot go on as it began."""


class Run:
    """The parts of one run while it lasts."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        runtime: Runtime,
        book: PromptBook,
        held_out: Evaluation | None,
        bench: BenchCallback | None,
        stop: StopRequest,
    ) -> None:
        self.config, self.folder, self.runtime, self.held_out = config, folder, runtime, held_out
        self.book, self.bench, self.stop = book, bench, stop
        self.store = CheckpointStore(folder.checkpoints_path, keep=config.checkpoint.keep)
        self.console = Console()

    def go(self, resume: bool) -> None:
        """Start the parts, then all steps that are left."""
        checkpoint = self.store.load_latest(config_digest(self.config)) if resume else None
        first = checkpoint.state.step + 1 if checkpoint else 1
        with TrainProgress(self.config.run.steps, done=first - 1, console=self.console) as self.progress:
            self.progress.stage("starting engines, teachers and learner")
            parts = make_parts(self.config, self.runtime)
            parts.wait_ready()
            if parts.decoders is not None:
                self.book.decode_with(parts.decoders)
            loop = TrainLoop(
                self.config,
                runtime=self.runtime,
                book=self.book,
                rollout=parts.rollout,
                teacher=parts.teacher,
                learner=parts.learner,
            )
            if checkpoint:
                self._take_up(checkpoint, parts, loop)
            else:
                self._before(parts)
            self._steps(first, parts, loop)

    def _steps(self, first: int, parts: Parts, loop: TrainLoop) -> None:
        last, every = self.config.run.steps, self.config.eval.every
        with MetricsLog(self.folder.metrics_path, self.folder.tensorboard_path) as metrics:
            metrics.truncate_after(first - 1)
            recorder = Recorder(self.config, self.folder, self.book, metrics)
            watch = Watch(self.config.alarms, read(self.folder.metrics_path))
            for step in range(first, last + 1):
                self.progress.stage(STEPS)
                self._step(step, loop, parts, recorder, watch)
                if every and step % every == 0 and step < last:
                    self._keep_step(step, self._student(parts, f"evaluating step {step}"))
                if every and step % every == 0 or step == last:
                    self._measure(step, parts)
        self._keep("after", self._student(parts, "evaluating the student after training"))

    def _step(self, step: int, loop: TrainLoop, parts: Parts, recorder: Recorder, watch: Watch) -> None:
        """One step and, where it is due, its checkpoint. Raises AlarmStop and Stopped, with one written."""
        config = self.config
        with self.stop.finish_first():
            values = recorder.record(loop.step(step, config.run.steps))
            self.progress.step(step, values)
            fatal = watch.see({"step": step, **values}, self.progress.note)
            due = step % config.checkpoint.every == 0 or step == config.run.steps
            if due or fatal or self.stop.asked:
                self._save(step, parts, loop)
        if fatal:
            raise AlarmStop(f"stopped after step {step} with a checkpoint of it: {fatal}")
        if self.stop.asked:
            raise Stopped(f"stopped after step {step}, which has a checkpoint; go on with --resume")

    # --- evaluation ----------------------------------------------------------------------------

    def _before(self, parts: Parts) -> None:
        if self.bench is not None:
            self.bench.start_anew()
        self._measure(0, parts)
        self._keep("before", self._student(parts, "evaluating the student before training"))
        privileged = self.config.eval.teacher and self.config.teacher.privilege != "none"
        if self.held_out and parts.teacher is not None and privileged:
            self.progress.stage("evaluating the privileged teacher")
            self._keep("teacher", self.held_out.teacher(parts.teacher))

    def _measure(self, step: int, parts: Parts) -> None:
        """The benchmark's clips; the best step's checkpoint stays from now on."""
        if self.bench is None:
            return
        self.progress.stage(f"benchmark at step {step}")
        result = self.bench.measure(step, self.runtime, parts.rollout)
        self.progress.note(f"step {step}: benchmark {result['score']:.2f}")
        self.store.pinned = self.bench.pinned()

    def _student(self, parts: Parts, stage: str) -> dict[str, Any] | None:
        if self.held_out is None:
            return None
        self.progress.stage(stage)
        return self.held_out.student(self.runtime, parts.rollout)

    def _keep(self, name: str, results: dict[str, Any] | None) -> None:
        if results is not None:
            self.folder.write_eval(self.folder.read_eval() | {name: results})

    def _keep_step(self, step: int, results: dict[str, Any] | None) -> None:
        if results is not None:
            known = self.folder.read_eval()
            known["steps"] = known.get("steps", {}) | {str(step): results}
            self.folder.write_eval(known)

    # --- checkpoints ----------------------------------------------------------------------------

    def _save(self, step: int, parts: Parts, loop: TrainLoop) -> None:
        def write(target: Path) -> None:
            for name in (LEARNER, TEACHER):
                (target / name).mkdir()
            parts.learner.save_model(str((target / MODEL).resolve()))
            parts.learner.save(str((target / LEARNER).resolve()))
            if parts.teacher is not None:
                parts.teacher.save(str((target / TEACHER).resolve()))

        self.progress.stage("writing a checkpoint")
        state = CheckpointState(
            step=step,
            policy_version=step,
            data_cursor={"next_step": step + 1, "data": self.book.digest},
            rng={"seed": self.config.run.seed},
            refresh=loop.refresh.state(),
            config_digest=config_digest(self.config),
        )
        self.store.save(state, write)

    def _take_up(self, checkpoint: Checkpoint, parts: Parts, loop: TrainLoop) -> None:
        self.progress.stage(f"resuming after step {checkpoint.state.step}")
        state, folder = checkpoint.state, checkpoint.path / TEACHER
        if state.data_cursor.get("data", self.book.digest) != self.book.digest:
            raise ResumeError(
                f"{checkpoint.path}: the run began with other samples or rationales than data.train and the rationale "
                "cache give now; restore them, or choose another run.name"
            )
        parts.learner.load(str((checkpoint.path / LEARNER).resolve()))
        loop.resume(state.step, str(folder.resolve()), state.refresh)
        self.folder.discard_after(state.step)
        if self.bench is None:
            return
        self.bench.discard_after(state.step)
        self.store.pinned = self.bench.pinned()
        due = (
            state.step == self.config.run.steps
            or state.step % (self.config.eval.every or state.step + 1) == 0
        )
        if due and str(state.step) not in self.bench.steps():  # killed between checkpoint and scores
            self._measure(state.step, parts)


def _say_end(config: RunConfig, folder: RunFolder) -> None:
    console = Console()
    results = folder.read_eval()
    if results:
        console.print(results_table(results, config.run.name))
    for line in results_lines(folder.path):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"run folder: {folder.path}\nreport:     {folder.report_path}", highlight=False, soft_wrap=True
    )
