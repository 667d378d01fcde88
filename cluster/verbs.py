"""The verbs that change a cluster: up and down."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from cluster.api import ApiError, ClusterApi
from cluster.auth import make_token, read_token
from cluster.cluster_config import ClusterConfig
from cluster.cluster_file import load_cluster
from cluster.isolation import is_inside, open_network, run_inside
from cluster.provider import Provider, ProviderError
from cluster.providers import make_provider
from cluster.state import ClusterState, StateFolder, config_changes
from cluster.tables import change_table, plan_table, progress

WAIT_SECONDS = 900.0
POLL_SECONDS = 1.0
FREE_TO_CHANGE = ("job.",)


class NotConfirmed(ValueError):
    """A question that was answered with no, or that nobody could answer."""


def up(file: str, *, yes: bool, dry_run: bool) -> int:
    """Show the plan, ask, start what is missing, wait until all nodes are there; the exit code.

    An isolated cluster is started by this same verb, run again in the cluster's own network.
    """
    console = Console(highlight=False)
    config = load_cluster(file)
    folder = StateFolder(config.name)
    provider = make_provider(config, folder)
    state = folder.read()
    again = state is not None and is_inside(state)
    if not again:
        console.print(plan_table(config))
    if dry_run:
        console.print(provider.dry_run(), soft_wrap=True, markup=False)
        return 0
    if state is not None and not again:
        _show_changes(console, config, state)
        if state.ready and _is_complete(config, folder, provider, state):
            folder.update(state, config=config.model_dump(mode="json"))
            console.print(f"{config.name} is up already; nothing to do")
            _next(console, file)
            return 0
        console.print(f"{config.name} was started before and is not complete: starting what is missing")
    confirm(f"start {config.node_count} nodes?", yes)
    make_token(folder.path)
    state = provider.prepare(state)
    if config.security.isolated and not again:
        open_network(state)
        return run_inside(state, ["up", "-y", "-f", file])
    provider.start(state, console.print)
    _wait(console, config, folder, provider, state)
    folder.update(state, ready=True)
    _next(console, file)
    return 0


def down(file: str, *, yes: bool) -> None:
    """List what `up` made, ask, remove it. Works after a half-failed `up`, and twice."""
    console = Console(highlight=False)
    config = load_cluster(file)
    folder = StateFolder(config.name)
    state = folder.read()
    if state is None:
        if folder.path.exists():  # a token, and nothing started with it
            folder.remove()
        console.print(f"{config.name} is not up; nothing to remove")
        return
    provider = make_provider(state.cluster_config, folder)  # as it was made, whatever the YAML says now
    console.print(f"{config.name}: this will be removed")
    for line in provider.made(state):
        console.print(f"  {line}", soft_wrap=True)
    confirm("remove it?", yes)
    provider.remove(state, console.print)
    folder.remove()
    console.print(f"{config.name} is down")


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal. Raises NotConfirmed on anything but y, and where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise NotConfirmed(f"{question} There is no terminal to ask on; add -y")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise NotConfirmed("nothing was done")


def reachable(config: ClusterConfig) -> tuple[StateFolder, ClusterState, Provider]:
    """The record of a cluster that is up, and its provider. Raises StateError."""
    folder = StateFolder(config.name)
    state = folder.require()
    return folder, state, make_provider(state.cluster_config, folder)


def refused_changes(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Keys that a running cluster cannot take over: all but new groups, higher counts and `job`. Pure."""
    refused = []
    for key, (old, new) in changes.items():
        grown = key.endswith((".count", ".most")) and isinstance(old, int) and (new or 0) > old
        fresh = (
            key.startswith("workers.") and old is None and changes.get(_group_name(key), (1, 1))[0] is None
        )
        if not (grown or fresh or key.startswith(FREE_TO_CHANGE)):
            refused.append(key)
    return refused


def _group_name(key: str) -> str:
    return f"workers.{key.split('.')[1]}.name"


def _show_changes(console: Console, config: ClusterConfig, state: ClusterState) -> None:
    changes = config_changes(state.config, config.model_dump(mode="json"))
    if not changes:
        return
    console.print(change_table(changes))
    if refused := refused_changes(changes):
        raise ProviderError(
            f"{', '.join(refused)}: a running cluster cannot change this; run `omniopsd-cluster down`, then `up`"
        )


def _is_complete(config: ClusterConfig, folder: StateFolder, provider: Provider, state: ClusterState) -> bool:
    if config.security.isolated and not is_inside(state):
        from cluster.local_provider import LocalProvider

        # its API is not reachable from here
        return isinstance(provider, LocalProvider) and len(provider.running(state)) >= config.node_count
    try:
        with provider.reach(state) as address:
            alive = [one for one in ClusterApi(address, read_token(folder.token_file)).nodes() if one.alive]
    except ApiError:
        return False
    return len(alive) >= config.node_count


def _wait(
    console: Console, config: ClusterConfig, folder: StateFolder, provider: Provider, state: ClusterState
) -> None:
    begin, shown = time.monotonic(), ""
    with provider.reach(state) as address:
        api = ClusterApi(address, read_token(folder.token_file))
        while True:
            try:
                nodes = api.nodes()
            except ApiError:
                nodes = []
            waited = time.monotonic() - begin
            text = progress(config, nodes, waited)
            if text.rpartition(",")[0] != shown or int(waited) % 10 == 0:
                shown = text.rpartition(",")[0]
                console.print(text)
            if sum(node.alive for node in nodes) >= config.node_count:
                return
            if waited > WAIT_SECONDS:
                raise ProviderError(f"not all nodes came: {text}; `up` tries again, `down` removes them")
            time.sleep(POLL_SECONDS)


def _next(console: Console, file: str) -> None:
    option = "" if file == "cluster.yaml" else f" -f {file}"
    console.print(f"next: omniopsd-cluster submit run.yaml{option} --follow", soft_wrap=True)
