"""Providers that write files and drive a tool: Ray's cluster launcher, kubectl, sbatch.

A recipe is data: the files, the commands of `up` and of `down`, and how to reach the head. `down` runs every
command even when one fails, and each of them is content when there is nothing left to remove.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cluster.auth import read_token
from cluster.cluster_config import ClusterConfig
from cluster.ports import free_port
from cluster.provider import ProviderError, Say
from cluster.state import ClusterState, StateFolder
from cluster.tunnel import open_tunnel

COMMAND_SECONDS = 3600.0
Command = tuple[str, ...]
Run = Callable[[Command], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What one provider writes and runs. `{port}` in `tunnel` is a free port of this machine."""

    files: Mapping[str, str]
    up: tuple[Command, ...]
    down: tuple[Command, ...]
    tunnel: Command
    execute: Command
    quote_execute: bool


def run_command(command: Command) -> None:
    """Run one tool to its end, its output on the terminal. Raises ProviderError."""
    if shutil.which(command[0]) is None:
        raise ProviderError(
            f"{command[0]} is not installed on this machine; `up --dry-run` prints what it would do"
        )
    try:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        raise ProviderError(f"`{shlex.join(command)}` did not end within {COMMAND_SECONDS:.0f} s") from None
    if code:
        raise ProviderError(f"`{shlex.join(command)}` ended with exit code {code}")


class RecipeProvider:
    """A provider that follows a recipe; `run` runs one command."""

    def __init__(
        self, config: ClusterConfig, folder: StateFolder, recipe: Recipe, run: Run = run_command
    ) -> None:
        self.config, self.folder, self.recipe, self._run = config, folder, recipe, run

    def prepare(self, state: ClusterState | None) -> ClusterState:
        """Write the files and the record."""
        state = state or ClusterState(mark=secrets.token_hex(8), config={})
        for name, text in self.recipe.files.items():
            self.folder.write_file(name, text)
        config = self.config.model_dump(mode="json")
        return self.folder.write(replace(state, config=config, files=tuple(self.recipe.files), ready=False))

    def start(self, state: ClusterState, say: Say) -> None:
        """Run the commands of `up`, each once; all may be run again."""
        for command in self.recipe.up:
            say(shlex.join(command))
            self._run(command)

    def dry_run(self) -> str:
        """The files and the commands."""
        parts = [f"# {self.folder.path / name}\n{text}" for name, text in self.recipe.files.items()]
        return "\n".join([*parts, "# commands", *map(shlex.join, self.recipe.up)])

    def made(self, state: ClusterState) -> list[str]:
        """The commands of `down` and the record."""
        commands = [f"what this removes: {shlex.join(command)}" for command in self.recipe.down]
        return [*commands, f"token, record and {', '.join(state.files)} in {self.folder.path}"]

    def remove(self, state: ClusterState, say: Say) -> None:
        """Run the commands of `down`, all of them; then raise what the first failure raised."""
        first: ProviderError | None = None
        for command in self.recipe.down:
            say(shlex.join(command))
            try:
                self._run(command)
            except ProviderError as error:
                first = first or error
        if first is not None:
            raise first

    @contextmanager
    def reach(self, state: ClusterState) -> Iterator[str]:
        """A tunnel to the dashboard on a port of this machine."""
        port = free_port()
        command = [part.replace("{port}", str(port)) for part in self.recipe.tunnel]
        with open_tunnel(command, port, read_token(self.folder.token_file)) as address:
            yield address

    def execute(self, state: ClusterState, command: Sequence[str]) -> int:
        """Run a command on the head; its exit code."""
        rest = [shlex.join(command)] if self.recipe.quote_execute else list(command)
        return subprocess.run([*self.recipe.execute, *rest], check=False).returncode


def expanded(path: str) -> str:
    """A path of this machine with ~ written out."""
    return os.path.expanduser(path)
