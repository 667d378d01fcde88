"""What a running cluster says of itself: nodes, GPUs, actors and logs, over Ray's HTTP API with the token."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NODE_LABEL = "omniopsd-node"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


# no proxy either: the address is this machine's or a tunnel on it
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


class ApiError(RuntimeError):
    """The cluster cannot be reached, or refused the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One Ray node as the cluster sees it."""

    name: str
    address: str
    alive: bool
    cpus: float
    gpus: float
    labels: dict[str, str]


class ClusterApi:
    """Reads from one dashboard address; `token` goes into a header and nowhere else."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self._token = address.rstrip("/"), token

    def __repr__(self) -> str:
        return f"ClusterApi({self.address!r})"

    def nodes(self) -> list[NodeStatus]:
        """Every node that was ever part of the cluster, head first."""
        rows = self._state("nodes")
        rows.sort(key=lambda row: (not row["is_head_node"], row["labels"].get(NODE_LABEL, "")))
        return [_node(row) for row in rows]

    def actors(self) -> list[dict[str, Any]]:
        """Every actor of the cluster, as Ray's state API gives it."""
        return self._state("actors")

    def used(self) -> dict[str, tuple[float, float]]:
        """(used, total) of every resource."""
        answer = self._get("/api/cluster_status", {})["data"]["clusterStatus"] or {}
        usage = (answer.get("loadMetricsReport") or {}).get("usage", {})
        return {key: (float(used), float(total)) for key, (used, total) in usage.items()}

    def actor_log(self, actor_id: str, *, error: bool, follow: bool) -> Iterator[str]:
        """Text of an actor's log file as it comes."""
        query = {
            "actor_id": actor_id,
            "suffix": "err" if error else "out",
            "media_type": "stream" if follow else "file",
            "format": "leading_1",
        }
        path = f"/api/v0/logs/{query['media_type']}?{urllib.parse.urlencode(query)}"
        with self._open(path, timeout=None if follow else 30.0) as answer:
            for line in answer:
                # each chunk starts with 1 for text, 0 for an error
                yield line.decode(errors="replace").removeprefix("1")

    def version(self) -> str:
        """Ray's version on the cluster. Raises ApiError when the cluster is not there or refuses us."""
        return str(self._get("/api/version", {})["ray_version"])

    def _state(self, kind: str) -> list[dict[str, Any]]:
        answer = self._get(f"/api/v0/{kind}", {"limit": "10000", "detail": "1"})
        rows: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return rows

    def _get(self, path: str, query: dict[str, str]) -> Any:
        with self._open(f"{path}?{urllib.parse.urlencode(query)}", timeout=30.0) as answer:
            return json.load(answer)

    def _open(self, path: str, timeout: float | None) -> Any:
        request = urllib.request.Request(
            self.address + path, headers={"Authorization": f"Bearer {self._token}"}
        )
        try:
            return _OPENER.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise ApiError(
                    f"{self.address} refused the token: is another cluster on this port?"
                ) from None
            detail = error.read(300).decode(errors="replace")
            raise ApiError(f"{self.address}{path.split('?')[0]}: HTTP {error.code}: {detail}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ApiError(f"{self.address} does not answer ({reason}): is the cluster up?") from None


def _node(row: dict[str, Any]) -> NodeStatus:
    labels = {key: value for key, value in row["labels"].items() if not key.startswith("ray.io/")}
    total = row["resources_total"]
    return NodeStatus(
        name=labels.pop(NODE_LABEL, row["node_ip"]),
        address=row["node_ip"],
        alive=row["state"] == "ALIVE",
        cpus=float(total.get("CPU", 0)),
        gpus=float(total.get("GPU", 0)),
        labels=labels,
    )
