"""Hit rate, EW-F1, WAF and the mean: worked by hand on the own table, and against a naive second implementation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniopsd.bench.datasets import NINE, UnknownSetError, bench_set
from omniopsd.bench.lists import normal_labels
from omniopsd.bench.metrics import MeanError, benchmark_mean, ew_f1, hit_rate, sentiment
from omniopsd.bench.overlaps import project
from omniopsd.bench.own_words import own_table

WORDS = ["happy", "joy", "glad", "sad", "annoyed", "frustrated", "worried", "fear", "surprise", "disgust"]
WORDS += ["excited", "neutral", "qux", "Happy"]
LISTS = st.lists(st.sampled_from(WORDS), max_size=4).map(lambda words: f"[{', '.join(words)}]")
CLASSES = st.sampled_from(
    ["happy", "sad", "anger", "worried", "surprise", "disgust", "neutral", "sad, happy"]
)


def hits(gold: Mapping[str, str], predictions: Mapping[str, str]):
    return hit_rate(project(gold, predictions, own_table()))


def f1(gold: Mapping[str, str], predictions: Mapping[str, str], level: int = 1):
    return ew_f1(project(gold, predictions, own_table(), level))


def naive_clusters(text: str, wheel: int) -> set[str]:
    return {own_table().clusters(label)[wheel] for label in normal_labels(text)} - {""}


def naive_hits(gold: Mapping[str, str], predictions: Mapping[str, str], wheel: int) -> tuple[float, float]:
    known = {own_table().clusters(text)[wheel] for text in gold.values()} - {""}
    scores, shares = [], []
    for clip, text in gold.items():
        wanted, found = naive_clusters(text, wheel), naive_clusters(predictions[clip], wheel)
        if wanted:
            scores.append(len(wanted & found))
            shares.append(len(wanted & found) / len(found & known) if found & known else 0)
    return (sum(scores) / len(scores), sum(shares) / len(shares)) if scores else (math.nan, math.nan)


def naive_f1(gold: Mapping[str, str], predictions: Mapping[str, str], wheel: int) -> tuple[float, ...]:
    precisions, recalls = [], []
    for clip, text in gold.items():
        wanted, found = naive_clusters(text, wheel), naive_clusters(predictions[clip], wheel)
        if wanted:
            precisions.append(len(wanted & found) / len(found) if found else 0)
            recalls.append(len(wanted & found) / len(wanted) if found else 0)
    if not precisions:
        return (math.nan,) * 3
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (2 * p * r / (p + r) if p + r else math.nan), p, r


def close(found: float, expected: float) -> bool:
    return (math.isnan(found) and math.isnan(expected)) or abs(found - expected) < 1e-12


@given(st.lists(st.tuples(CLASSES, LISTS), min_size=1, max_size=8))
def test_hit_rate_agrees_with_a_naive_one(clips: list[tuple[str, str]]):
    gold = {str(at): text for at, (text, _) in enumerate(clips)}
    predictions = {str(at): text for at, (_, text) in enumerate(clips)}
    found = hits(gold, predictions)
    wheels = [naive_hits(gold, predictions, wheel) for wheel in range(5)]
    for wheel, (rate, mscore) in zip(found.wheels, wheels, strict=True):
        assert close(wheel.hitrate, rate) and close(wheel.mscore, mscore)
    assert close(found.hitrate, sum(rate for rate, _ in wheels) / 5)
    assert close(found.mscore, sum(share for _, share in wheels) / 5)


@given(st.lists(st.tuples(LISTS, LISTS), min_size=1, max_size=8))
def test_ew_f1_agrees_with_a_naive_one(clips: list[tuple[str, str]]):
    gold = {str(at): text for at, (text, _) in enumerate(clips)}
    predictions = {str(at): text for at, (_, text) in enumerate(clips)}
    found = f1(gold, predictions)
    wheels = [naive_f1(gold, predictions, wheel) for wheel in range(5)]
    for wheel, (f, p, r) in zip(found.wheels, wheels, strict=True):
        assert close(wheel.f, f) and close(wheel.precision, p) and close(wheel.recall, r)
    for name, at in (("fscore", 0), ("precision", 1), ("recall", 2)):
        assert close(getattr(found, name), sum(wheel[at] for wheel in wheels) / 5)


@given(st.lists(st.tuples(LISTS, LISTS), min_size=1, max_size=8))
def test_the_safe_value_differs_only_where_the_official_one_is_nan(clips: list[tuple[str, str]]):
    gold = {str(at): text for at, (text, _) in enumerate(clips)}
    predictions = {str(at): text for at, (_, text) in enumerate(clips)}
    for found, name in ((f1(gold, predictions), "fscore"), (hits(gold, predictions), "hitrate")):
        official, safe = getattr(found, name), getattr(found, f"safe_{name}")
        assert math.isfinite(safe) and (safe == official or math.isnan(official))


@given(st.lists(LISTS, min_size=1, max_size=8))
def test_the_gold_labels_as_prediction_are_perfect(lists: list[str]):
    gold = {str(at): text for at, text in enumerate(lists)}
    for wheel in f1(gold, gold).wheels:
        assert wheel.f == wheel.precision == wheel.recall == 1 or not wheel.kept


@given(st.lists(st.tuples(CLASSES, LISTS), min_size=1, max_size=8), st.sampled_from(WORDS))
def test_another_label_never_lowers_the_hit_rate(clips: list[tuple[str, str]], word: str):
    gold = {str(at): text for at, (text, _) in enumerate(clips)}
    predictions = {str(at): text for at, (_, text) in enumerate(clips)}
    more = {clip: f"[{word}, {text[1:]}" for clip, text in predictions.items()}
    assert hits(gold, more).safe_hitrate >= hits(gold, predictions).safe_hitrate


def test_a_hit_rate_worked_by_hand():
    # happy: named. sad: frustrated is sad on wheels 1, 2, 4. surprise: off wheel 5; on 3 it is warm, as happy is.
    found = hits(
        {"a": "happy", "b": "sad", "c": "surprise", "d": "neutral"},
        {"a": "[glad, furious]", "b": "frustrated", "c": "happy", "d": "neutral"},
    )
    assert [wheel.kept for wheel in found.wheels] == [3, 3, 3, 3, 2]
    assert [wheel.hitrate for wheel in found.wheels] == [2 / 3, 2 / 3, 2 / 3, 2 / 3, 1 / 2]
    assert found.hitrate == pytest.approx((4 * 2 / 3 + 1 / 2) / 5, abs=1e-12)


def test_neutral_gold_labels_never_count():
    found = hits({"a": "neutral"}, {"a": "neutral"})
    assert [wheel.kept for wheel in found.wheels] == [0] * 5
    assert math.isnan(found.hitrate) and math.isnan(found.mscore) and found.safe_hitrate == 0


def test_an_empty_prediction_is_a_miss_and_stays_in():
    found = hits({"a": "happy", "b": "sad"}, {"a": "[]", "b": "sad"})
    assert found.hitrate == 0.5 and found.mscore == 0.5


def test_a_comma_in_the_gold_label_can_exceed_one():
    assert hits({"a": "happy, sad"}, {"a": "[happy, sad]"}).hitrate == 2


def test_naming_all_emotions_hits_always_and_mscore_shows_it():
    gold = {"a": "happy", "b": "sad", "c": "angry", "d": "worried"}
    shotgun = hits(gold, dict.fromkeys(gold, "happy, sad, angry, worried"))
    assert shotgun.hitrate == 1 and shotgun.mscore == 0.25
    assert f1(gold, dict.fromkeys(gold, "happy, sad, angry, worried")).fscore == pytest.approx(0.4, abs=1e-12)


def test_mscore_divides_by_clusters_that_some_gold_label_has():
    # disgusted is no gold label here, so naming it too costs nothing; sad is one.
    gold = {"a": "happy", "b": "sad"}
    assert hits(gold, dict.fromkeys(gold, "happy, disgusted")).mscore == 0.5
    assert hits(gold, {"a": "happy, sad", "b": "sad"}).mscore == 0.75


def test_mscore_reads_the_gold_labels_raw():
    """The official code neither splits nor lower-cases them for the candidates, so here there are none."""
    found = hits({"a": "Happy"}, {"a": "happy"})
    assert found.hitrate == 1 and found.mscore == 0


def test_f_comes_from_the_means_not_from_the_clips():
    found = f1({"a": "happy", "b": "sad, angry"}, {"a": "[happy, sad, angry]", "b": "[sad]"})
    p, r = (1 / 3 + 1) / 2, (1 + 1 / 2) / 2
    assert found.precision == pytest.approx(p, abs=1e-12) and found.recall == pytest.approx(r, abs=1e-12)
    assert found.fscore == pytest.approx(2 * p * r / (p + r), abs=1e-12)


def test_unknown_words_of_a_prediction_cost_nothing_and_synonyms_collapse():
    found = f1({"a": "sad"}, {"a": "[sad, sorrowful, sarcasm, neutral]"})
    assert found.fscore == 1


def test_no_overlap_on_a_wheel_is_nan_and_ours_is_zero_there():
    # frustrated is sad on wheels 1, 2 and 4 only: on 3 and 5 nothing is shared.
    found = f1({"a": "sad"}, {"a": "frustrated"})
    assert [wheel.f for wheel in found.wheels][:2] == [1, 1] and math.isnan(found.wheels[2].f)
    assert math.isnan(found.fscore) and found.safe_fscore == pytest.approx(3 / 5)
    assert found.precision == found.safe_precision == pytest.approx(3 / 5)


def test_all_empty_predictions_are_zero_in_our_value():
    found = f1({"a": "sad", "b": "happy"}, {"a": "[]", "b": ""})
    assert math.isnan(found.fscore) and found.safe_fscore == 0 and found.recall == 0


def test_level_2_is_stricter():
    gold, predictions = {"a": "happy"}, {"a": "calm"}
    assert f1(gold, predictions).fscore == 1
    assert f1(gold, predictions, 2).safe_fscore == 0


def test_a_clip_without_prediction_is_an_error():
    with pytest.raises(KeyError):
        hits({"a": "happy", "b": "sad"}, {"a": "happy"})


def test_a_bootstrap_sample_is_the_score_of_the_repeated_clips():
    gold = {"a": "happy", "b": "sad", "c": "surprise"}
    predictions = {"a": "glad", "b": "happy", "c": "happy"}
    sample = project(gold, predictions, own_table()).take(np.array([0, 0, 2]))
    assert sample.names == ("a", "a", "c")
    assert hit_rate(sample).wheels[0].hitrate == pytest.approx(2 / 3)


def test_only_the_exact_word_positive_is_positive():
    words = ["positive", "Positive", "positive.", "neutral", "mixed", "", "negative"]
    assert sentiment([1.0] * 7, words).acc == pytest.approx(1 / 7)
    assert sentiment([-1.0] * 7, words).acc == pytest.approx(6 / 7)


def test_a_value_of_exactly_zero_does_not_count():
    found = sentiment([0.0, -0.0, 1e-9, -1e-9], ["positive", "positive", "positive", "negative"])
    assert found.kept == 2 and found.waf == found.acc == 1


def test_waf_worked_by_hand():
    # 8 positive, 2 negative; 6 and 1 right: F1 of 12/15 and 2/5, weighted 8:2.
    gold = [1.0] * 8 + [-1.0] * 2
    said = ["positive"] * 6 + ["neutral"] * 2 + ["negative", "positive"]
    found = sentiment(gold, said)
    assert found.waf == pytest.approx(0.72, abs=1e-12) and found.acc == pytest.approx(0.7, abs=1e-12)


def test_a_class_without_hits_has_f1_zero():
    assert sentiment([1.0, -1.0], ["neutral", "neutral"]).waf == pytest.approx(1 / 3, abs=1e-12)
    assert sentiment([1.0, 1.0], ["negative", "negative"]).waf == 0


def test_no_counting_clip_is_nan_and_zero_in_our_value():
    found = sentiment([0.0], ["positive"])
    assert math.isnan(found.waf) and found.safe_waf == 0


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, -0.2, 0.0, 0.4, 1.0]), st.booleans()), min_size=1, max_size=20)
)
def test_waf_agrees_with_precision_and_recall_counted_apart(clips: list[tuple[float, bool]]):
    counted = [(value > 0, said) for value, said in clips if value != 0]
    found = sentiment([value for value, _ in clips], ["positive" if said else "no" for _, said in clips])
    if not counted:
        assert math.isnan(found.waf)
        return
    waf = 0.0
    for side in (True, False):
        hit = sum(truth == said == side for truth, said in counted)
        gold, claimed = sum(truth == side for truth, _ in counted), sum(said == side for _, said in counted)
        if hit:
            p, r = hit / claimed, hit / gold
            waf += gold / len(counted) * 2 * p * r / (p + r)
    assert found.waf == pytest.approx(waf, abs=1e-12)


def test_the_mean_is_rounded_after_the_mean():
    scores = {one.name: 50.0 for one in NINE} | {"MELD": 50.044, "SIMS": 50.004}
    assert benchmark_mean(scores) == 50.01  # 50.0053; rounding first would give 50.00


def test_the_mean_takes_every_spelling_of_a_name():
    names = [
        "mer2023",
        "mer2024-semi",
        "meld",
        "iemocapfour",
        "CMUMOSI",
        "cmu-mosei",
        "ch-sims",
        "SIMS-v2",
        "OV-MERD+",
    ]
    assert benchmark_mean({name: float(at) for at, name in enumerate(names)}) == 4.0


def test_the_mean_needs_each_of_the_nine_once():
    scores = {one.name: 50.0 for one in NINE}
    with pytest.raises(MeanError, match="MELD missing"):
        benchmark_mean({name: score for name, score in scores.items() if name != "MELD"})
    with pytest.raises(MeanError, match="MELD given twice"):
        benchmark_mean(scores | {"meld": 1.0})


def test_the_nine_sets_have_distinct_names():
    names = [name for one in NINE for name in (one.name, one.title, *one.aliases, one.layout.folder)]
    assert len(NINE) == 9 and all(bench_set(name.upper()).name for name in names)
    assert len({bench_set(name).name for name in names}) == 9
    assert bench_set("mer2023-process").name == "MER2023" and bench_set("MER-SEMI").name == "MER2024"


def test_an_unknown_set_is_named_with_the_known_ones():
    with pytest.raises(UnknownSetError, match="'MERD' is not a set of MER-UniBench; write one of MER2023, "):
        bench_set("MERD")
