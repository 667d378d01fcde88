"""What the ssh provider runs on a machine: `python -m cluster.ssh_node`, one JSON request on standard input.

Everything variable, the token too, comes through standard input; the command line is constant.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster.auth import TOKEN_FILE, private_folder
from cluster.cluster_config import SecurityConfig
from cluster.node_env import node_environment
from cluster.processes import end_owned, find_owned


def main() -> int:
    """Answer one request: start, look, stop or execute; the exit code."""
    request = json.load(sys.stdin)
    actions = {"start": _start, "look": _look, "stop": _stop, "execute": _execute}
    return actions[request["action"]](request)


def _start(request: dict[str, Any]) -> int:
    folder = private_folder(Path(request["folder"]))
    token = folder / TOKEN_FILE
    with open(token, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(request["token"])
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *request["arguments"]]
    log = folder / "start.log"
    with open(log, "wb") as output:
        code = subprocess.run(
            command,
            env=_environment(request),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
        ).returncode
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()
        print(lines[-1] if lines else "no output", file=sys.stderr)
    return code


def _look(request: dict[str, Any]) -> int:
    print(len(find_owned(request["mark"], Path(request["folder"]))))
    return 0


def _stop(request: dict[str, Any]) -> int:
    folder = Path(request["folder"])
    print(end_owned(request["mark"], folder, nodes={request["node"], ""}))
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _execute(request: dict[str, Any]) -> int:
    environment = _environment(request) | {"RAY_ADDRESS": request["address"]}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return subprocess.run(
        request["command"], env=environment, stdin=subprocess.DEVNULL, check=False
    ).returncode


def _environment(request: dict[str, Any]) -> dict[str, str]:
    security = SecurityConfig.model_validate(request["security"])
    token = Path(request["folder"]) / TOKEN_FILE
    return node_environment(os.environ, security, token, request["mark"], request["node"])


if __name__ == "__main__":
    sys.exit(main())
