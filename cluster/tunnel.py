"""A tool that forwards a port of this machine to a dashboard, while a context lasts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cluster.api import ApiError, ClusterApi
from cluster.provider import ProviderError

TUNNEL_SECONDS = 60.0


@contextmanager
def open_tunnel(command: Sequence[str], port: int, token: str) -> Iterator[str]:
    """Run `command`, which forwards `port`; gives the address when the cluster answers. Raises ProviderError."""
    process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _await(ClusterApi(address, token), process, command[0])
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _await(api: ClusterApi, process: subprocess.Popen[bytes], tool: str) -> None:
    end = time.monotonic() + TUNNEL_SECONDS
    while True:
        try:
            api.version()
            return
        except ApiError as error:
            refused = "refused the token" in str(error)
            if refused or time.monotonic() > end or process.poll() is not None:
                raise ProviderError(f"no way to the head through `{tool}`: {error}") from error
        time.sleep(0.3)
