"""Whether a running cluster lets this process in, asked before Ray is: Ray waits 20 s and then says little."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.runtime import RuntimeFault

METHOD = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
SECONDS = 5.0


def require_entry(address: str) -> None:
    """Raises RuntimeFault when the head at `host:port` does not answer, or refuses the token of this process."""
    import grpc

    if os.environ.get("RAY_USE_TLS") == "1":  # Ray's own client has the certificates
        return
    token = _token()
    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=SECONDS, metadata=metadata)
            return
        except grpc.RpcError as error:
            code = error.code()
    if code == grpc.StatusCode.UNAUTHENTICATED:
        how = "is not the one of this cluster" if token else "is missing"
        raise RuntimeFault(
            f"runtime.address {address}: the cluster refuses us, the token {how}; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH=~/.omniopsd/clusters/NAME/auth_token, or use `omniopsd-cluster submit`"
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise RuntimeFault(f"runtime.address {address}: no Ray head answers there; is the cluster up?")


def _token() -> str | None:
    """Where Ray looks for it, in Ray's order."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    try:
        return Path(path).expanduser().read_text(encoding="ascii").strip()
    except OSError:
        return None
