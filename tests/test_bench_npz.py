"""Pickled npz files: data comes through as numpy reads it, and nothing else is ever run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniopsd.bench.npz import NpzError, read_npy, read_npz
from tests.bench_files import SHARED, needs_shared

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
CLIPS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.fixed_dictionaries(
        {
            "emo": st.integers(-10, 7) | st.text(max_size=5) | st.integers(0, 6).map(np.int64),
            "val": st.floats(-3, 3)
            | st.floats(-3, 3).map(np.float64)
            | st.floats(-3, 3, width=32).map(np.float32),
        }
    ),
    max_size=6,
)


def npy(pickled: bytes, shape: str = "()") -> bytes:
    """An object array's file with any pickle in it."""
    head = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + pickled


def write_npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


class Payload:
    """Makes a folder when a pickle of it is loaded by the ordinary unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@given(CLIPS, st.sampled_from(PROTOCOLS))
def test_clips_come_back_as_numpy_reads_them(clips: dict, protocol: int):
    content = npy(pickle.dumps(np.array(clips, dtype=object), protocol=protocol))
    found, expected = read_npy(content), np.load(io.BytesIO(content), allow_pickle=True)
    assert found.shape == expected.shape == () and type(found) is np.ndarray
    assert found.item() == expected.item() == clips
    for name, clip in clips.items():
        assert {key: type(value) for key, value in found.item()[name].items()} == {
            key: type(value) for key, value in clip.items()
        }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_inside_of_a_pickle_come_back(protocol: int):
    inner = {
        "float": np.arange(6.0).reshape(2, 3),
        "big-endian": np.arange(3, dtype=">i4"),
        "text": np.array(["a", "\u6b63\u9762"]),
        "bytes": np.array([b"ab", b"c"]),
        "objects": np.array([{"emo": 1}, None, [1, "x"]], dtype=object),
        "plain": [b"\xff", {1, 2}, 1j, True, None, (1, 2)],
        "scalars": [np.bool_(True), np.str_("x"), np.float32(0.5)],
    }
    pickled = pickle.dumps(np.array(inner, dtype=object), protocol=protocol)
    found, expected = read_npy(npy(pickled)).item(), pickle.loads(pickled).item()
    for key in ("float", "big-endian", "text", "bytes", "objects"):
        assert found[key].dtype == expected[key].dtype and found[key].tolist() == inner[key].tolist()
    assert found["plain"] == inner["plain"] and found["scalars"] == inner["scalars"]


def test_files_that_numpy_writes_are_read(tmp_path: Path):
    path = tmp_path / "a.npz"
    corpus = np.array({"clip": {"emo": 0, "val": -0.2}}, dtype=object)
    np.savez_compressed(path, test_corpus=corpus, filenames=np.array(["x", "yy"]), grid=np.eye(2))
    found = read_npz(path)
    assert found["test_corpus"].item() == corpus.item()
    assert found["filenames"].tolist() == ["x", "yy"] and found["grid"].tolist() == np.eye(2).tolist()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_payload_is_refused_by_name_and_never_run(tmp_path: Path, protocol: int):
    owned = tmp_path / "owned"
    corpus = np.array({"clip": {"emo": Payload(owned)}}, dtype=object)
    path = write_npz(tmp_path / "a.npz", test_corpus=npy(pickle.dumps(corpus, protocol=protocol)))
    with pytest.raises(
        NpzError, match=r"a\.npz: test_corpus\.npy: the pickle asks for (posix|nt)\.mkdir; only"
    ):
        read_npz(path)
    assert not owned.exists()
    np.load(path, allow_pickle=True)["test_corpus"]  # the ordinary reader does run it
    assert owned.exists()


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict(a=1),
        Path("x"),
        np.float64,
        os.path,
        np.datetime64("2020-01-01"),
        np.arange,
        Exception("x"),
    ],
    ids=repr,
)
def test_what_is_no_plain_value_is_refused(value: Any):
    try:
        pickled = pickle.dumps(np.array([value, None], dtype=object))
    except TypeError:  # a module cannot be pickled: the text of one that asks for it
        pickled = b"cos\npath\n."
    with pytest.raises(Exception, match="asks for|not data"):
        read_npy(npy(pickled, "(2,)"))


@pytest.mark.parametrize(
    "text",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"c__builtin__\nexec\n.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"(S'x'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    ],
)
def test_every_way_to_ask_for_a_name_is_refused(text: bytes):
    with pytest.raises(NpzError, match="the pickle asks for"):
        read_npy(npy(text))


def test_a_forged_dtype_cannot_make_pointers_of_bytes():
    """Flags of a dtype's state say that its items are Python objects; numpy would follow them."""
    dtype = b"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI8\nI8\nI63\ntb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt" + dtype
    content = npy(array + b"I00\nS'AAAAAAAA'\ntb.", "(1,)")
    found = read_npy(content)
    assert found.dtype == np.dtype("<i8") and found.tolist() == [int.from_bytes(b"A" * 8, "little")]


