"""What every provider can do; `up`, `down` and the other verbs know no more than this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from cluster.state import ClusterState

Say = Callable[[str], None]


class ProviderError(RuntimeError):
    """A step of `up` or `down` that did not work; what was made so far is in the record."""


class Provider(Protocol):
    """Machines of one kind."""

    def prepare(self, state: ClusterState | None) -> ClusterState:
        """Write the record of what `start` will make, before it is made."""

    def start(self, state: ClusterState, say: Say) -> None:
        """Start what is not running. Raises ProviderError."""

    def dry_run(self) -> str:
        """What `up` would write and run."""

    def made(self, state: ClusterState) -> list[str]:
        """What `down` removes, a line each."""

    def remove(self, state: ClusterState, say: Say) -> None:
        """Remove it. Raises ProviderError when something is left."""

    def reach(self, state: ClusterState) -> AbstractContextManager[str]:
        """The dashboard's address as this machine reaches it, while the context lasts."""

    def execute(self, state: ClusterState, command: Sequence[str]) -> int:
        """Run a command on the head; its exit code."""
