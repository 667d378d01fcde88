"""Whether the packages that Python finds are this program's own.

`rollout`, `cluster` and the others are top-level names, and another distribution may have one too. A
shadowed package would run somebody else's code, or fail far from the cause.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

PACKAGES = ("rollout", "teacher", "learner", "rationale_cache", "cluster")
ROOT = Path(__file__).resolve().parent.parent


class ShadowedPackage(ValueError):
    """Another distribution's package stands where this program's should be."""


def check_own_packages(root: Path = ROOT) -> None:
    """Raises ShadowedPackage unless every package lies beside this one."""
    for name in PACKAGES:
        found = _folder(name)
        if found is None:
            raise ShadowedPackage(
                f"package {name} is missing beside {root / 'omniopsd'}; install omniopsd again"
            )
        if found != root / name:
            raise ShadowedPackage(
                f"package {name} comes from {found}{_owner(name)}, not from {root / name}: "
                "uninstall that distribution, or use an environment of its own"
            )


def _folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or []) or [str(spec.origin)]
    return Path(places[0]).resolve()


def _owner(name: str) -> str:
    owners = set(importlib.metadata.packages_distributions().get(name, [])) - {"omniopsd"}
    return f" (distribution {', '.join(sorted(owners))})" if owners else ""
