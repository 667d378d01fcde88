"""`omniopsd demo`: data, cold-started student, one training run and its table, on this machine."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from omniopsd.config_file import load_config
from omniopsd.mer_mini.write import write_mer_mini
from omniopsd.run_folder import RunFolder
from omniopsd.train import train

HERE = Path(__file__).parent
STUDENT = HERE / "student"
CONFIG = HERE / "demo.yaml"
TRAIN_CLIPS, TEST_CLIPS = 320, 300
TRAIN_SEED, TEST_SEED = 101, 202


def run(*, root: str = "runs", seed: int = 0) -> None:
    """Make what is missing, train unless the run is finished, and show the table and the paths."""
    console = Console()
    train_file, test_file = make_data(Path(root))
    settings = demo_settings(root, seed, train_file, test_file)
    config = load_config(CONFIG, settings)
    folder = RunFolder(config.run.root, config.run.name)
    resume = folder.has_run()
    if resume:
        console.print(f"[dim]{folder.path} is there: going on from its newest checkpoint[/dim]")
    train(config, resume=resume)


def make_data(root: Path) -> tuple[Path, Path]:
    """The clips to train on and the held-out ones, in other looks; kept when they are there."""
    console = Console()
    console.print(f"mer-mini: {TRAIN_CLIPS} clips to train on, {TEST_CLIPS} held out in other looks")
    data = root / "mer-mini"
    return (
        write_mer_mini(data / "train", TRAIN_CLIPS, TRAIN_SEED, "train"),
        write_mer_mini(data / "test", TEST_CLIPS, TEST_SEED, "test"),
    )


def demo_settings(root: str, seed: int, train_file: Path, test_file: Path) -> list[str]:
    """The demo's YAML with this machine's paths, as `--set` texts."""
    return [
        f"run.root={root}",
        f"run.name=demo-seed{seed}",
        f"run.seed={seed}",
        f"model.path={STUDENT}",
        f"data.train={train_file}",
        f"data.test={test_file}",
    ]
