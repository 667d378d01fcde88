"""The score of a set: from files, on the command line, and what is told beside the number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniopsd.bench.datasets import bench_set
from omniopsd.bench.metrics import HitRate
from omniopsd.bench.own_words import own_sources, own_table
from omniopsd.bench.score import ScoreError, score_set
from omniopsd.bench.score_files import score_files, score_lines
from omniopsd.bench.words import OFFICIAL
from omniopsd.cli import main
from tests.bench_files import SHARED, needs_shared, write_labels, write_openset, write_wheel_folder

MER = {"a": "happy", "b": "sad", "c": "neutral", "d": "worried"}
VALUES = {"a": 0.6, "b": -0.4, "c": 0.0, "d": -1.0}


def mer_files(tmp_path: Path, predictions: dict[str, Any]) -> dict[str, Any]:
    corpus = {name: {"emo": label, "val": -10} for name, label in MER.items()}
    labels = write_labels(tmp_path / "label-6way.npz", test1_corpus=corpus)
    openset = write_openset(tmp_path / "c-openset.npz", list(predictions), list(predictions.values()))
    return {"labels": labels, "predictions": openset}


def sims_files(tmp_path: Path, words: dict[str, str]) -> dict[str, Any]:
    corpus = {name: {"emo": 0, "val": np.float64(value)} for name, value in VALUES.items()}
    write_openset(tmp_path / "c-openset-sentiment.npz", list(words), list(words.values()))
    return {
        "labels": write_labels(tmp_path / "label.npz", test_corpus=corpus),
        "predictions": write_openset(tmp_path / "c-openset.npz", list(VALUES), ["[glad, qux]"] * 3 + ["[]"]),
    }


def test_a_basic_set_is_scored_from_its_files(tmp_path: Path):
    files = mer_files(tmp_path, {"d": "[fear]", "c": "[]", "b": "[sad, happy]", "a": "[Glad, qux, qux]"})
    score = score_files("mer2023", **files, wheel_version="own")
    assert score.value == score.safe == 1 and score.clips == 4 and score.official_clips == 411
    assert isinstance(score.detail, HitRate) and [w.kept for w in score.detail.wheels] == [3] * 5
    assert score.detail.mscore == pytest.approx((1 + 0.5 + 1) / 3)
    assert score.habits is not None and score.habits.labels_per_clip == 6 / 4
    assert score.habits.empty_rate == 1 / 4 and score.habits.unknown_label_rate == 2 / 6
    assert score.table_version == "own" and score.table_sha256 == own_table().sha256


def test_a_fine_grained_set_is_scored_from_its_files(tmp_path: Path):
    (tmp_path / "ovlabel.csv").write_text('name,openset\na,"[happy, sad]"\nb,\n')
    (tmp_path / "p.json").write_text('{"a": ["happy"], "b": ["angry"]}')
    score = score_files(
        "ov-merd+", labels=tmp_path / "ovlabel.csv", predictions=tmp_path / "p.json", wheel_version="own"
    )
    assert score.value == pytest.approx(2 / 3)


def test_a_sentiment_set_takes_the_polarities_beside_the_lists(tmp_path: Path):
    files = sims_files(tmp_path, {"a": "positive", "b": "neutral", "c": "positive", "d": "positive"})
    score = score_files("sims", **files)
    assert score.value == pytest.approx(2 / 3)  # each class: one of its two claims or clips right
    assert score.habits is not None and score.habits.unknown_label_rate is None
    assert score.habits.labels_per_clip == 6 / 4 and score.table_sha256 is None
    moved = tmp_path / "polarities.npz"
    (tmp_path / "c-openset-sentiment.npz").rename(moved)
    with pytest.raises(
        ScoreError, match="no c-openset-sentiment.npz beside the predictions; give the file with"
    ):
        score_files("sims", **files)
    assert score_files("sims", **files, sentiment=moved).value == score.value
    only = score_files("sims", labels=files["labels"], predictions=moved, sentiment=moved)
    assert only.value == score.value and only.habits is None


def test_missing_clips_are_listed_and_refused(tmp_path: Path):
    files = mer_files(tmp_path, {"b": "[sad]"})
    with pytest.raises(
        ScoreError, match="MER2023: 3 of 4 clips have no prediction; .* --allow-missing: a, c, d$"
    ):
        score_files("mer2023", **files, wheel_version="own")
    score = score_files("mer2023", **files, wheel_version="own", allow_missing=True)
    assert score.value == pytest.approx(1 / 3) and score.missing == ("a", "c", "d")
    assert "3 clips without prediction, counted as wrong: a, c, d" in "\n".join(score_lines(score))


def test_a_missing_polarity_is_wrong_on_either_side():
    """Saying nothing would be right for a negative clip, so the missing one is given the wrong side."""
    gold, said = dict(VALUES), {"c": "positive"}
    score = score_set(bench_set("sims"), gold, None, sentiment=said, allow_missing=True)
    assert score.value == 0 and score.detail.acc == 0 and score.missing == ("a", "b", "d")
    with pytest.raises(ScoreError, match="CH-SIMS: 3 of 4 clips have no polarity"):
        score_set(bench_set("sims"), gold, None, sentiment=said)


def test_unknown_clips_are_refused_even_with_allow_missing(tmp_path: Path):
    files = mer_files(tmp_path, {**MER, "zz": "[sad]"})
    with pytest.raises(
        ScoreError, match="MER2023: 1 of the prediction names are no clip of the label file: zz"
    ):
        score_files("mer2023", **files, wheel_version="own", allow_missing=True)


def test_a_lone_bracket_is_told_and_counted_as_empty(tmp_path: Path):
    files = mer_files(tmp_path, {**MER, "a": "["})
    score = score_files("mer2023", **files, wheel_version="own")
    assert score.unreadable == ("a",) and score.value == pytest.approx(2 / 3)
    assert 'a lone "[", where the official code stops; counted as empty: a' in "\n".join(score_lines(score))


def test_the_official_nan_is_told_and_ours_stands_beside_it():
    score = score_set(bench_set("ov+"), {"a": "sad"}, {"a": "[]"}, table=own_table())
    assert math.isnan(score.value) and score.safe == 0
    found = score.as_json()
    assert found["score"] is None and found["safe_score"] == 0 and found["official_nan"] is True
    assert found["detail"]["wheels"][0]["f"] is None and json.dumps(found, allow_nan=False)
    assert "the official code gives NaN here; with 0 for every such wheel: 0.0000" in "\n".join(
        score_lines(score)
    )


def test_sanity_rows():
    """Oracle 100, empty 0; four labels for every clip win on hit rate and lose on EW-F1."""
    words = ["happy", "sad", "angry", "worried", "neutral"]
    gold = {str(at): word for at, word in enumerate(words * 4)}
    mer, ov, table = bench_set("mer2023"), bench_set("ov+"), own_table()
    for one in (mer, ov):
        assert score_set(one, gold, gold, table=table).value == 1
        assert score_set(one, gold, dict.fromkeys(gold, "[]"), table=table).safe == 0
        assert score_set(one, gold, dict.fromkeys(gold, "happy"), table=table).safe <= 0.4
    shotgun = dict.fromkeys(gold, "[happy, sad, angry, worried]")
    assert score_set(mer, gold, shotgun, table=table).value == 1
    assert score_set(ov, gold, shotgun, table=table).value == pytest.approx(0.4)


def run(*arguments: object) -> int:
    return main(["bench", "score", *map(str, arguments)])


def as_arguments(files: dict[str, Any]) -> list[object]:
    return [part for key, path in files.items() for part in (f"--{key}", path)]


def test_the_command_prints_the_score_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = mer_files(tmp_path, {**MER, "b": "[happy]"})
    out = tmp_path / "score.json"
    code = run("--dataset", "MER-MULTI", *as_arguments(files), "--wheel-version", "own", "--out", out)
    text = capsys.readouterr().out
    assert code == 0 and text.startswith("MER2023: hit rate 66.6667\n")
    assert "4 clips; the official set has 411" in text and "not a MER-UniBench score" in text
    assert json.loads(out.read_text())["score"] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--dataset", "merd"], "'merd' is not a set of MER-UniBench"),
        (["--wheel-version", "affectgpt"], "give the official emotion_wheel folder with --wheel"),
        (["--wheel", "w"], "the word table own is built in; leave --wheel out"),
        (["--wheel-version", "x"], "'x' is no word table"),
        (["--sentiment", "s.npz"], "scored on its label lists; leave --sentiment out"),
        (["--labels", "none.npz"], "none.npz: cannot be read: no such file or directory"),
        (["--out", "nowhere/score.json"], "--out nowhere/score.json: no such folder: nowhere"),
        (["--predictions", "none.npz"], "none.npz: cannot be read: no such file or directory"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: list[str], message: str
):
    files = as_arguments(mer_files(tmp_path, MER))
    code = run("--dataset", "mer2023", *files, "--wheel-version", "own", *changed)
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1


def test_a_wheel_folder_of_another_version_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = write_wheel_folder(tmp_path / "wheel", own_sources())
    files = as_arguments(mer_files(tmp_path, MER))
    assert run("--dataset", "mer2023", *files, "--wheel", folder) == 2
    error = capsys.readouterr().err
    assert f"asked for the word table affectgpt ({OFFICIAL['affectgpt'][:12]}...)" in error
    assert error.count("\n") == 1


@needs_shared
@pytest.mark.parametrize(("name", "digits"), [("mer2023", "hit rate 78.5387"), ("sims", "WAF 87.2331")])
def test_released_outputs_score_as_the_official_code_scores_them(
    capsys: pytest.CaptureFixture[str], name: str, digits: str
):
    folder = SHARED / "released" / name
    labels = next(folder.glob("label*.npz"))
    predictions = next(folder.glob("*-openset.npz"))
    arguments = ["--labels", labels, "--predictions", predictions, "--wheel", SHARED / "emotion_wheel"]
    assert run("--dataset", name, *arguments) == 0
    assert digits in capsys.readouterr().out.splitlines()[0]


@needs_shared
def test_the_four_label_answer_wins_on_hit_rate(tmp_path: Path):
    from omniopsd.bench.labels import read_labels
    from omniopsd.bench.words import read_words

    gold = read_labels(bench_set("mer2023"), SHARED / "released" / "mer2023" / "label-6way.npz")
    table = read_words(SHARED / "emotion_wheel")
    for answer, percent in (("happy", 29.13), ("angry", 32.89), ("happy, sad, angry, worried", 96.66)):
        score = score_set(bench_set("mer2023"), gold, dict.fromkeys(gold, answer), table=table)
        assert round(100 * score.value, 2) == percent
