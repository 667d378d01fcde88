"""What every step measured: one JSON line for each in metrics.jsonl, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from omniopsd.durable import write_durably

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsError(ValueError):
    """A metric that is not a finite number, or a file of metrics that is not what it should be."""


class MetricsLog:
    """The open metrics file of one run: steps only rise, and a line is on the disk when `append` returns.

    A last line that a kill cut off is dropped when the file is opened. `tensorboard=None` writes no events.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None) -> None:
        self.path = path
        self._tensorboard = tensorboard
        self._writer: SummaryWriter | None = None
        self._file: BinaryIO | None = None
        _drop_torn_line(path)
        rows = read(path)
        self.last_step: int | None = rows[-1]["step"] if rows else None

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one step: numbers, or lists and dicts of numbers.

        Raises MetricsError when a value is not a finite number or `step` does not follow the last one;
        then nothing is written.
        """
        row = {
            "step": step,
            **{key: _plain(value, key, step) for key, value in values.items() if key != "step"},
        }
        if self.last_step is not None and step <= self.last_step:
            raise MetricsError(
                f"{self.path}: step {step} after step {self.last_step}; truncate_after goes back"
            )
        self._write_line(row)
        self.last_step = step
        self._write_events(row)

    def truncate_after(self, step: int) -> None:
        """Forget all steps after `step`, so that a resumed run can do them again.

        TensorBoard hides the events of those steps too, from the next `append` on.
        """
        rows = [row for row in read(self.path) if row["step"] <= step]
        self.close()
        if self.path.exists():
            write_durably(self.path, b"".join(_line(row) for row in rows))
        self.last_step = rows[-1]["step"] if rows else None

    def close(self) -> None:
        """Close the file and the events; a later `append` opens them again."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()
        self._file = self._writer = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_line(self, row: dict[str, Any]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        self._file.write(_line(row))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write_events(self, row: dict[str, Any]) -> None:
        if self._tensorboard is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and not every caller wants it

            self._writer = SummaryWriter(str(self._tensorboard), purge_step=row["step"])
        for name, value in _scalars(row):
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines, oldest first; none when there is no file.

    A last line without its end is one that is being written, or was cut off by a kill: it is left out.
    Raises MetricsError on any other line that is not an object with an integer `step`, or on steps
    that do not rise.
    """
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[: len(lines) - 1], start=1):
        row = _parse(line, f"{path}:{number}")
        if rows and row["step"] <= rows[-1]["step"]:
            raise MetricsError(
                f"{path}:{number}: step {row['step']} after step {rows[-1]['step']}; delete one line"
            )
        rows.append(row)
    return rows


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise MetricsError(f"{where}: not a line of JSON ({error}); delete the line") from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise MetricsError(f"{where}: expected an object with an integer `step`; delete the line")
    return row


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _plain(value: Any, key: str, step: int) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}", step) for name, item in value.items()}
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0):
        return [_plain(item, f"{key}[{index}]", step) for index, item in enumerate(value)]
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise MetricsError(
            f"step {step}: {key} is {value!r}, not a finite number; fix its source or leave it out"
        )
    return value


def _scalars(tree: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(tree, dict):
        items = [(key, value) for key, value in tree.items() if name or key != "step"]
    elif isinstance(tree, list):
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        yield name, float(tree)
        return
    for key, value in items:
        yield from _scalars(value, f"{name}/{key}" if name else key)


def _drop_torn_line(path: Path) -> None:
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    if end < len(content):
        write_durably(path, content[:end])
