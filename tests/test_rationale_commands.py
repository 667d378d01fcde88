"""`omniopsd rationales`: what goes in comes out, figures are right, and every refusal says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from omniopsd.cli import main
from omniopsd.mer_mini.write import write_mer_mini
from omniopsd.rationales.show import bars, half_blocks
from omniopsd.report_media import waveform
from rationale_cache.keys import digest, imported_request, key_of
from rationale_cache.manifest import newest
from rationale_cache.reader import CacheReader
from tests.cache_scene import a_record, make_cache


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "cache", range(0, 10), range(10, 20), range(20, 23))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["rationales", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def write_rows(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_export_makes_the_same_cache_elsewhere(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    file = tmp_path / f"all.{ending}"
    assert run(capsys, "export", cache, file) == (0, f"{file}: 23 rows\n", "")
    code, out, _ = run(capsys, "import", tmp_path / "copy", file)
    assert code == 0 and "23 records added, 0 were there" in out
    with CacheReader(tmp_path / "copy") as copy:
        assert all(copy.get(a_record(number).key) == a_record(number) for number in range(23))
    assert "0 records added, 23 were there" in run(capsys, "import", tmp_path / "copy", file)[1]
    code, out, _ = run(capsys, "diff", cache, tmp_path / "copy")
    assert code == 0 and out == "23 records are the same, 0 are only in the first, 0 only in the second\n"
    code, _, err = run(capsys, "export", cache, file)
    assert code == 2 and "exists; choose another name" in err


def test_a_plain_export_is_a_column_for_other_programs(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plain.parquet"
    assert run(capsys, "export", cache, file, "--plain", "--dataset", "even")[0] == 0
    rows = pq.read_table(file).to_pylist()
    assert sorted(row["id"] for row in rows) == [f"clip-{number:04d}" for number in range(0, 23, 2)]
    assert rows[0]["rationale"] and rows[0].keys() == {"id", "dataset", "rationale"}
    plain = write_rows(
        tmp_path / "other.jsonl", {"id": "clip-0002", "dataset": "even", "rationale": "Another."}
    )
    run(capsys, "import", cache, plain, "--mode", "blind")
    code, _, err = run(capsys, "export", cache, tmp_path / "two.jsonl", "--plain")
    assert code == 2 and "'clip-0002'" in err and "narrow the export with --model or --mode" in err
    assert not list(tmp_path.glob("*two*"))
    assert (
        run(capsys, "export", cache, tmp_path / "one.jsonl", "--plain", "--model", "imported:other")[0] == 0
    )


def test_plain_rows_are_keyed_by_where_they_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "a", "dataset": "d", "rationale": "He smiles.", "labels": ["happy"], "messages": []},
        {"id": "b", "dataset": "d"},
        {"sample_id": "c", "text": "She sighs.", "labels": ["sad"], "model": "expert-2", "cues": [
            {"modality": "audio", "text": "a sigh", "start": 1, "end": 2}]},
    ]  # fmt: skip
    file = write_rows(tmp_path / "team.jsonl", *rows)
    code, out, _ = run(capsys, "import", tmp_path / "c", file, "--mode", "label_conditioned")
    assert code == 0 and "2 records added, 0 were there; 1 rows have no rationale" in out
    with CacheReader(tmp_path / "c") as cache:
        (record,) = cache.of_sample("c")
        assert record.key == key_of(imported_request("team", "", "c", "label_conditioned", ["sad"]))
        assert (record.text, record.model_answered, record.cues[0].end) == ("She sighs.", "expert-2", 2.0)
    changed = write_rows(tmp_path / "team.jsonl", {**rows[0], "rationale": "He frowns."})
    code, _, err = run(capsys, "import", tmp_path / "c", changed, "--mode", "label_conditioned")
    assert code == 2 and "a key never changes its content" in err
    code, _, _ = run(capsys, "import", tmp_path / "c", changed, "--mode", "blind", "--source", "team 2")
    assert code == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "rationale": "x"}, ":1: did the author see the label? give --mode"),
        ({"id": 7, "rationale": "x"}, ":1: id 7 of data set ''"),
        ({"id": "a", "rational": "x"}, ":1: unknown key 'rational'"),
        ({"id": "a", "rationale": ["x"]}, "1: "),
        (
            {"id": "a", "rationale": "x", "cues": [{"modality": "smell", "text": "x"}]},
            "cue of modality 'smell'",
        ),
        ({"key": "0" * 32, "made_at": "2026-01-01T00:00:00+00:00"}, "is missing"),
        ({"id": "a"}, "no row has a rationale"),
    ],
)
def test_a_file_with_a_fault_adds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict, message: str
) -> None:
    mode = [] if "--mode" in message else ["--mode", "blind"]
    code, _, err = run(capsys, "import", tmp_path / "c", write_rows(tmp_path / "x.jsonl", row), *mode)
    assert code == 2 and message in err and not (tmp_path / "c").exists()


def test_an_edited_export_is_refused(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "all.jsonl"
    run(capsys, "export", cache, file)
    file.write_text(file.read_text().replace("frontier-1", "frontier-2", 1))
    code, _, err = run(capsys, "import", tmp_path / "c", file)
    assert code == 2 and "is not the hash of its request" in err


def test_stats_count_what_there_is(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": name, "messages": [{"role": "user", "content": "?"}], "dataset": "even"}
            for name in ("clip-0000", "clip-0009", "new")]  # fmt: skip
    data = write_rows(tmp_path / "data.jsonl", *rows)
    config = tmp_path / "run.yaml"
    config.write_text(f"rationale_cache:\n  path: {cache}\ndata:\n  train: {data}\n")
    twins = write_rows(
        tmp_path / "t.jsonl", *({"id": f"twin-{n}", "rationale": "Same  TEXT"} for n in range(3))
    )
    run(capsys, "import", config, twins, "--mode", "blind")
    code, out, _ = run(capsys, "stats", config, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["coverage"] == {"even": {"samples": 3, "rationale": 1, "reason": 1, "missing": 1}}
    assert found["all"]["records"] == 26 and found["all"]["texts"] == 24
    assert found["all"]["cost"] == 0.23 and found["all"]["records_without_price"] == 3
    assert found["all"]["tokens"] == sum(1000 + number + 120 for number in range(23))
    assert found["counts"]["no rationale"] == {"refusal": 2}
    assert found["counts"]["model"] == {"frontier-1 answered as frontier-1-2026-05": 23, "imported:t": 3}
    groups: dict[str, int] = {}
    for number in range(23):
        if text := a_record(number).text:
            groups[digest(text)] = groups.get(digest(text), 0) + 1
    assert found["duplicates"]["records"] == 3 + sum(n for n in groups.values() if n > 1)
    code, out, _ = run(capsys, "stats", config)
    assert code == 0 and "33.3%" in out and "no rationale: refusal 2" in out and "unpriced" in out


def test_show_prints_and_draws_one_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_mer_mini(tmp_path / "data", clips=2, seed=0, looks="train")
    row = json.loads(data.read_text().splitlines()[0])
    file = write_rows(tmp_path / "x.jsonl", {"id": row["id"], "rationale": "He <b>smiles</b>."})
    cache = tmp_path / "c"
    run(capsys, "import", cache, file, "--mode", "blind")
    code, out, _ = run(capsys, "show", cache, row["id"], "--data", data)
    assert code == 0 and "He <b>smiles</b>." in out and row["videos"][0] in out and "blind" in out
    page = tmp_path / "page.html"
    assert run(capsys, "show", cache, row["id"], "--data", data, "--html", page)[0] == 0
    html = page.read_text()
    assert "He &lt;b&gt;smiles&lt;/b&gt;." in html and html.count("data:image/jpeg;base64,") >= 2
    code, _, err = run(capsys, "show", cache, "nobody")
    assert code == 2 and "no record of a sample 'nobody'" in err
    wave = waveform(data.parent / row["videos"][0])
    assert wave is None or len(bars(wave, 40)) == 40


def test_pictures_are_two_pixels_to_a_character() -> None:
    from PIL import Image

    image = Image.new("RGB", (8, 4), (255, 0, 0))
    image.paste((0, 0, 255), (0, 2, 8, 4))
    lines = half_blocks([image])
    middle = len(lines) // 2
    styles = [{span.style for span in line.spans} for line in lines]
    assert styles[0] == {"rgb(255,0,0) on rgb(255,0,0)"} and styles[-1] == {"rgb(0,0,255) on rgb(0,0,255)"}
    assert len(lines) == 12 and middle == 6 and len(lines[0].plain) == 49


def test_verify_tells_mends_and_is_not_silent_about_losses(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "verify", cache)
    assert code == 0 and "sound: snapshot 3, 23 records in 3 segments" in out
    names = [entry.name for entry in newest(cache).segments]
    (cache / "segments" / f"{names[0]}.rows").write_bytes(b"")
    code, _, err = run(capsys, "verify", cache, "--report-only")
    assert code == 2 and f"{names[0]}.rows: has 0 bytes" in err
    code, out, err = run(capsys, "verify", cache)
    assert code == 0 and "all of them were saved" in out and "nothing is lost: snapshot 4, 23 records" in out
    for file in (cache / "segments").glob(f"{names[1]}*"):
        file.write_bytes(b"")
    code, _, err = run(capsys, "verify", cache)
    assert code == 2 and "of 10 records 0 were saved, 10 are lost and will be asked for again" in err
    code, out, _ = run(capsys, "verify", cache)
    assert code == 0 and "13 records" in out


def test_diff_names_the_samples(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_cache(tmp_path / "other", range(5, 25))
    for path, text in ((cache, "One."), (other, "Two.")):
        file = write_rows(tmp_path / "x.jsonl", {"id": "s", "rationale": text})
        run(capsys, "import", path, file, "--mode", "blind", "--source", text)
    code, out, _ = run(capsys, "diff", cache, other, "--json")
    found = json.loads(out)
    assert code == 0 and (found["same"], found["only_first"], found["only_second"]) == (18, 6, 3)
    assert found["samples_with_another_text"] == [" / s"] and found["altered"] == []
    assert found["samples_only_second"] == ["odd / clip-0023", "even / clip-0024"][::-1]
    assert "1 samples whose texts differ:  / s" in run(capsys, "diff", cache, other)[1]


def test_compact_merges_and_a_wrong_path_does_not_become_a_cache(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "compact", cache)[1] == f"{cache}: 3 segments became 1, 23 records\n"
    for verb in ("compact", "verify", "stats"):
        code, _, err = run(capsys, verb, tmp_path / "no")
        assert code == 2 and "no rationale cache here" in err and not (tmp_path / "no").exists()
    config = tmp_path / "run.yaml"
    config.write_text("data:\n  train: x.jsonl\n")
    code, _, err = run(capsys, "verify", config)
    assert code == 2 and "rationale_cache.path is not set" in err
