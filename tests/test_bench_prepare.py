"""Preparing copies of the sets: what is written, and that every fault of every set is told at once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from omniopsd.bench.datasets import NINE, bench_set
from omniopsd.bench.prepare import PrepareError
from omniopsd.bench.prepared import PreparedError, read_prepared
from omniopsd.bench.questions import QuestionError, read_question
from omniopsd.bench.splits import SplitError
from omniopsd.bench.words import WordsError
from omniopsd.mer_mini.bench_sets import write_mini_bench
from omniopsd.mer_mini.write import MerMiniError
from omniopsd.samples import read_samples
from tests.bench_scene import CLIPS, VAL_CLIPS, mini_root, prepared_mini


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_root(tmp_path_factory.mktemp("mini"))


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """A copy whose files a test may spoil."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def faults_of(root: Path, out: Path, **changes: object) -> list[str]:
    with pytest.raises(PrepareError) as error:
        prepared_mini(root, out, **changes)
    told = str(error.value).splitlines()[1:]
    assert told == (out / "problems.txt").read_text().splitlines()
    assert not (out / "bench.json").exists()
    return told


def test_all_nine_sets_are_prepared_in_the_sample_form(root: Path, tmp_path: Path) -> None:
    prepared = prepared_mini(root, tmp_path / "out")
    assert [one.bench_set.name for one in prepared.sets] == [one.name for one in NINE]
    for one in prepared.sets:
        samples = read_samples(tmp_path / "out" / one.bench_set.name / "samples.jsonl")
        assert len(samples) == len(one.gold) == CLIPS
        assert all(sample.labels and sample.dataset == one.bench_set.name for sample in samples)
        source = root / one.bench_set.layout.folder / one.bench_set.layout.audio
        media = tmp_path / "out" / one.bench_set.name / "media"
        for file in source.iterdir():
            if (media / file.name).exists():
                assert os.path.samefile(file, media / file.name)  # a hard link, no second copy
    moods = {label for sample in prepared.sets[4].samples for label in sample.labels}
    assert moods <= {"positive", "negative", "neutral"}
    names = list(prepared.sets[3].gold)
    assert all(name[4] == "5" for name in names)  # session 5


def test_the_same_arguments_give_the_same_sets(tmp_path: Path) -> None:
    first, again = (write_mini_bench(tmp_path / name, 1, 1, 7) for name in ("first", "again"))
    files = [
        path.relative_to(first)
        for path in sorted(first.rglob("*"))
        if path.suffix in (".csv", ".wav", ".jsonl")
    ]
    assert files and all((first / file).read_bytes() == (again / file).read_bytes() for file in files)
    with pytest.raises(MerMiniError, match="not empty, and holds"):
        write_mini_bench(again, 1, 1, 8)


