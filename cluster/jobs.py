"""Runs as Ray jobs: submit, follow, stop; exit codes that say how a run ended."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.upload import RUN_YAML, UploadError, stage

STOPPED = 143
"""Exit code of a run that was asked to stop, and of `submit --follow` when its job was."""
KILLED_MARGIN = 30.0
CHECK = "import sys; from omniopsd.config_file import load_config; load_config(sys.argv[1], sys.argv[2:])"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class JobError(ValueError):
    """A job that cannot be submitted or found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run to submit."""

    run_yaml: Path
    settings: tuple[str, ...]
    resume: bool
    workdir: str
    python: str
    stop_seconds: int


def entrypoint(request: RunRequest) -> str:
    """The command line of the job; every part quoted, since Ray gives it to a shell. Pure."""
    command = [request.python, "-u", "-m", "omniopsd", "train", RUN_YAML, "--workdir", request.workdir]
    for setting in (*request.settings, "runtime.address=auto"):
        command += ["--set", setting]
    return shlex.join([*command, "--resume"] if request.resume else command)


def check_run(request: RunRequest) -> None:
    """Check the run YAML here, before anything is sent. Raises JobError with all problems."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(request.run_yaml), *request.settings, "runtime.address=auto"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        found = done.stderr.partition("ConfigError: ")[2].strip()
        raise JobError(found or done.stderr.strip().splitlines()[-1])


class Jobs:
    """The jobs of one cluster, by Ray's job API."""

    def __init__(self, address: str, token: str) -> None:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)  # it reports every upload and closed socket
        self._client: Any = JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"})

    def submit(self, request: RunRequest) -> str:
        """Send source and YAML, start the run; gives the job's id."""
        check_run(request)
        name = f"train-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        with tempfile.TemporaryDirectory(prefix="omniopsd-job-") as folder:
            stage(request.run_yaml, Path(folder))
            return str(
                self._client.submit_job(
                    entrypoint=entrypoint(request),
                    submission_id=name,
                    metadata={"workdir": request.workdir},
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(request.stop_seconds)},
                    },
                )
            )

    def list(self) -> list[dict[str, Any]]:
        """Submitted jobs, oldest first: id, Ray's own id, status, message, times in seconds."""
        jobs = [one for one in self._client.list_jobs() if one.submission_id]
        return [
            {
                "id": one.submission_id,
                "job_id": one.job_id,
                "status": str(one.status.value if hasattr(one.status, "value") else one.status),
                "exit_code": one.driver_exit_code,
                "started": (one.start_time or 0) / 1000,
                "ended": one.end_time and one.end_time / 1000,
            }
            for one in sorted(jobs, key=lambda one: one.start_time or 0)
        ]

    def find(self, name: str | None) -> dict[str, Any]:
        """One job: by id, else the newest. Raises JobError."""
        jobs = self.list()
        chosen = [one for one in jobs if name in (None, one["id"])]
        if not chosen:
            known = f"; there is {', '.join(one['id'] for one in jobs)}" if jobs and name else ""
            raise JobError(f"no job {name}{known}" if name else "no job was submitted to this cluster")
        return chosen[-1]

    def log(self, name: str) -> str:
        """All that the driver wrote."""
        return str(self._client.get_job_logs(name))

    def follow(self, name: str, write: Callable[[str], None]) -> int:
        """Write the driver's output as it comes, until the job ends; the exit code of how it ended."""

        async def tail() -> None:
            async for text in self._client.tail_job_logs(name):
                write(text)

        asyncio.run(tail())
        return self.exit_code(name)

    def exit_code(self, name: str, wait: float = 30.0) -> int:
        """0 finished, 143 stopped, else the driver's own (1 when it has none). Raises JobError when it still runs."""
        end = time.monotonic() + wait
        while (job := self.find(name))["status"] not in ENDED:
            if time.monotonic() > end:
                raise JobError(f"job {name} is {job['status'].lower()}, but its output ended")
            time.sleep(0.2)
        if job["status"] == "SUCCEEDED":
            return 0
        return STOPPED if job["status"] == "STOPPED" else int(job["exit_code"] or 1)

    def stop(self, name: str, patience: float, say: Callable[[str], None]) -> bool:
        """Ask a job to stop and wait for it; whether it was running. Raises JobError when it does not end."""
        if self.find(name)["status"] in ENDED:
            return False
        self._client.stop_job(name)
        begin = time.monotonic()
        while self.find(name)["status"] not in ENDED:
            waited = time.monotonic() - begin
            if waited > patience + KILLED_MARGIN:
                raise JobError(f"job {name} did not end within {waited:.0f} s")
            say(f"finishing its step and writing a checkpoint, {waited:.0f} s of at most {patience:.0f}")
            time.sleep(0.5)
        return True


def own_python(settings: str | None, local: bool) -> str:
    """The Python that runs the job on its node."""
    return settings or (sys.executable if local else "python3")


def require_readable(run_yaml: str) -> Path:
    """The path of a run YAML that is there. Raises UploadError."""
    path = Path(run_yaml)
    if not path.is_file():
        raise UploadError(f"{run_yaml}: no such file")
    return path.resolve()


def settings_of(texts: Sequence[str]) -> tuple[str, ...]:
    """`--set` texts that a submit may pass on. Raises JobError at one that submit itself decides."""
    for text in texts:
        if text.partition("=")[0].strip() == "runtime.address":
            raise JobError("--set runtime.address: submit sets it to auto; leave it out")
    return tuple(texts)
