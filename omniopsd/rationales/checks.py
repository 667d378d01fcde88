"""Contradictions in `rationale_cache`, found before anything starts. Pure.

A key that somebody wrote into the YAML is refused without being shown: neither here nor in any message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from omniopsd.config import RunConfig
from omniopsd.objective_checks import Finding
from rationale_cache.config import EndpointConfig, RationaleCacheConfig
from rationale_cache.keys import IMPORTED
from rationale_cache.prompt import template_fault

SECTION = "rationale_cache"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OWN = {"model", "messages", "stream", "n", "response_format", "max_completion_tokens"}
OWN |= {"temperature", "seed"}


def cache_conflicts(run: RunConfig) -> Iterator[Finding]:
    """All contradictions of the section; none without it."""
    config = run.rationale_cache
    if config is None:
        return
    yield from endpoint_conflicts(config, SECTION)
    yield from _request(config)
    yield from _judging(config)
    yield from _misses(config)


def endpoint_conflicts(config: EndpointConfig, section: str) -> Iterator[Finding]:
    """What is wrong with the address or the way to the key, for any section that has them."""
    if config.api_key_env is not None and config.api_key_file is not None:
        yield f"{section}.api_key_file", "api_key_env is set too; keep one of them"
    if config.api_key_env is not None and not VARIABLE.fullmatch(config.api_key_env):
        yield (
            f"{section}.api_key_env",
            "no name of an environment variable (not shown: it may be the key itself); write the name of the "
            "variable that holds the key",
        )
    if config.api_key_file is not None and re.match(r"(?:sk|key)-", config.api_key_file):
        yield (
            f"{section}.api_key_file",
            "looks like a key (not shown); write the path of the file that holds it",
        )
    address = urlsplit(config.base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        yield f"{section}.base_url", "no address; write https://host/v1 or http://host:port/v1"
    elif address.username or address.password or address.query:
        yield (
            f"{section}.base_url",
            "has a user, password or query, where keys are written (not shown); use api_key_env or api_key_file",
        )
    without = config.api_key_env is None and config.api_key_file is None
    if without and address.hostname == "api.openai.com" and not config.model.startswith(IMPORTED):
        yield f"{section}.api_key_env", "this address wants a key; name its variable, or set api_key_file"
    limit = config.tokens_per_minute
    most = getattr(config, "max_completion_tokens", 1)
    if limit is not None and limit <= most:
        yield (
            f"{section}.tokens_per_minute",
            f"{limit} never lets one reply of {most} tokens through; raise it",
        )


def _request(config: RationaleCacheConfig) -> Iterator[Finding]:
    if config.prompt is not None and (fault := template_fault(config.prompt, config.mode)):
        yield f"{SECTION}.prompt", fault
    taken = sorted(OWN & set(config.extra_body))
    if taken:
        yield f"{SECTION}.extra_body", f"has {taken[0]}, which has a key of its own or is ours; leave it out"
    if len(set(config.send)) != len(config.send):
        yield f"{SECTION}.send", "names a kind twice; write each once"
    if config.budget.max_cost is not None and config.prices is None:
        yield f"{SECTION}.budget.max_cost", "cannot be kept without prices; write input and output of prices"


def _judging(config: RationaleCacheConfig) -> Iterator[Finding]:
    filters = config.filters
    if filters.min_chars > filters.max_chars:
        yield (
            f"{SECTION}.filters.min_chars",
            f"{filters.min_chars} is above max_chars {filters.max_chars}, so no reply could pass",
        )
    if filters.agreement and config.reply == "text":
        yield (
            f"{SECTION}.filters.agreement",
            "a plain text has no answer to compare with the label; write false, or reply: schema",
        )


def _misses(config: RationaleCacheConfig) -> Iterator[Finding]:
    if config.model.startswith(IMPORTED) and config.on_miss == "make":
        yield f"{SECTION}.on_miss", "imported rationales cannot be made; write fail or skip"
