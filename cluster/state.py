"""What `up` made, written before it is made: `down` and every other verb work from this file alone.

~/.omniopsd/clusters/<name>/      mode 0700; OMNIOPSD_HOME moves ~/.omniopsd
    auth_token                    mode 0600
    state.json                    this record
    *.yaml, *.sh                  generated files of a provider
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.auth import TOKEN_FILE, private_folder
from cluster.cluster_config import ClusterConfig

FORMAT = 1
STATE_FILE = "state.json"


class StateError(ValueError):
    """A cluster that is not there, or whose record cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One Ray node: its address and the dashboard agent's port."""

    name: str
    group: str
    address: str
    agent_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """One cluster. `ray_folder` is Ray's own temporary folder (local); `ready` says that `up` finished."""

    mark: str
    config: Mapping[str, Any]
    ray_folder: str = ""
    ray_address: str = ""
    dashboard: str = ""
    client_port: int = 0
    nodes: tuple[NodeState, ...] = ()
    files: tuple[str, ...] = field(default=())
    ready: bool = False
    format: int = FORMAT

    @property
    def cluster_config(self) -> ClusterConfig:
        """The config that the cluster was made from."""
        return ClusterConfig.model_validate(dict(self.config))


class StateFolder:
    """The folder of one cluster."""

    def __init__(self, name: str) -> None:
        home = os.environ.get("OMNIOPSD_HOME") or str(Path.home() / ".omniopsd")
        self.name = name
        self.path = Path(home) / "clusters" / name
        self.token_file = self.path / TOKEN_FILE

    def read(self) -> ClusterState | None:
        """The record, or None when there is no such cluster. Raises StateError when it cannot be read."""
        path = self.path / STATE_FILE
        try:
            content = json.loads(path.read_bytes())
            nodes = tuple(NodeState(**node) for node in content.pop("nodes"))
            files = tuple(content.pop("files"))
            state = ClusterState(**content, nodes=nodes, files=files)
            _ = state.cluster_config
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StateError(f"{path}: cannot be read ({error}); restore it from a copy") from error
        if state.format != FORMAT:
            raise StateError(f"{path}: has format {state.format}, this program reads {FORMAT}")
        return state

    def require(self) -> ClusterState:
        """The record. Raises StateError when there is none."""
        state = self.read()
        if state is None:
            raise StateError(f"cluster {self.name} is not up: run `omniopsd-cluster up` first")
        return state

    def write(self, state: ClusterState) -> ClusterState:
        """Replace the record: the old one or the new, never a part."""
        private_folder(self.path)
        path = self.path / STATE_FILE
        aside = path.with_suffix(".tmp")
        with open(aside, "w", encoding="utf-8", opener=_private) as file:
            json.dump(asdict(state), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        return state

    def update(self, state: ClusterState, **changes: Any) -> ClusterState:
        """Write the record with some fields changed."""
        return self.write(replace(state, **changes))

    def write_file(self, name: str, text: str) -> Path:
        """Keep a generated file beside the record."""
        path = private_folder(self.path) / name
        with open(path, "w", encoding="utf-8", opener=_private) as file:
            file.write(text)
        return path

    def remove(self) -> None:
        """Forget the cluster, token and all."""
        shutil.rmtree(self.path, ignore_errors=False)


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with (old, new)."""
    before, after = _flat(old), _flat(new)
    return {
        key: (before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    }


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping):
        pairs = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple) and tree and isinstance(tree[0], Mapping):
        pairs = [(str(item.get("name", at)), item) for at, item in enumerate(tree)]
    else:
        return {prefix.rstrip("."): list(tree) if isinstance(tree, tuple) else tree}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= _flat(value, f"{prefix}{key}.")
    return flat


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
