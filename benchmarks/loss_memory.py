"""Peak memory and time of the chunked loss against the naive one, at a real vocabulary.

    python -m benchmarks.loss_memory --out loss_memory.json

Each arm is a process of its own on the same inputs: `naive` is the divergence as a textbook writes it, on all
rows with autograd; `chunked` is the repository's loss in chunks of 256 rows, with all that it reports.
The three textbook divergences have both arms; the others the chunked one alone, and their ratio is against the
naive forward KL, the cheapest.
Memory is the peak of the process (VmHWM, Linux) less what it held before the loss. Only the
ratios inside one run mean something, and of the two times `cpu_seconds` is the steadier on a busy
machine. The width is far below a real model's so that the inputs are small: the products are cheaper
here, and the second forward pass of a chunk costs relatively more with a real head. 2,048 rows need
about 12 GB for `naive`; use fewer with --rows on a small machine, or name objectives with --objectives.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ARMS = ("naive", "chunked")
OBJECTIVES: dict[str, dict[str, Any]] = {
    "jsd": {},
    "forward_kl": {"divergence": "forward_kl"},
    "reverse_kl": {"divergence": "reverse_kl"},
    "power": {"divergence": "power", "power": 0.5},
    "entropy_switched": {"divergence": "entropy_switched", "entropy_threshold": 2.0},
    "forward_kl, soft clip": {"divergence": "forward_kl", "clip": "soft"},
    "jsd, entropy gate": {"tokens": {"entropy_gate": 1.0}},
    "jsd, skewed target": {"target": "skewed"},
    "reverse_kl, union of 100": {"divergence": "reverse_kl", "support": "union"},
    "sampled, 16 draws": {"divergence": "sampled", "draws": 16},
}
NAIVE = ("jsd", "forward_kl", "reverse_kl")
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run every arm and write one JSON; or, with --arm, be one arm."""
    args = parse()
    if args.arm:
        print(json.dumps(run_arm(args.arm, args.objectives[0], args.rows, args.vocabulary, args.width)))
        return
    names = args.objectives or list(OBJECTIVES)
    naive = {name: child("naive", name, args) for name in names if name in NAIVE}
    chunked = {name: child("chunked", name, args) for name in names}
    against = {name: naive.get(name) or naive.get("forward_kl") for name in names}
    result = {
        "rows": args.rows,
        "vocabulary": args.vocabulary,
        "width": args.width,
        "naive": naive,
        "chunked": chunked,
        "ratios_naive_over_chunked": {
            name: ratios(other, chunked[name]) for name, other in against.items() if other
        },
    }
    text = json.dumps(result, indent=2)
    if args.out:
        Path(args.out).write_text(text + "\n")
    print(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="file for the raw numbers")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=152_064)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, help="some of them (default: all)")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def child(arm: str, name: str, args: argparse.Namespace) -> dict[str, float]:
    """One arm in a fresh process; this one never imports torch, so its peak cannot leak into theirs."""
    sizes = ["--rows", str(args.rows), "--vocabulary", str(args.vocabulary), "--width", str(args.width)]
    command = [sys.executable, "-m", "benchmarks.loss_memory", "--arm", arm, "--objectives", name, *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise SystemExit(
            f"{arm} {name}: exit code {done.returncode} (-9: out of memory, lower --rows)\n{done.stderr[-2000:]}"
        )
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{arm} {name}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)
    return numbers


def run_arm(arm: str, name: str, rows: int, vocabulary: int, width: int) -> dict[str, float]:
    """Forward and backward once; peak bytes above the start, seconds, the loss and a gradient norm."""
    import torch

    torch.manual_seed(0)
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) * 0.2).requires_grad_()
    teacher = hidden.detach() + 0.3 * torch.randn(rows, width)
    targets = torch.randint(vocabulary, (rows,))
    loss_of = naive_loss if arm == "naive" else chunked_loss
    # Imports and first-call set-up take seconds and would count against one arm only.
    loss_of(name, hidden[:8], weight, teacher[:8], targets[:8]).backward()
    hidden.grad = weight.grad = None
    before, start, cpu = status_bytes("VmRSS"), time.perf_counter(), time.process_time()
    loss = loss_of(name, hidden, weight, teacher, targets)
    loss.backward()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert weight.grad is not None
    return {
        "peak_bytes": status_bytes("VmHWM") - before,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "loss": loss.item(),
        "head_gradient_norm": weight.grad.norm().item(),
    }


def naive_loss(name: str, hidden: Any, weight: Any, teacher: Any, targets: Any) -> Any:
    """The divergence over all rows at once, left to autograd."""
    import torch

    lp = torch.log_softmax(hidden @ weight.T, -1)
    with torch.no_grad():
        lq = torch.log_softmax(teacher @ weight.T, -1)
    if name == "forward_kl":
        return (lq.exp() * (lq - lp)).sum(-1).mean()
    if name == "reverse_kl":
        return (lp.exp() * (lp - lq)).sum(-1).mean()
    lm = torch.logaddexp(lp - math.log(2), lq - math.log(2))
    return (0.5 * (lq.exp() * (lq - lm)).sum(-1) + 0.5 * (lp.exp() * (lp - lm)).sum(-1)).mean()


def chunked_loss(name: str, hidden: Any, weight: Any, teacher: Any, targets: Any) -> Any:
    """`chunked_rows` as the learner calls it, with everything that it reports."""
    import torch

    from learner.chunked import chunked_rows
    from learner.objective_config import ObjectiveConfig
    from learner.teacher_targets import TeacherTargets

    objective = ObjectiveConfig.model_validate(OBJECTIVES[name])
    numbers = torch.rand(len(hidden), objective.draws, generator=torch.Generator().manual_seed(0))
    return chunked_rows(
        hidden,
        lambda rows: rows @ weight.T,
        TeacherTargets(hidden=teacher, head_weight=weight.detach()),
        targets,
        torch.full((len(hidden),), 1.0 / len(hidden)),
        objective,
        None,
        1.0,
        uniforms=numbers if objective.draws else None,
    ).loss


def status_bytes(name: str) -> int:
    """A line of /proc/self/status in bytes. VmHWM starts at exec; ru_maxrss would keep the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}: run this on Linux")


def ratios(one: dict[str, float], two: dict[str, float]) -> dict[str, float]:
    return {key: round(one[key] / two[key], 3) for key in ("peak_bytes", "seconds", "cpu_seconds")}


if __name__ == "__main__":
    main()
