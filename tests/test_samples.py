from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from omniopsd.samples import Sample, SampleError, SampleInputs, read_samples

FULL: dict[str, Any] = {
    "id": "clip-1",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<video><image>What?"},
    ],
    "videos": ["clips/a.mp4"],
    "images": ["clips/a.png"],
    "audio_in_video": True,
    "labels": ["happy", "proud"],
    "rationale": "He smiles.",
    "dataset": "mini/one",
}
PLAIN: dict[str, Any] = {"id": "clip-2", "messages": [{"role": "user", "content": "What?"}]}


def write(path: Path, *rows: object) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(SampleError) as error:
        read_samples(path)
    head, *lines = str(error.value).split("\n")
    assert head.startswith(f"{path}: ")
    return lines


@pytest.mark.parametrize("name", ["d.jsonl", "d.parquet"])
def test_rows_become_samples(tmp_path: Path, name: str) -> None:
    full, plain = read_samples(write(tmp_path / name, FULL, PLAIN))
    assert full.sample_id == full.inputs.sample_id == "clip-1"
    assert full.inputs.paths.videos == ("clips/a.mp4",) and full.inputs.paths.images == ("clips/a.png",)
    assert full.inputs.paths.audios == () and full.inputs.paths.root == str(tmp_path)
    assert full.inputs.audio_in_video is True
    assert (full.labels, full.rationale, full.dataset) == (("happy", "proud"), "He smiles.", "mini/one")
    assert (plain.labels, plain.rationale, plain.dataset) == ((), None, "")
    assert full.where == f"{tmp_path / name}:" + ("1" if name == "d.jsonl" else "row 1")
    assert [m.role for m in full.inputs.messages] == ["system", "user"]


def test_what_the_student_gets_has_no_privileged_field(tmp_path: Path) -> None:
    assert {field.name for field in dataclasses.fields(SampleInputs)} == {
        "sample_id",
        "messages",
        "paths",
        "audio_in_video",
    }
    row = {**FULL, "labels": ["SENTINEL"], "rationale": "SENTINEL", "dataset": "SENTINEL"}
    (sample,) = read_samples(write(tmp_path / "d.jsonl", row))
    assert "SENTINEL" in repr(sample) and "SENTINEL" not in repr(sample.inputs)
    assert isinstance(sample, Sample)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"vidoes": []}, "unknown key 'vidoes'; did you mean 'videos'?"),
        ({"zzz": 1}, "unknown key 'zzz'; use one of id, messages"),
        ({"id": None}, "id is None"),
        ({"id": 7}, "id is 7"),
        ({"id": " "}, "id is ' '"),
        ({"messages": None}, "messages is missing"),
        ({"messages": []}, "messages is []"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0]: content is ''"),
        (
            {"messages": [*FULL["messages"], {"role": "assistant", "content": "x"}]},
            "the last message is from the assistant",
        ),
        ({"videos": []}, "1 <video> and videos lists 0"),
        ({"images": ["a.png", "b.png"]}, "1 <image> and images lists 2"),
        ({"audios": ["a.wav"]}, "0 <audio> and audios lists 1"),
        ({"videos": "clips/a.mp4"}, "videos is 'clips/a.mp4'; write a list"),
        ({"videos": ["/a.mp4"]}, "video '/a.mp4' is absolute"),
        ({"videos": ["../a.mp4"]}, "video '../a.mp4' leads out"),
        ({"videos": ["https://x/a.mp4"]}, "video 'https://x/a.mp4' is an address"),
        ({"audio_in_video": "yes"}, "audio_in_video is 'yes'"),
        ({"labels": "happy"}, "labels is 'happy'"),
        ({"labels": [1]}, "labels is [1]"),
        ({"rationale": ""}, "rationale is ''"),
        ({"rationale": {"a": 1}}, "rationale is {'a': 1}"),
        ({"dataset": 3}, "dataset is 3"),
        (
            {"messages": [{"role": "user", "content": "<video><audio><image>"}], "audios": ["a.wav"]},
            "audio_in_video does not go with <audio>",
        ),
        (
            {"messages": [{"role": "user", "content": "<image>"}], "videos": []},
            "audio_in_video needs a <video>",
        ),
    ],
)
def test_each_fault_names_its_line(tmp_path: Path, change: dict[str, Any], found: str) -> None:
    path = write(tmp_path / "d.jsonl", PLAIN, {**FULL, **change})
    (line,) = faults(path)
    assert line.startswith(f"  {path}:2: ") and found in line


def test_duplicate_ids_name_both_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", PLAIN, "", PLAIN)
    assert faults(path) == [f"  {path}:3: id 'clip-2' is already that of {path}:1; give each row its own"]


@pytest.mark.parametrize("line", ['{"id": ', "[1]", "null", '"x"', "{'id': 1}", "[" * 100_000])
def test_broken_lines(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "d.jsonl", PLAIN, line)
    (fault,) = faults(path)
    assert fault.startswith(f"  {path}:2: ")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n')
    assert "not UTF-8 at byte 8" in faults(path)[0]


def test_all_faults_come_at_once_up_to_twenty(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", *[{**PLAIN, "id": f"r{i}", "x": 1, "y": 2} for i in range(12)])
    with pytest.raises(SampleError, match="24 faults, the first 20:") as error:
        read_samples(path)
    assert len(str(error.value).split("\n")) == 21


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "d.jsonl").write_text(content)
    assert "has no rows" in faults(tmp_path / "d.jsonl")[0]


@pytest.mark.parametrize(
    ("name", "found"),
    [("none.jsonl", "no such file"), ("d.csv", "ending '.csv'"), ("bad.parquet", "not a Parquet file")],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, found: str) -> None:
    for other in ("d.csv", "bad.parquet"):
        (tmp_path / other).write_text("x")
    with pytest.raises(SampleError, match=found):
        read_samples(tmp_path / name)


def test_parquet_faults_name_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "d.parquet", {**PLAIN, "extra": "x"}, {**PLAIN, "id": "clip-3", "extra": None})
    (line,) = faults(path)
    assert line.startswith(f"  {path}:row 1: unknown key 'extra'")
