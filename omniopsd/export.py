"""`omniopsd export`: a run's newest student as a model folder, with nothing privileged in it."""

from __future__ import annotations

from pathlib import Path

from omniopsd.model_source import SourceError, is_run, newest_model
from rollout.thinker import read_weights, save_thinker


def export_run(source: str, out: str) -> None:
    """Copy weights, config and processor files; no optimizer, teacher, log, cache or path of this machine.

    Raises SourceError when `source` is no run with a whole checkpoint, or `out` exists.
    """
    if not is_run(source):
        raise SourceError(f"{source}: no run folder (it has no config.yaml); give the folder of a run")
    if Path(out).exists():
        raise SourceError(f"{out}: exists already; choose another folder or remove it")
    model = newest_model(source)
    save_thinker(read_weights(model), model, out)
    print(f"{out}: the student of {model.parent.name} of {source}")
