"""Writes that survive a kill or a power cut: the old content or the new, never a part of either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` with `content`: a temporary sibling, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    sync_path(temporary)
    os.replace(temporary, path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Flush one file or folder to the disk. A rename is only durable once its folder is flushed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, children first, then itself."""
    for path in _children_first(folder):
        sync_path(path)


def _children_first(folder: Path) -> Iterator[Path]:
    for root, _, files in os.walk(folder, topdown=False):
        yield from (Path(root, name) for name in sorted(files))
        yield Path(root)
