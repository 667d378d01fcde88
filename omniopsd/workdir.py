"""Where a run's relative paths start, and the one place where they must not.

Ray unpacks an uploaded working directory below its own temporary folder and deletes it later: a run folder
there would take every checkpoint with it.
"""

from __future__ import annotations

import os
from pathlib import Path

from omniopsd.config import RunConfig

PACKAGES = "working_dir_files"


class WorkdirError(ValueError):
    """A folder that a run must not work in."""


def enter_workdir(folder: str | None, config: RunConfig) -> None:
    """Change to `folder`. Raises WorkdirError without one when run folders would be made in Ray's package."""
    if folder is not None:
        if not Path(folder).is_dir():
            raise WorkdirError(
                f"--workdir {folder}: no such folder on this machine; share it, or write another"
            )
        os.chdir(folder)
    elif PACKAGES in Path.cwd().parts and not Path(config.run.root).is_absolute():
        raise WorkdirError(
            f'run.root: "{config.run.root}" would lie in the uploaded package, which Ray deletes with all checkpoints; '
            "add --workdir DIR, or write absolute paths"
        )
