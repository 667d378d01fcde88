"""Predictions of a set: official `...-openset.npz` and `...-openset-sentiment.npz`, JSON objects or CSV files."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omniopsd.bench.lists import Labels
from omniopsd.bench.npz import read_npz
from omniopsd.bench.wheel_files import read_csv_rows
from omniopsd.durable import write_durably

NAMES, ITEMS = "filenames", "fileitems"
SHOWN = 5


class PredictionsError(ValueError):
    """A prediction file with faults; the message names the file and the clips."""


def read_predictions(path: str | Path) -> dict[str, Labels]:
    """Clip name -> label list (text or list) or polarity, in the file's order.

    `.npz` with `filenames` and `fileitems`; `.json`, an object of clip -> text or list; `.csv` with the columns
    name and openset (or sentiment). Raises PredictionsError, NpzError, WordsError (an unreadable CSV).
    """
    path = Path(path)
    readers = {".npz": _npz_pairs, ".json": _json_pairs, ".csv": _csv_pairs}
    if path.suffix.lower() not in readers:
        raise PredictionsError(
            f"{path}: the ending {path.suffix!r} is not known; give a .npz, .json or .csv file"
        )
    pairs = list(readers[path.suffix.lower()](path))
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise PredictionsError(f"{path}: {_some(twice)} given twice; keep one prediction for each clip")
    wrong = [f"{name} ({type(item).__name__} {item!r:.40})" for name, item in pairs if not _is_labels(item)]
    if wrong:
        raise PredictionsError(f"{path}: a prediction must be text or a list of texts: {_some(wrong)}")
    return {name: None if item is None or item != item else item for name, item in pairs}


def write_predictions(path: str | Path, predictions: Mapping[str, str]) -> None:
    """Write the official form: an npz with `filenames` and `fileitems`, both plain text arrays."""
    content = io.BytesIO()
    names, items = list(predictions), list(predictions.values())
    np.savez_compressed(content, filenames=np.array(names, np.str_), fileitems=np.array(items, np.str_))
    write_durably(Path(path), content.getvalue())


def polarities(predictions: Mapping[str, Labels], path: str | Path) -> dict[str, str]:
    """The same with every item a text. Raises PredictionsError on lists and on empty cells."""
    wrong = [name for name, item in predictions.items() if not isinstance(item, str)]
    if wrong:
        raise PredictionsError(f"{path}: a polarity must be one word, which it is not for {_some(wrong)}")
    return {name: str(item) for name, item in predictions.items()}


def _npz_pairs(path: Path) -> Iterable[tuple[str, Any]]:
    arrays = read_npz(path)
    if "name2reason" in arrays and NAMES not in arrays:
        raise PredictionsError(
            f"{path}: holds model replies (name2reason), not extracted labels; give the -openset.npz made from it"
        )
    gone = [key for key in (NAMES, ITEMS) if key not in arrays]
    if gone:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise PredictionsError(
            f"{path}: no {' and no '.join(gone)} in it, found {found}; give an -openset.npz"
        )
    names, items = arrays[NAMES], arrays[ITEMS]
    if names.ndim != 1 or items.ndim not in (1, 2) or len(names) != len(items):
        raise PredictionsError(
            f"{path}: {NAMES} of shape {names.shape} and {ITEMS} of shape {items.shape} do not pair up"
        )
    for key, array in ((NAMES, names), (ITEMS, items)):
        if len(array) and array.dtype.kind not in "UO":
            raise PredictionsError(f"{path}: {key} must be text, found dtype {array.dtype}")
    return zip(_texts(names.tolist(), path), (_plain(item) for item in items.tolist()), strict=True)


def _json_pairs(path: Path) -> Iterable[tuple[str, Any]]:
    try:
        pairs = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=list)
    except OSError as error:
        raise PredictionsError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise PredictionsError(f"{path}: not JSON: {error}") from error
    if not isinstance(pairs, list) or not all(
        isinstance(pair, tuple) and isinstance(pair[0], str) for pair in pairs
    ):
        raise PredictionsError(f"{path}: expected one JSON object of clip name -> label list")
    return pairs


def _csv_pairs(path: Path) -> Iterable[tuple[str, Any]]:
    header = path.read_bytes()[:4096].decode("utf-8-sig", "replace").splitlines() if path.is_file() else []
    columns = [cell.strip(' "') for cell in header[0].split(",")] if header else []
    column = "sentiment" if "sentiment" in columns and "openset" not in columns else "openset"
    return [(name, item) for _, (name, item) in read_csv_rows(path, ("name", column))]


def _texts(names: Sequence[Any], path: Path) -> list[str]:
    wrong = [repr(name) for name in names if not isinstance(name, str)]
    if wrong:
        raise PredictionsError(f"{path}: a clip name must be text: {_some(wrong)}")
    return [str(name) for name in names]


def _plain(item: Any) -> Any:
    item = item.tolist() if isinstance(item, np.ndarray) else item
    return str(item) if isinstance(item, str) else item


def _is_labels(item: Any) -> bool:
    if isinstance(item, list):
        return all(isinstance(label, str) for label in item)
    return item is None or isinstance(item, str) or (isinstance(item, float) and item != item)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
