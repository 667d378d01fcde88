"""`.npz` files, pickled ones too, without running code: the unpickler admits numpy arrays and plain values only.

Label files of the benchmark are pickles, and a pickle may call anything. Every name that a pickle asks for is
looked up in a short table of stand-ins of this module; a name outside of it is refused before anything is called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

MAX_BYTES = 1 << 30  # of one array, unpacked; the largest official file has 3 MB
PLAIN_KINDS = "?biufcSUO"


class NpzError(ValueError):
    """A file that is no readable npz, or whose pickle asks for something that is not data."""


class RefusedError(NpzError, pickle.UnpicklingError):
    """A pickle that asks for a name outside of the table."""


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a file. Raises NpzError; whatever a pickle asks for, nothing of it is called."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                member.filename.removesuffix(".npy"): _member(archive, member, path)
                for member in archive.infolist()
            }
    except OSError as error:
        raise NpzError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise NpzError(f"{path}: not an npz file: {' '.join(str(error).split())}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str | Path) -> np.ndarray:
    where = f"{path}: {member.filename}"
    if not member.filename.endswith(".npy"):
        raise NpzError(f"{where}: an npz file holds .npy members only")
    if member.file_size > MAX_BYTES:
        raise NpzError(f"{where}: {member.file_size} bytes unpacked, more than {MAX_BYTES} are refused")
    try:
        return read_npy(archive.read(member))
    except RefusedError as error:
        raise NpzError(f"{where}: {error}") from None
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # a pickle of data can still be broken in any way
        text = " ".join(str(error).split()) or type(error).__name__
        raise NpzError(f"{where}: broken: {text}") from error


def read_npy(content: bytes) -> np.ndarray:
    """One `.npy` content; an object array goes through the restricted unpickler. Raises ValueError and others."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy format {version[0]}.{version[1]} is not known")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        array = _Unpickler(file, encoding="latin1").load()
        if not isinstance(array, np.ndarray):
            raise ValueError(f"expected a pickled array, found {type(array).__name__}")
        return np.array(array, copy=True, subok=False).reshape(shape)
    if dtype.kind not in PLAIN_KINDS:
        raise ValueError(f"arrays of {dtype} are not data of this benchmark")
    return npy.read_array(io.BytesIO(content), allow_pickle=False)


class _StandIn:
    """What a pickle gets for an admitted name: a call of ours, without attributes that it could replace."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        raise ValueError("the pickle calls what is no constructor")


class _NdarrayType(_StandIn):
    """`numpy.ndarray`, as an argument only."""

    __slots__ = ()


class _PickledDtype:
    """A `numpy.dtype` that takes byte order and width from a pickle, and no flags, fields or subarrays.

    numpy's own `__setstate__` believes flags such as "holds object pointers", which raw bytes could then forge.
    """

    __slots__ = ("dtype",)

    def __init__(self, text: Any) -> None:
        dtype = np.dtype(text) if isinstance(text, str) else None
        if dtype is None or dtype.kind not in PLAIN_KINDS:
            raise ValueError(f"arrays of {text!r} are not data of this benchmark")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        _, order, *structure, width, _, _ = state[:8]
        if any(part is not None for part in structure) or order not in ("<", ">", "|", "="):
            raise ValueError("the pickle describes an array that is not plain")
        if self.dtype.kind in "SU" and isinstance(width, int):
            per_letter = 4 if self.dtype.kind == "U" else 1
            self.dtype = np.dtype(f"{self.dtype.kind}{width // per_letter}")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _PickledArray(np.ndarray):
    """An array whose state may name such a dtype only."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, _real(dtype), fortran, data))


class _Reconstruct(_StandIn):
    """`numpy...multiarray._reconstruct`: an empty array, filled by the state that follows."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        if not arguments or not isinstance(arguments[0], _NdarrayType):
            raise ValueError("the pickle builds an array of another type than numpy.ndarray")
        return _PickledArray((0,), dtype="b")


class _Dtype(_StandIn):
    """`numpy.dtype` of a plain kind."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        return _PickledDtype(arguments[0])


class _Scalar(_StandIn):
    """`numpy...multiarray.scalar`: one number or text from its bytes."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        dtype, content = _real(arguments[0]), arguments[1]
        if dtype.hasobject:
            raise ValueError("the pickle builds a scalar of no plain kind")
        if isinstance(content, str):  # the bytes of a Python 2 pickle
            content = content.encode("latin1")
        return np.frombuffer(content, dtype=dtype, count=1)[0]


class _FromBuffer(_StandIn):
    """`numpy...numeric._frombuffer`: an array of plain kind from its bytes (pickle protocol 5)."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        content, dtype, shape, order = arguments
        return np.frombuffer(content, dtype=_real(dtype)).reshape(shape, order=order)


class _Encode(_StandIn):
    """`_codecs.encode` of bytes in pickle protocols below 3."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        text, codec = arguments
        if not isinstance(text, str) or codec != "latin1":
            raise ValueError("the pickle encodes text in another way than its own")
        return text.encode("latin1")


def _real(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, _PickledDtype):
        raise ValueError("the pickle gives an array no numpy.dtype")
    return dtype.dtype


def _plain(kind: Callable[..., Any]) -> Any:
    class Plain(_StandIn):
        __slots__ = ()

        def __call__(self, *arguments: Any) -> Any:
            return kind(*arguments)

    return Plain()


_NUMPY = {
    ("multiarray", "_reconstruct"): _Reconstruct(),
    ("multiarray", "scalar"): _Scalar(),
    ("numeric", "_frombuffer"): _FromBuffer(),
}
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NdarrayType(),
    ("numpy", "dtype"): _Dtype(),
    ("_codecs", "encode"): _Encode(),
    **{
        (f"numpy.{core}.{module}", name): made
        for core in ("core", "_core")
        for (module, name), made in _NUMPY.items()
    },
    **{
        (module, kind.__name__): _plain(kind)
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, complex, bytearray)
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise RefusedError(
                f"the pickle asks for {module}.{name}; only numpy arrays and plain values are read, nothing was run"
            )
        return ADMITTED[module, name]