def test_a_second_run_decodes_only_what_changed(broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared_mini(broken, out)
    before = (out / "checked.jsonl").read_text().splitlines()
    sound = next((broken / "sims-process" / "audio").iterdir())
    os.utime(sound, ns=(1, 1))
    prepared_mini(broken, out)
    after = (out / "checked.jsonl").read_text().splitlines()
    assert after[: len(before)] == before and [json.loads(line)["clip"] for line in after[len(before) :]] == [
        f"SIMS/{sound.stem}"
    ]


def test_validation_clips_are_others_than_the_test_clips(root: Path, tmp_path: Path) -> None:
    test = prepared_mini(root, tmp_path / "test")
    val = prepared_mini(root, tmp_path / "val", split="val")
    assert [one.bench_set.name for one in val.sets] == ["MELD", "IEMOCAP", "MOSI", "MOSEI", "SIMS", "SIMSv2"]
    tested = {(one.bench_set.name, name) for one in test.sets for name in one.gold}
    assert all(len(one.gold) == VAL_CLIPS for one in val.sets)
    assert not tested & {(one.bench_set.name, name) for one in val.sets for name in one.gold}
    with pytest.raises(SplitError, match="OVMERDPlus.* no validation part"):
        prepared_mini(root, tmp_path / "x", split="val", sets=["OV-MERD+"])


def test_every_fault_of_every_set_is_told_at_once(broken: Path, tmp_path: Path) -> None:
    shutil.rmtree(broken / "meld-process")
    (broken / "cmumosi-process" / "label.npz").unlink()
    (broken / "sims-process" / "subvideo").mkdir()
    shutil.rmtree(broken / "sims-process" / "video")
    video = sorted((broken / "simsv2-process" / "video_new").iterdir())
    video[0].write_bytes(video[0].read_bytes()[:2000])
    video[1].unlink()
    text = broken / "mer2023-dataset-process" / "transcription-engchi-polish.csv"
    lines = text.read_text().splitlines()
    text.write_text("\n".join([*lines[:-1], lines[1]]) + "\n")
    (broken / "ovmerdplus-process" / "subtitle_eng.csv").write_text("name,text\na,b\n")
    told = "\n".join(faults_of(broken, tmp_path / "out"))
    for part in (
        f"MELD: no folder {broken}/meld-process",
        "MOSI: no label file",
        f"SIMS: no folder {broken}/sims-process/video",
        f"clip {video[0].stem}: video",
        f"SIMSv2: clip {video[1].stem}: no file",
        f"MER2023: {text}: no row for clip {lines[-1].split(',')[0]}",
        f"MER2023: {text}:{len(lines)}: clip {lines[1].split(',')[0]} has a row already",
        "OVMERDPlus: "
        + str(broken / "ovmerdplus-process" / "subtitle_eng.csv")
        + " has the columns ['name', 'text']",
    ):
        assert part in told, part


def test_clips_without_media_can_be_left_out_and_are_remembered(broken: Path, tmp_path: Path) -> None:
    videos = sorted((broken / "iemocap-process" / "subvideo-tgt").glob("Ses05*"))
    videos[0].write_bytes(b"")
    prepared = prepared_mini(broken, tmp_path / "out", allow_broken=True, sets=["iemocap"])
    (one,) = prepared.sets
    assert one.broken == (videos[0].stem,) and len(one.samples) == CLIPS - 1 and len(one.gold) == CLIPS
    assert one.first(1).broken == (videos[0].stem,) or len(one.first(1).samples) == 1


def test_labels_out_of_range_and_pickles_that_run_code(broken: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.system, (f"touch {tmp_path}/ran",)

    bombs = np.array({"a": Bomb()}, dtype=object)
    np.savez(broken / "mer2024-dataset-process" / "label-6way.npz", test1_corpus=bombs)
    wild = np.array({"video_0000_0000": {"emo": 0, "val": 7.0}}, dtype=object)
    np.savez(broken / "sims-process" / "label.npz", test_corpus=wild)
    told = "\n".join(faults_of(broken, tmp_path / "out", sets=["mer2024", "sims"]))
    assert "MER2024: " in told and "SIMS: " in told and "7.0 is outside of [-1, 1]" in told
    assert not (tmp_path / "ran").exists()


def test_a_prepared_folder_that_was_changed_is_refused(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared_mini(root, out, sets=["sims"])
    with pytest.raises(PreparedError, match="holds mer-mini, not mer-unibench"):
        read_prepared(out, "mer-unibench")
    with pytest.raises(PreparedError, match="holds SIMS, not MELD"):
        read_prepared(out, "mer-mini", ["meld"])
    (out / "SIMS" / "gold.json").write_text("{}")
    with pytest.raises(PreparedError, match="changed since it was prepared"):
        read_prepared(out, "mer-mini")
    with pytest.raises(PreparedError, match="run `omniopsd bench prepare`"):
        read_prepared(tmp_path, "mer-mini")


def test_a_wheel_folder_is_checked_when_it_is_given(root: Path, tmp_path: Path) -> None:
    with pytest.raises(WordsError):
        prepared_mini(root, tmp_path / "out", wheel=str(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("user: 'hello'", "shows nothing of the clip"),
        ("user: '<video><video>{subtitle}'", "each at most once"),
        ("user: '{subtitle}{subtitle}'", "2 times"),
        ("user: '<audio>'\nsytem: x", "write the keys user"),
        ("user: ''", "not empty"),
    ],
)
def test_bad_questions(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text(text)
    with pytest.raises(QuestionError, match=told):
        read_question(tmp_path / "q.yaml")


def test_a_question_of_ones_own_decides_the_inputs(root: Path, tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text("user: '<audio>Said: {subtitle}. Feels?'\nsystem: Be brief.\n")
    prepared = prepared_mini(root, tmp_path / "out", sets=["sims"], question=str(tmp_path / "q.yaml"))
    sample = prepared.sets[0].samples[0]
    assert sample.inputs.paths.videos == () and len(sample.inputs.paths.audios) == 1
    assert [message.role for message in sample.inputs.messages] == ["system", "user"]
    assert bench_set("sims").name == sample.dataset
