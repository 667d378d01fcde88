"""`python -m omniopsd`: the command without an installed script, as a job on a cluster runs it."""

from __future__ import annotations

import sys

from omniopsd.cli import main

if __name__ == "__main__":
    sys.exit(main())