@pytest.mark.parametrize("structure", ["(S'i4'\n(I2\nttNN", "N(S'a'\nt}"], ids=["subarray", "fields"])
def test_a_dtype_of_parts_is_refused(structure: str):
    text = f"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\n{structure}I8\nI8\nI0\ntb."
    with pytest.raises(ValueError, match="an array that is not plain"):
        read_npy(npy(text.encode()))


@pytest.mark.parametrize("kind", ["O8", "V8", "M8[s]", "i4,i4"])
def test_a_dtype_that_is_not_plain_is_refused_in_bytes(kind: str):
    text = f"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'{kind}'\nI0\nI1\ntRS'AAAAAAAA'\ntR."
    with pytest.raises(ValueError, match="no plain kind|not data"):
        read_npy(npy(text.encode()))


def test_a_stand_in_cannot_be_changed_by_a_pickle():
    content = npy(b"cnumpy\ndtype\n}S'__call__'\nI1\nsb.")
    with pytest.raises(Exception, match=r"object has no attribute|__dict__"):
        read_npy(content)


@pytest.mark.parametrize("cut", [0.0, 0.2, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_an_error_with_its_name(tmp_path: Path, cut: float):
    path = tmp_path / "a.npz"
    np.savez(path, test_corpus=np.array({"clip": {"emo": 0}}, dtype=object))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(NpzError, match=r"a\.npz"):
        read_npz(path)


@given(st.floats(0, 1))
def test_a_member_cut_short_is_an_error(cut: float):
    content = npy(
        pickle.dumps(np.array({"clip": {"emo": 0, "val": np.float64(1)}}, dtype=object), protocol=3)
    )
    with pytest.raises(Exception):  # noqa: B017
        read_npy(content[: int((len(content) - 1) * cut)])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a": b"not an array"}, "a.npy: broken"),
        ({"a": npy(pickle.dumps([1]))}, "expected a pickled array, found list"),
        ({"a": npy(pickle.dumps(np.array([1, None])), "(3,)")}, "cannot reshape"),
        ({"a": b"\x93NUMPY\x03\x00" + bytes(60)}, "npy format 3.0 is not known"),
    ],
)
def test_a_broken_member_is_named(tmp_path: Path, members: dict[str, bytes], message: str):
    with pytest.raises(NpzError, match=message):
        read_npz(write_npz(tmp_path / "a.npz", **members))


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(b"text")
    with pytest.raises(NpzError, match="not an npz file"):
        read_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(NpzError, match=r"readme.txt: an npz file holds \.npy members only"):
        read_npz(tmp_path / "b.npz")
    with pytest.raises(NpzError, match="cannot be read: no such file"):
        read_npz(tmp_path / "c.npz")


def test_a_member_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("omniopsd.bench.npz.MAX_BYTES", 100)
    with pytest.raises(NpzError, match="unpacked, more than 100 are refused"):
        read_npz(write_npz(tmp_path / "a.npz", a=npy(bytes(200))))


@needs_shared
@pytest.mark.parametrize("name", ["mer2023/label-6way.npz", "sims/label.npz"])
def test_official_files_come_back_as_numpy_reads_them(name: str):
    path = SHARED / "released" / name
    found, expected = read_npz(path), np.load(path, allow_pickle=True)
    assert found.keys() == set(expected.files)
    assert all(found[key].item() == expected[key].item() for key in found)
