"""The environment that a Ray node starts with: little of the shell's, nothing secret, tokens on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cluster.cluster_config import SecurityConfig
from cluster.output_guard import SECRET_NAME

MARK, NODE = "OMNIOPSD_CLUSTER", "OMNIOPSD_NODE"
HARMLESS = re.compile(
    r"(PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|TERM|VIRTUAL_ENV|PYTHON\w+|LD_LIBRARY_PATH|CUDA_\w+"
    r"|NVIDIA_\w+|NCCL_\w+|GLOO_\w+|OMP_\w+|MKL_\w+|HF_HOME|HF_HUB_OFFLINE|HF_HUB_CACHE|TRANSFORMERS_\w+"
    r"|TOKENIZERS_\w+|VLLM_\w+|DS_ACCELERATOR|XDG_\w+)"
)
METRICS_OFF = {
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
    "RAY_enable_metrics_collection": "false",
}


def node_environment(
    shell: Mapping[str, str], security: SecurityConfig, token_file: Path, mark: str, node: str
) -> dict[str, str]:
    """What one node of the cluster `mark` starts with. Pure.

    Workers and jobs inherit it and Ray logs parts of it, so a key in the shell of `up` must not be in it.
    """
    kept = {name: value for name, value in shell.items() if _harmless(name) or name in security.pass_env}
    return (
        kept
        | ray_environment(security)
        | {
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            MARK: mark,
            NODE: node,
        }
    )


def ray_environment(security: SecurityConfig) -> dict[str, str]:
    """Ray's own switches, the same on every node of every provider."""
    found = {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if not security.metrics:
        found |= METRICS_OFF
    if security.tls is not None:
        found |= {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": security.tls.certificate,
            "RAY_TLS_SERVER_KEY": security.tls.key,
            "RAY_TLS_CA_CERT": security.tls.authority,
        }
    return found


def _harmless(name: str) -> bool:
    return bool(HARMLESS.fullmatch(name)) and not SECRET_NAME.search(name)
