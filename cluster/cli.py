"""The `omniopsd-cluster` command. Its verbs are not built yet; it says what to use instead."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence

INSTEAD = """omniopsd-cluster: its verbs are not built yet. On a running Ray cluster, use Ray's own:

  ray start --head                                  on the first machine
  ray start --address=HEAD:6379                     on every other one
  ray job submit --address=http://HEAD:8265 --working-dir . -- \\
      omniopsd train run.yaml --set runtime.address=auto
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what to use instead; the exit code is 2, because nothing was done."""
    parser = argparse.ArgumentParser(
        prog="omniopsd-cluster",
        description="Machines for omniopsd. Not built yet.",
        epilog=INSTEAD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"omniopsd-cluster {_version()}")
    parser.parse_known_args(arguments)
    print(INSTEAD, end="", file=sys.stderr)
    return 2


def _version() -> str:
    try:
        return importlib.metadata.version("omniopsd")
    except importlib.metadata.PackageNotFoundError:  # a bare clone on PYTHONPATH
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
