"""What bounds a task: fixed times, compute, memory bandwidth or the network. Pure."""

from __future__ import annotations

from omniopsd.planning.estimate import Estimate
from omniopsd.planning.timeline import Durations, StepTimes

FIXED, COMPUTE, MEMORY, NETWORK = "fixed times", "compute", "memory bandwidth", "network"


def task_bound(task: Estimate) -> str:
    """The largest part of a task's seconds."""
    given = task.inputs
    if task.name == "generate call":
        decode, read = given["decode"] / given["F"], given["read"] / given["B"]
        parts = {FIXED: given["fixed"], COMPUTE: given["prefill"] / given["F"], MEMORY: 0.0}
        parts[COMPUTE if decode >= read else MEMORY] += max(decode, read)
    elif task.name == "score call":
        work, read = given["work"] / given["F"], given["weights"] / given["B"]
        parts = {FIXED: given["fixed"], (COMPUTE if work >= read else MEMORY): max(work, read)}
    elif task.name == "train step":
        parts = {
            FIXED: given["fixed"],
            COMPUTE: given["work"] / given["F"],
            MEMORY: given["optimizer"] / given["B"],
            NETWORK: given["collectives"],
        }
    else:
        host = sum(given["size"] / given[key] for key in ("host", "hashing") if given.get(key))
        wire = sum(given["size"] / given[key] for key in ("network", "link") if given.get(key))
        parts = {"host copies and hash": host, NETWORK: wire, FIXED: given.get("fixed", 0.0)}
        parts["host copies and hash"] += given.get("size", 0.0) * given.get("per_byte", 0.0)
    return max(parts, key=lambda name: parts[name])


def waiting_share(durations: Durations, times: StepTimes) -> dict[str, float]:
    """Share of a step in which the actors of each role have nothing to do."""
    step = max(times.step, 1e-12)
    push = durations.publish + durations.probe
    busy = {
        "rollout": sum(durations.generate) / durations.engines + durations.engine_update,
        "learner": durations.train + push,
    }
    if durations.teachers:
        busy["teacher"] = durations.passes * sum(durations.score) / durations.teachers + (
            durations.teacher_update or 0.0
        )
    return {role: min(1.0, max(0.0, 1.0 - seconds / step)) for role, seconds in busy.items()}
