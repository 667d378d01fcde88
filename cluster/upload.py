"""What a job uploads: this program's source and the run YAML, from a list of what may go, not of what may not.

Data, models, checkpoints, caches and virtual environments are never candidates, so a forgotten ignore
rule cannot send them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cluster.output_guard import secrets_in

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cluster", "rationale_cache", "rollout", "teacher", "learner", "omniopsd")
LARGEST_FILE = 256 * 1024
LARGEST_UPLOAD = 4 * 2**20
RUN_YAML = "run.yaml"
# weights and media that come with a package, and what Python leaves behind
LEFT_OUT = {".safetensors", ".pt", ".bin", ".mp4", ".wav", ".png", ".jpg", ".pyc", ".parquet"}


class UploadError(ValueError):
    """A job whose files cannot or must not be sent."""


def source_files(root: Path = ROOT) -> Iterator[Path]:
    """The files of this program that a job needs, relative to `root`, in order.

    Raises UploadError at a file that is too large to be source.
    """
    for package in PACKAGES:
        if not (root / package).is_dir():
            raise UploadError(f"{root / package}: missing; install omniopsd again")
        for path in sorted((root / package).rglob("*")):
            relative = path.relative_to(root)
            if (
                path.is_symlink()
                or not path.is_file()
                or path.suffix in LEFT_OUT
                or "__pycache__" in relative.parts
            ):
                continue
            if path.stat().st_size > LARGEST_FILE:
                raise UploadError(
                    f"{path}: {path.stat().st_size:,} bytes inside a source package; move it out, it would be "
                    "sent to the cluster with every job"
                )
            yield relative


def stage(run_yaml: Path, target: Path, root: Path = ROOT) -> int:
    """Copy source and run YAML into the empty folder `target`; gives the bytes.

    Raises UploadError, also when the YAML holds a secret of this environment.
    """
    total = 0
    for relative in source_files(root):
        copy = target / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / relative, copy)
        total += copy.stat().st_size
    secrets = secrets_in(os.environ)
    for number, line in enumerate(run_yaml.read_text(encoding="utf-8").splitlines(), start=1):
        for text, where in secrets.items():
            if text in line:  # a comment, perhaps: the cluster keeps the file as it is
                raise UploadError(f"{run_yaml}:{number}: holds the value of {where} (not shown); take it out")
    shutil.copyfile(run_yaml, target / RUN_YAML)
    total += (target / RUN_YAML).stat().st_size
    if total > LARGEST_UPLOAD:
        raise UploadError(f"the source packages hold {total:,} bytes, at most {LARGEST_UPLOAD:,} are sent")
    return total
