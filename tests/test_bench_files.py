"""Label and prediction files: the official forms, and one sentence for everything that is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniopsd.bench.datasets import NINE, bench_set
from omniopsd.bench.labels import LabelsError, read_labels
from omniopsd.bench.npz import NpzError
from omniopsd.bench.predictions import PredictionsError, polarities, read_predictions, write_predictions
from omniopsd.bench.wheel_files import WordsError
from tests.bench_files import SHARED, needs_shared, write_labels, write_openset


def emo(value: Any, val: Any = -10) -> dict[str, Any]:
    return {"emo": value, "val": val}


@pytest.mark.parametrize("number", [int, np.int64, np.uint8], ids=lambda kind: kind.__name__)
def test_integers_become_class_names(tmp_path: Path, number: Any):
    path = write_labels(tmp_path / "label.npz", test_corpus={f"c{at}": emo(number(at)) for at in range(7)})
    assert list(read_labels(bench_set("meld"), path).values()) == [
        "anger",
        "joy",
        "sadness",
        "neutral",
        "disgust",
        "fear",
        "surprise",
    ]


def test_words_are_taken_as_they_are(tmp_path: Path):
    corpus = {"a": emo("worried"), "b": emo(np.str_("surprise"))}
    path = write_labels(tmp_path / "l.npz", train_corpus={"x": emo("sad")}, test1_corpus=corpus)
    assert read_labels(bench_set("mer2023"), path) == {"a": "worried", "b": "surprise"}
    path = write_labels(tmp_path / "l.npz", test_corpus={"a": emo("joy")})
    assert read_labels(bench_set("meld"), path) == {"a": "joy"}


def test_iemocap_is_its_fifth_session(tmp_path: Path):
    names = ["Ses01F_impro01_F000", "Ses05F_impro01_F000", "Ses05M_script05_M001", "Ses04F_impro05_F005"]
    path = write_labels(tmp_path / "l.npz", whole_corpus={name: emo(at) for at, name in enumerate(names)})
    assert read_labels(bench_set("iemocapfour"), path) == {names[1]: "sad", names[2]: "neutral"}
    path = write_labels(tmp_path / "l.npz", whole_corpus={names[0]: emo(0)})
    with pytest.raises(LabelsError, match="whole_corpus has no clip of the IEMOCAP test set"):
        read_labels(bench_set("iemocap"), path)


@pytest.mark.parametrize("number", [float, np.float32, np.float64, lambda value: np.array(value)])
def test_sentiment_values_are_numbers(tmp_path: Path, number: Any):
    path = write_labels(tmp_path / "l.npz", test_corpus={"a": emo(0, number(-0.5)), "b": emo(0, 1)})
    assert read_labels(bench_set("sims"), path) == {"a": -0.5, "b": 1.0}


def test_ov_merd_lists_come_from_a_csv(tmp_path: Path):
    path = tmp_path / "ovlabel.csv"
    path.write_bytes(
        "\ufeffname,openset\na,\"['happy', 'sad']\"\nb,\nc,[]\n\nd,\"[glad, \u9ad8\u5174]\"\n".encode()
    )
    assert read_labels(bench_set("ov-merd+"), path) == {
        "a": "happy, sad",
        "b": "neutral",
        "c": "neutral",
        "d": "glad, \u9ad8\u5174",
    }


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("mer2023", emo("sadd"), "an unusable label: c: 'sadd' is not one of neutral, angry"),
        ("mer2023", emo(1), r"c: the labels of MER2023 are words \(.*\), found the number 1"),
        ("meld", emo(7), r"c: label 7 is outside of 0..6 \(anger"),
        ("meld", emo(-1), "c: label -1 is outside of 0..6"),
        ("meld", emo(-10), "c: emo is -10, which stands for an absent label"),
        ("meld", emo(1.0), "c: a label must be one of anger, .*, found float 1.0"),
        ("meld", emo(True), "c: a label must be one of anger, .*, found bool True"),
        ("meld", {"val": 1}, "c: expected a dictionary with 'emo', found val"),
        ("meld", 3, "c: expected a dictionary with 'emo', found int"),
        ("mosi", emo(0, 3.1), r"c: 3.1 is outside of \[-3, 3\]"),
        ("sims", emo(0, -1.2), r"c: -1.2 is outside of \[-1, 1\]"),
        ("sims", emo(0, float("nan")), "c: nan is outside of"),
        ("sims", emo(0, -10.0), "c: val is -10, which stands for an absent label"),
        ("sims", emo(0, "0.2"), "c: a sentiment value must be a number, found str '0.2'"),
        (
            "sims",
            emo(0, np.array([1.0, 2.0])),
            "c: a sentiment value must be a number, found an array of float64",
        ),
    ],
)
def test_an_unusable_label_is_named_with_its_clip(tmp_path: Path, name: str, entry: Any, message: str):
    one = bench_set(name)
    path = write_labels(tmp_path / "l.npz", **{one.split: {"c": entry}})
    with pytest.raises(LabelsError, match=rf"l\.npz: {one.split}: .*{message}"):
        read_labels(one, path)


def test_many_unusable_labels_are_counted(tmp_path: Path):
    path = write_labels(tmp_path / "l.npz", test_corpus={f"c{at}": emo(9) for at in range(8)})
    with pytest.raises(LabelsError, match=r"8 unusable labels: c0: .*; c4: [^;]* \(and 3 more\)$"):
        read_labels(bench_set("meld"), path)


def test_a_wrong_label_file_is_named(tmp_path: Path):
    meld, path = bench_set("meld"), tmp_path / "l.npz"
    write_labels(path, test1_corpus={"a": emo("sad")})
    with pytest.raises(LabelsError, match="no test_corpus in it, found test1_corpus"):
        read_labels(meld, path)
    write_labels(path, test_corpus={})
    with pytest.raises(LabelsError, match="test_corpus has no clip of the MELD test set"):
        read_labels(meld, path)
    np.savez(path, test_corpus=np.arange(3))
    with pytest.raises(LabelsError, match="must be a dictionary of clips, found an array of int64"):
        read_labels(meld, path)
    write_labels(path, test_corpus={5: emo(1)})
    with pytest.raises(LabelsError, match="a clip name must be text, found int"):
        read_labels(meld, path)
    with pytest.raises(NpzError, match="none.npz: cannot be read"):
        read_labels(meld, tmp_path / "none.npz")
    with pytest.raises(LabelsError, match=r"the labels of OV-MERD\+ are a CSV"):
        read_labels(bench_set("ov+"), path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,openset\na,[x]\na,[y]\n", "an unusable label: line 3: a is given twice"),
        ("name,openset\n,[x]\n", "line 2: the row has no clip name"),
        ("name,openset\n", "the file has no rows"),
        ("name,label\na,b\n", "no column openset"),
        ("", "no column name, openset"),
    ],
)
def test_a_broken_csv_is_named_with_its_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "ovlabel.csv"
    path.write_text(text)
    with pytest.raises((LabelsError, WordsError), match=message):
        read_labels(bench_set("ov+"), path)


ITEMS = st.lists(st.text("abc, []'\u9ad8\n", max_size=10), min_size=1, max_size=6)


@given(ITEMS)
def test_predictions_written_are_read_back(tmp_path_factory: pytest.TempPathFactory, items: list[str]):
    path = tmp_path_factory.mktemp("openset") / "a-openset.npz"
    predictions = {f"clip{at}": item for at, item in enumerate(items)}
    write_predictions(path, predictions)
    assert read_predictions(path) == predictions
    with np.load(path) as plain:  # and by the official reader, without a pickle
        assert plain["fileitems"].tolist() == items


def test_lists_of_object_arrays_and_grids_are_read(tmp_path: Path):
    mixed = np.array([["glad", "low"], "[mad]", None, float("nan"), []], dtype=object)
    path = write_openset(tmp_path / "a.npz", np.array(list("abcde")), mixed)
    assert read_predictions(path) == {"a": ["glad", "low"], "b": "[mad]", "c": None, "d": None, "e": []}
    path = write_openset(tmp_path / "b.npz", np.array(["a", "b"]), np.array([["x", "y"], ["z", "w"]]))
    assert read_predictions(path) == {"a": ["x", "y"], "b": ["z", "w"]}


def test_json_and_csv_predictions_are_read(tmp_path: Path):
    wanted = {"a": "[glad]", "b": ["low", "mad"], "c": None}
    (tmp_path / "a.json").write_text(json.dumps(wanted))
    assert read_predictions(tmp_path / "a.json") == wanted
    (tmp_path / "a.csv").write_text('name,openset\na,"[glad, low]"\nb,\n')
    assert read_predictions(tmp_path / "a.csv") == {"a": "[glad, low]", "b": ""}
    (tmp_path / "a.csv").write_text("name,sentiment\na,positive\n")
    assert read_predictions(tmp_path / "a.csv") == {"a": "positive"}


@pytest.mark.parametrize(
    ("names", "items", "message"),
    [
        (["a", "b", "a"], ["x", "y", "z"], "a given twice; keep one prediction for each clip"),
        (["a", "b"], ["x"], r"filenames of shape \(2,\) and fileitems of shape \(1,\) do not pair up"),
        (["a"], [1], "fileitems must be text, found dtype int64"),
        ([1], ["x"], "filenames must be text, found dtype int64"),
        ([b"a"], ["x"], r"filenames must be text, found dtype \|S1"),
        (np.array(["a", 2], dtype=object), ["x", "y"], "a clip name must be text: 2"),
        (["a", "b"], np.array(["x", {"y": 1}], dtype=object), r"must be text or a list of texts: b \(dict"),
        (["a", "b"], np.array(["x", [1, 2]], dtype=object), r"must be text or a list of texts: b \(list"),
        (["a"], [[["x"]]], "do not pair up"),
    ],
)
def test_a_broken_prediction_is_named(tmp_path: Path, names: Any, items: Any, message: str):
    path = write_openset(tmp_path / "p.npz", names, items)
    with pytest.raises(PredictionsError, match=rf"p\.npz: {message}|p\.npz: .*{message}"):
        read_predictions(path)


def test_a_file_of_replies_is_told_from_one_of_labels(tmp_path: Path):
    np.savez(tmp_path / "a.npz", name2reason=np.array({"a": "He is glad."}, dtype=object))
    with pytest.raises(PredictionsError, match=r"holds model replies \(name2reason\), not extracted labels"):
        read_predictions(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", filenames=np.array(["a"]))
    with pytest.raises(PredictionsError, match="no fileitems in it, found filenames"):
        read_predictions(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", "[1]", "expected one JSON object"),
        ("p.json", "{", "not JSON"),
        ("p.json", '{"a": "x", "a": "y"}', "a given twice"),
        ("p.json", '{"a": 3}', r"must be text or a list of texts: a \(int 3\)"),
        ("p.csv", "name,labels\n", "no column openset"),
        ("p.txt", "x", "the ending '.txt' is not known; give a .npz, .json or .csv file"),
        ("p.npz", "x", "not an npz file"),
    ],
)
def test_another_broken_prediction_file_is_named(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / name)


def test_a_polarity_is_one_word():
    with pytest.raises(
        PredictionsError, match="s.npz: a polarity must be one word, which it is not for b, c"
    ):
        polarities({"a": "positive", "b": ["x"], "c": None}, "s.npz")


def test_every_set_has_what_a_reader_needs():
    for one in NINE:
        assert bool(one.classes) == (one.metric == "hit_rate")
        assert bool(one.label_range) == (one.metric == "waf")
        assert (one.split is None) == (one.metric == "ew_f1")
        assert "neutral" in one.classes or one.metric != "hit_rate"


@needs_shared
def test_the_official_label_files_are_read():
    gold = read_labels(bench_set("mer2023"), SHARED / "released" / "mer2023" / "label-6way.npz")
    assert len(gold) == 411 and list(gold.values()).count("neutral") == 88
    gold = read_labels(bench_set("sims"), SHARED / "released" / "sims" / "label.npz")
    assert len(gold) == 457 and sum(value != 0 for value in gold.values()) == 388
