"""The verbs that look at a cluster and its jobs: status, submit, logs, stop-job, exec, dashboard."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console

from cluster.api import ClusterApi
from cluster.auth import read_token
from cluster.cluster_config import ClusterConfig
from cluster.cluster_file import load_cluster
from cluster.jobs import ENDED, JobError, Jobs, RunRequest, own_python, require_readable, settings_of
from cluster.provider import ProviderError
from cluster.tables import job_table, node_table
from cluster.verbs import reachable

WATCH_SECONDS = 2.0


@contextmanager
def _cluster(file: str) -> Iterator[tuple[ClusterConfig, str, str]]:
    """The config, the dashboard's address and the token of a cluster that is up and answers."""
    config = load_cluster(file)
    folder, state, provider = reachable(config)
    token = read_token(folder.token_file)
    with provider.reach(state) as address:
        ClusterApi(address, token).version()  # a wrong token or a dead head is said at once
        yield config, address, token


def status(file: str, *, json_output: bool, watch: bool) -> None:
    """Nodes, what is used of them, jobs."""
    console = Console(highlight=False)
    with _cluster(file) as (config, address, token):
        api, jobs = ClusterApi(address, token), Jobs(address, token)
        while True:
            nodes, used, listed = api.nodes(), api.used(), jobs.list()
            if json_output:
                content = {
                    "name": config.name,
                    "provider": config.provider,
                    "nodes": [asdict(node) for node in nodes],
                    "used": {key: list(pair) for key, pair in used.items() if key in ("CPU", "GPU")},
                    "jobs": listed,
                }
                print(json.dumps(content), flush=True)
            else:
                console.print(node_table(nodes))
                taken = [f"{used[k][0]:g} of {used[k][1]:g} {k}s" for k in ("CPU", "GPU") if k in used]
                console.print(f"in use: {', '.join(taken) or 'nothing'}")
                console.print(job_table(listed) if listed else "no jobs")
            if not watch:
                return
            time.sleep(WATCH_SECONDS)


def submit(file: str, run_yaml: str, settings: Sequence[str], *, follow: bool, resume: bool) -> int:
    """Start a run as a job; with `follow`, its output and an exit code of how it ended."""
    path = require_readable(run_yaml)
    with _cluster(file) as (config, address, token):
        jobs = Jobs(address, token)
        local = config.provider == "local"
        if config.job.workdir is None and not local:
            raise JobError(
                f"{file}: job.workdir: not given, so relative paths of {run_yaml} would start in a folder that Ray "
                "deletes; write the folder that all nodes share"
            )
        name = jobs.submit(
            RunRequest(
                run_yaml=path,
                settings=settings_of(settings),
                resume=resume,
                workdir=config.job.workdir or os.getcwd(),
                python=own_python(config.job.python, local),
                stop_seconds=config.job.stop_seconds,
            )
        )
        print(f"job {name}", flush=True)
        if follow:
            return _follow(jobs, name)
    print("next: omniopsd-cluster logs --follow, or omniopsd-cluster stop-job", flush=True)
    return 0


def logs(file: str, job: str | None, *, role: str, follow: bool) -> int:
    """The driver's output, or that of the actors of one role."""
    with _cluster(file) as (_, address, token):
        jobs = Jobs(address, token)
        found = jobs.find(job)
        if role == "driver":
            if follow:
                return _follow(jobs, found["id"])
            print(jobs.log(found["id"]), end="")
            return 0
        _role_logs(ClusterApi(address, token), jobs, found, role, follow)
    return 0


def stop_job(file: str, job: str | None) -> None:
    """Ask a run to finish its step and write a checkpoint; waits for it."""
    console = Console(highlight=False)
    with _cluster(file) as (config, address, token):
        jobs = Jobs(address, token)
        name = jobs.find(job)["id"]
        said: list[str] = []

        def say(text: str) -> None:
            if not said:
                console.print(text)
            said.append(text)

        if not jobs.stop(name, config.job.stop_seconds, say):
            console.print(f"job {name} had ended already")
            return
        last = [line for line in jobs.log(name).splitlines() if line.startswith("omniopsd: ")]
        if not last:
            raise JobError(f"job {name} was killed before it could say where it stands; see its logs")
        console.print(f"job {name}: {last[-1].removeprefix('omniopsd: ')}", soft_wrap=True)


def execute(file: str, command: Sequence[str]) -> int:
    """Run a command on the head; its exit code."""
    if not command:
        raise ProviderError("exec: no command; write it behind --, for example: exec -- ray status")
    _, state, provider = reachable(load_cluster(file))
    return provider.execute(state, command)


def dashboard(file: str) -> None:
    """Keep a way to the dashboard open until Ctrl-C."""
    config = load_cluster(file)
    if config.security.isolated:
        raise ProviderError(
            "an isolated cluster has no dashboard that a browser reaches; use status and logs"
        )
    folder, state, provider = reachable(config)
    with provider.reach(state) as address:
        ClusterApi(address, read_token(folder.token_file)).version()
        print(f"dashboard: {address}\nit asks for the token in {folder.token_file}", flush=True)
        if address != state.dashboard:
            print("Ctrl-C closes the tunnel", flush=True)
            while True:
                time.sleep(3600)


def _follow(jobs: Jobs, name: str) -> int:
    try:
        return jobs.follow(name, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\njob {name} goes on; stop it with: omniopsd-cluster stop-job {name}", file=sys.stderr)
        return 130


def _role_logs(api: ClusterApi, jobs: Jobs, job: dict[str, Any], role: str, follow: bool) -> None:
    actors = sorted(
        (one["name"], one["actor_id"])
        for one in api.actors()
        if one["job_id"] == job["job_id"] and (one["name"] or "").startswith(f"{role}-")
    )
    if not actors:
        raise JobError(f"job {job['id']} has no {role} actor (it is {job['status'].lower()})")
    lock = threading.Lock()

    def copy(name: str, actor: str, error: bool) -> None:
        for line in api.actor_log(actor, error=error, follow=follow):
            if line.startswith((":job_id:", ":actor_name:")):  # Ray's own marks
                continue
            with lock:
                print(f"[{name}] {line.rstrip()}", flush=True)

    threads = [
        threading.Thread(target=copy, args=(name, actor, error), daemon=True)
        for name, actor in actors
        for error in (False, True)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if follow and jobs.find(job["id"])["status"] in ENDED:
            return
        time.sleep(0.2)
