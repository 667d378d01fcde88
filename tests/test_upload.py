"""What goes to the cluster with a job: source and one YAML."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster.jobs import JobError, RunRequest, check_run, settings_of
from cluster.upload import LARGEST_UPLOAD, PACKAGES, ROOT, UploadError, stage
from tests.run_scene import run_yaml

NEVER = ("data/clip.mp4", "runs/a/checkpoints/step_000001/model.safetensors", ".venv/lib/x.py", "cache/r.parquet",
         "omniopsd/student/model.safetensors", "omniopsd/__pycache__/x.pyc", ".git/objects/ab", "key.pem")  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This repository's packages, and things beside and in them that must stay."""
    root = tmp_path / "checkout"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__")
        )
    shutil.copy(ROOT / ".rayignore", root)
    (root / "run.yaml").write_text("run: {name: a}\n")
    for name in NEVER:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 3_000_000)
    return root


def test_a_staged_job_is_source_and_the_yaml(checkout: Path, tmp_path: Path) -> None:
    target = tmp_path / "job"
    target.mkdir()
    size = stage(checkout / "run.yaml", target, checkout)
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert not names & set(NEVER) and size < LARGEST_UPLOAD
    assert {"run.yaml", "omniopsd/__main__.py", "omniopsd/presets/paper.yaml", "cluster/jobs.py"} <= names
    code = "import omniopsd.cli, cluster.ray_runtime, learner.config; print(omniopsd.cli.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=target, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(target))


def test_a_large_file_among_the_source_is_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "rollout" / "notes.txt").write_bytes(b"x" * 3_000_000)
    with pytest.raises(UploadError, match=r"rollout/notes.txt: 3,000,000 bytes inside a source package"):
        stage(checkout / "run.yaml", tmp_path / "job", checkout)


def test_ray_itself_sends_the_same_from_a_checkout(checkout: Path, tmp_path: Path) -> None:
    code = (
        "import sys, logging\n"
        "from ray._private.runtime_env.packaging import create_package\n"
        "from pathlib import Path\n"
        "create_package(sys.argv[1], Path(sys.argv[2]), include_gitignore=True)\n"
    )
    package = tmp_path / "p.zip"
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkout), str(package)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(package).namelist())
    assert not names & set(NEVER), names & set(NEVER)
    assert {"run.yaml", "omniopsd/__main__.py", "cluster/jobs.py"} <= names
    assert package.stat().st_size < LARGEST_UPLOAD


def test_a_wrong_run_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    def check(*settings: str) -> None:
        path = run_yaml(tmp_path, runtime={"kind": "ray"})
        check_run(
            RunRequest(
                run_yaml=path, settings=settings, resume=False, workdir=".", python="p", stop_seconds=9
            )
        )

    check()
    with pytest.raises(JobError, match='learner.lrr: unknown key; did you mean "lr"'):
        check("learner.lrr=1")
    with pytest.raises(JobError, match="submit sets it to auto"):
        settings_of(["runtime.address=local"])
