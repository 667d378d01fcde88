"""What `eval` and `export` are pointed at: a run folder or a model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from omniopsd.checkpoint import CheckpointStore
from omniopsd.config import DataConfig, EvalConfig, RunConfig, RunSection
from omniopsd.config_file import load_config
from omniopsd.run_folder import RunFolder
from rollout.config import ModelConfig
from rollout.thinker import read_config

MODEL = "model"


class SourceError(ValueError):
    """Neither a run folder with a checkpoint nor a model folder."""


def newest_model(run: str | Path) -> Path:
    """The model folder in a run's newest checkpoint that is whole. Raises SourceError."""
    run = Path(run)
    newest = CheckpointStore(run / "checkpoints", keep=1).newest_whole()
    if newest is None:
        raise SourceError(f"{run}: no whole checkpoint; let the run reach checkpoint.every, or its end")
    return newest / MODEL


def is_run(source: str | Path) -> bool:
    """Whether a folder is a run's."""
    return (Path(source) / "config.yaml").is_file()


def eval_config(source: str, data: str, overrides: Sequence[str]) -> RunConfig:
    """The config of an evaluation: the run's own with its newest model, or defaults for a bare model.

    `overrides` as in `--set`. Raises SourceError, ConfigError and ModelFolderError.
    """
    if is_run(source):
        folder = RunFolder(Path(source).parent, Path(source).name)
        config = load_config(folder.path / "config.yaml", overrides)
        path = str(newest_model(source))
    else:
        window = read_config(source)["thinker_config"].get("text_config", {})
        room = min(24576, int(window.get("max_position_embeddings", 32768)))
        bare = RunConfig(
            run=RunSection(name="eval", steps=1),
            model=ModelConfig(path=source, max_context=room),
            data=DataConfig(train=data),
        )
        config = _override(bare, overrides)
        path = source
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"path": path}),
            "data": config.data.model_copy(update={"train": data, "test": data}),
            "eval": EvalConfig(teacher=False),
        }
    )


def _override(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "eval.yaml"
        file.write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
        return load_config(file, overrides)
