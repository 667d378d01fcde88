"""Scores of prepared sets and what stands beside them: sanity rows, intervals, classes, marks, the three reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from omniopsd.bench.bootstrap import SAMPLES, intervals, resampled, set_overlaps
from omniopsd.bench.confusion import clip_results, confusion
from omniopsd.bench.metrics import ew_f1, hit_rate, sentiment
from omniopsd.bench.outcome import make_board, write_board
from omniopsd.bench.own_words import own_table
from omniopsd.bench.predictions import read_predictions
from omniopsd.bench.prepared import Prepared, PreparedSet
from omniopsd.bench.run_options import RunOptions
from omniopsd.bench.sanity import by_condition, evidence_recall, sanity_rows
from omniopsd.bench.scoring import FOUR_LABELS, Scored
from tests.bench_scene import mini_root, prepared_mini, scored_with

HIT, EW = ("MER2023", "MER2024", "MELD", "IEMOCAP"), "OVMERDPlus"
CLIPS = 18
TABLE = own_table()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("scoring")
    return prepared_mini(mini_root(folder, CLIPS, 1), folder / "out")


@pytest.fixture(scope="module")
def mixed(prepared: Prepared) -> Scored:
    """Answers that are right for some clips, wrong for others, and empty for a few."""

    def answer(one: PreparedSet, clip: str) -> str:
        place = list(one.gold).index(clip)
        gold = one.gold[clip]
        word = gold if isinstance(gold, str) else "happy" if gold > 0 else "sad"
        said = ("", "angry", word, f"{word} and surprise")[place % 4]
        return f"<think>smile</think><answer>{said}</answer>"

    return scored_with(prepared.sets, answer)


def sanity(prepared: Prepared) -> dict[str, dict[str, float]]:
    rows = sanity_rows(prepared.sets, TABLE)
    return {row.name.split(":")[0]: {n: 100 * s.safe for n, s in row.scores.items() if s} for row in rows}


def test_the_required_sanity_rows(prepared: Prepared) -> None:
    rows = sanity(prepared)
    assert all(rows["oracle"][name] == pytest.approx(100) for name in rows["oracle"])
    assert all(rows["empty"][name] == 0.0 for name in (*HIT, EW))
    assert all(rows["shotgun"][name] > 80 for name in HIT)  # high on hit rate
    assert 20 < rows["shotgun"][EW] < 60  # mediocre where extra labels cost something
    for name in HIT:
        assert rows["always happy"][name] < rows["shotgun"][name]
        assert rows["always angry"][name] < rows["shotgun"][name]


def test_a_reader_of_one_modality_gets_its_share_and_text_fails_on_conflict(prepared: Prepared) -> None:
    scored = scored_with(prepared.sets, lambda one, clip: "<answer>neutral</answer>")
    shares: dict[str, list[float]] = {}
    for one in scored.sets:
        if one.score.name not in HIT:
            continue
        rows = {row.who: row.percents for row in by_condition(one, TABLE)}
        for who, modality in (
            ("reads the text only", "text"), ("hears the audio only", "audio"), ("sees the video only", "video"),
        ):  # fmt: skip
            shares.setdefault(modality, []).append(rows[who]["single"])
            if one.score.name != "MELD":  # its disgust is drawn as anger
                assert rows[who]["redundant"] == 100
        assert rows["reads the text only"]["conflict"] < 25 <= rows["hears the audio only"]["conflict"]
        assert rows["this run"]["redundant"] == 0
    assert all(10 < np.mean(values) < 60 for values in shares.values())  # one clip in three is a reader's own
    assert 80 < sum(float(np.mean(values)) for values in shares.values()) < 120


@pytest.mark.parametrize("name", ["MER2023", "MOSI", "OVMERDPlus"])
def test_a_bootstrap_sample_is_the_score_of_its_clips(mixed: Scored, name: str) -> None:
    one = next(one for one in mixed.sets if one.score.name == name)
    count = len(one.prepared.gold)
    values = resampled(one, TABLE, np.random.default_rng(3))
    weights = np.random.default_rng(3).multinomial(count, np.full(count, 1 / count), size=SAMPLES)
    for at in (0, 1, 500):
        chosen = np.repeat(np.arange(count), weights[at])
        if name == "MOSI":
            clips = [list(one.prepared.gold)[index] for index in chosen]
            expected = sentiment(
                [float(one.prepared.gold[clip]) for clip in clips], [one.polarity[clip] for clip in clips]
            ).safe_waf
        elif name == "MER2023":
            expected = hit_rate(set_overlaps(one, TABLE).take(chosen)).safe_hitrate
        else:
            expected = ew_f1(set_overlaps(one, TABLE).take(chosen)).safe_fscore
        assert values[at] == pytest.approx(expected, abs=1e-12)


def test_intervals_hold_the_score(mixed: Scored) -> None:
    found = intervals(mixed, TABLE)
    for one in mixed.sets:
        low, high = found[one.score.name]
        assert low < one.score.safe < high
    low, high = found["mean"]
    widths = [b - a for name, (a, b) in found.items() if name != "mean"]
    assert low < mixed.safe_mean / 100 < high and high - low < min(widths)  # type: ignore[operator]
    assert intervals(mixed, TABLE) == found  # seeded


def test_classes_and_worst_clips(mixed: Scored) -> None:
    by_name = {one.score.name: one for one in mixed.sets}
    basic = confusion(by_name["MER2023"], TABLE)
    assert basic.columns == (*basic.rows, "none of these") and sum(basic.counts) == CLIPS
    assert basic.rows[0] == "neutral" and 0 < basic.shares[0][0] <= 1  # by its word
    signs = confusion(by_name["MOSI"], TABLE)
    assert signs.rows == ("positive", "zero (not counted)", "negative") and sum(signs.counts) == CLIPS
    assert all(sum(row) == pytest.approx(1) for row, n in zip(signs.shares, signs.counts, strict=True) if n)
    for one in mixed.sets:
        clips = clip_results(one, TABLE)
        values = [clip.value for clip in clips]
        assert values == sorted(values) and values[0] == 0 and values[-1] == 1
    hits = clip_results(by_name["MER2024"], TABLE)
    kept = by_name["MER2024"].score.detail.wheels  # type: ignore[union-attr]
    assert len(hits) == max(wheel.kept for wheel in kept)


def test_a_perfect_and_a_clumsy_confusion(prepared: Prepared) -> None:
    perfect = scored_with(prepared.sets, lambda one, clip: f"<answer>{one.gold[clip]}</answer>")
    table = confusion(next(one for one in perfect.sets if one.score.name == "IEMOCAP"), TABLE)
    for at, count in enumerate(table.counts):
        if count:
            assert table.shares[at][at] == 1 and sum(table.shares[at]) == 1


def test_evidence_recall_counts_named_cues(prepared: Prepared) -> None:
    silent = scored_with(prepared.sets, lambda one, clip: "<answer>happy</answer>")
    full = scored_with(
        prepared.sets,
        lambda one, clip: f"<think>{'; '.join(one.evidence[clip]['cues'])}</think><answer>x</answer>",
    )
    assert evidence_recall(silent.sets[0]) == 0 and evidence_recall(full.sets[0]) == 1


def options(out: Path, **changes: object) -> RunOptions:
    values = {"benchmark": "mer-mini", "model": "m/student", "out": out, "data": out, "llm": None} | changes
    return RunOptions(**values)  # type: ignore[arg-type]


def facts() -> dict[str, object]:
    return {"extraction": {"prompts": None, "model": None}, "model": {"loaded": "m/student"}}


def test_the_three_reports(mixed: Scored, tmp_path: Path) -> None:
    board = make_board(options(tmp_path), "test", mixed, TABLE, facts())  # type: ignore[arg-type]
    write_board(tmp_path, board, TABLE)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["mean"] == mixed.mean and len(scores["sets"]) == 9
    for one, row in zip(mixed.sets, scores["sets"], strict=True):
        assert row["score"] == pytest.approx(100 * one.score.value)
        assert row["interval"][0] < row["score"] < row["interval"][1]
        assert (row["four_labels_score"] is None) == (one.bench_set.metric == "waf")
        found = read_predictions(tmp_path / "predictions" / f"{row['name']}-openset.npz")
        assert found == one.labels
    markdown = (tmp_path / "scores.md").read_text()
    page = (tmp_path / "report.html").read_text()
    for text in (
        f"{mixed.mean:.2f}",
        "evidence recall",
        "four labels",
        "not MER-UniBench scores",
        "(--no-llm)",
    ):
        assert text in markdown and text in page, text
    assert "OmniOPSD |" not in markdown  # nobody's published score stands beside a miniature
    assert "<script" not in page and page.count('class="card"') > 9 and "data:image/jpeg" in page


def test_published_systems_and_marks_stand_beside_a_real_score(mixed: Scored, tmp_path: Path) -> None:
    from dataclasses import replace

    real = replace(
        mixed, sets=tuple(replace(one, prepared=replace(one.prepared, evidence={})) for one in mixed.sets)
    )
    asked = options(tmp_path, benchmark="mer-unibench", samples=4)
    board = make_board(asked, "val", real, TABLE, facts())  # type: ignore[arg-type]
    markdown = board.as_markdown()
    assert (
        "| OmniOPSD | A+V+T | 85.79 | 92.43 | 71.89 | 89.09 | 90.06 | 89.03 | 90.76 | 89.14 | 59.52 | 84.19 | b |"
        in (markdown)
    )
    assert "Validation clips, not the test sets." in board.marks
    assert "A subset: the first 4 clips of each set." in board.marks
    whole = make_board(options(tmp_path, benchmark="mer-unibench"), "test", mixed, TABLE, facts())  # type: ignore[arg-type]
    assert any(
        mark.startswith(f"Not the official clips: MER2023 has {CLIPS} clips of 411,") for mark in whole.marks
    )
    assert any("miniature sets" in mark for mark in whole.marks)
    assert "| OmniOPSD |" not in whole.as_markdown()


def test_the_gamed_score_is_that_of_the_constant_answer(prepared: Prepared, mixed: Scored) -> None:
    shotgun = scored_with(prepared.sets, lambda one, clip: f"<answer>{FOUR_LABELS}</answer>")
    for one, four in zip(mixed.sets, shotgun.sets, strict=True):
        if one.gamed is not None:
            assert one.gamed.value == pytest.approx(four.score.value)


def test_cut_replies_and_missing_media_are_counted(prepared: Prepared) -> None:
    from dataclasses import replace

    one = prepared.sets[0]
    gone = one.samples[0].sample_id.partition("/")[2]
    part = replace(one, samples=one.samples[1:], broken=(gone,))
    cut = {sample.sample_id: True for sample in part.samples[:3]}
    scored = scored_with((part,), lambda one, clip: f"<answer>{one.gold[clip]}</answer>", cut)
    assert scored.sets[0].cut == 3 and scored.sets[0].score.missing == (gone,)
    assert scored.mean is None and scored.safe_mean is None
    assert intervals(scored, TABLE)[one.bench_set.name][1] <= 1
