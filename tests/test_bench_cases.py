"""Files of worked cases: every group is compared, every difference told, and nothing unknown passes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omniopsd.bench.case_groups import GROUPS
from omniopsd.bench.case_run import run_cases
from omniopsd.bench.cases import CasesError, CaseTables, Raised, same
from omniopsd.bench.own_words import own_sources
from omniopsd.bench.wheel_files import WordSources
from omniopsd.bench.words import OFFICIAL, compile_words
from omniopsd.cli import main
from tests.bench_files import SHARED, needs_shared, write_labels, write_openset, write_wheel_folder

NINE = ["MER2023", "MER2024", "MELD", "IEMOCAP", "MOSI", "MOSEI", "SIMS", "SIMSv2", "OVMERDPlus"]
GLAD = ["glad", "bright", "warm", "light", "up"]
TENSE = ["tense", "afraid", "shaky", "cold", "alarmed"]
HIT = {
    "id": "h1",
    "why": "surprise is off wheel 5",
    "gt": {"a": "happy", "b": "surprise"},
    "pred": {"a": "[glad]", "b": "[]"},
    "official": {"hitrate": 0.6, "mscore": 0.6},
    "per_wheel": [{"wheel": 5, "kept": 1, "hitrate": 1.0, "mscore": 1.0}],
}
EW = {
    "id": "e1",
    "level": 1,
    "gt": {"a": "sad"},
    "pred": {"a": "frustrated"},
    "official": {"fscore": None, "precision": 0.6, "recall": 0.6},
    "per_wheel": [{"wheel": 3, "kept": 1, "precision": 0.0, "recall": 0.0, "f": None}],
}
CASES: dict[str, Any] = {
    "_about": {"purpose": "the own table stands for the official one"},
    "resource_checks": {
        "word_forms": 115,
        "base_words": 92,
        "vocab_size_per_wheel": [46, 46, 38, 43, 34],
        "level1_names": {f"wheel{n}": sorted(own_sources().wheels[n - 1]) for n in range(1, 6)},
        "compiled_table_sha256": {"definition": "...", "affectgpt_mer2025": "", "mer2026": ""},
    },
    "word_to_wheels": {
        "note": "x",
        "cases": [
            {"word": "joyous", "level1": GLAD, "level2": ["cheer"] * 5},
            {"word": "Joy", "level1": [""] * 5},
        ],
    },
    "word_to_wheels_changed_in_mer2026": {
        "cases": [{"word": "fears", "affectgpt": TENSE, "mer2026": [""] * 5}],
    },
    "parse_list": {
        "cases": [
            {"in": "[a, b].", "out": ["a", "b]."]},
            {"in": None, "out": []},
            {"in": "[", "error": "IndexError"},
        ]
    },
    "postprocess_llm_reply": {"cases": [{"in": "Output: [a]", "out": "[a]"}]},
    "ew_f1": {
        "cases": [EW, {**EW, "id": "e2", "pred": {}, "official": {"error": "KeyError"}, "per_wheel": []}]
    },
    "hit_rate": {"cases": [HIT]},
    "sentiment": {
        "cases": [
            {
                "gt": {"a": 1.0, "b": -1.0},
                "pred": {"a": "x", "b": "x"},
                "official": {"waf": 1 / 3, "acc": 0.5},
            },
            {"gt": {"a": 0.0}, "pred": {"a": "x"}, "official": {"error": "IndexError"}},
        ]
    },
    "benchmark_mean": {"cases": [{"system": "s", "scores": dict.fromkeys(NINE, 50.004), "mean": 50.0}]},
    "reproduction_on_released_outputs": {
        "table": {"sims": {"000030": [66.6667, 75.0], "000035": [50.0, 50.0]}}
    },
}


def corrected() -> WordSources:
    forms = own_sources().forms
    return replace(own_sources(), forms={**forms, "fearful": ("fear",)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CaseTables:
    """A folder of the own table, one of a changed table, and one released output of SIMS."""
    root = tmp_path_factory.mktemp("cases")
    folder = root / "released" / "sims"
    folder.mkdir(parents=True)
    names, said = list("abcd"), ["positive", "negative", "neutral", "positive"]
    write_openset(folder / "checkpoint_000030_loss_0.6-openset.npz", names, ["[x]"] * 4)
    write_openset(folder / "checkpoint_000030_loss_0.6-openset-sentiment.npz", names, said)
    values = {"a": 0.2, "b": -0.2, "c": -1.0, "d": -0.6}
    corpus = {name: {"emo": 0, "val": value} for name, value in values.items()}
    write_labels(folder / "label.npz", test_corpus=corpus)
    return CaseTables(
        wheel=write_wheel_folder(root / "emotion_wheel", own_sources()),
        wheel_2026=write_wheel_folder(root / "wheel26", corrected()),
        released=root / "released",
    )


@pytest.fixture
def tables(made: CaseTables, monkeypatch: pytest.MonkeyPatch) -> CaseTables:
    """The two tables in the place of the official ones."""
    for name, sources in (("affectgpt", own_sources()), ("mer2026", corrected())):
        monkeypatch.setitem(OFFICIAL, name, compile_words(sources, name).sha256)
    return made


def cases(**changes: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(CASES | changes))
    hashes = found.get("resource_checks", {}).get("compiled_table_sha256", {})
    for key in hashes.keys() - {"definition"}:
        hashes[key] = OFFICIAL["mer2026" if key == "mer2026" else "affectgpt"]
    return found


def run(tmp_path: Path, tables: CaseTables, content: Any):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(content))
    return run_cases(path, tables)


def test_every_group_is_compared_and_holds(tmp_path: Path, tables: CaseTables):
    # SIMS by hand: 3 of 4 right; F1 of the two classes 2/3 and 4/5, weighted 1:3.
    released = {"table": {"sims": {"000030": [76.6667, 75.0], "000035": [1.0, 1.0]}}}
    report = run(tmp_path, tables, cases(reproduction_on_released_outputs=released))
    assert report.mismatches == ()
    assert report.compared.keys() == GROUPS.keys() == cases().keys() - {"_about"}
    assert len(report.unchecked) == 1 and "sims 000035: not checked, no outputs in" in report.unchecked[0]
    assert sum(report.compared.values()) == 33


WRONG = {
    "resource_checks": {"word_forms": 114},
    "word_to_wheels": {"cases": [{"word": "joyous", "level1": ["", *GLAD[1:]]}]},
    "word_to_wheels_changed_in_mer2026": {"cases": [{"word": "fears", "mer2026": TENSE}]},
    "parse_list": {"cases": [{"in": "[a, b]", "out": ["a", "b]"]}]},
    "postprocess_llm_reply": {"cases": [{"in": " Output: [a]", "out": " [a]"}]},
    "ew_f1": {"cases": [{**EW, "official": {"fscore": 0.6}, "per_wheel": []}]},
    "hit_rate": {"cases": [{**HIT, "official": {"hitrate": 0.6 + 2e-9}, "per_wheel": []}]},
    "sentiment": {"cases": [{"gt": {"a": 1.0}, "pred": {"a": "x"}, "official": {"acc": None}}]},
    "benchmark_mean": {"cases": [{"system": "s", "scores": dict.fromkeys(NINE, 50.004), "mean": 50.004}]},
    "reproduction_on_released_outputs": {"table": {"sims": {"000030": [76.6668, 75.0]}}},
}


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_a_difference_in_any_group_is_told(tmp_path: Path, tables: CaseTables, group: str):
    report = run(tmp_path, tables, {group: WRONG[group]})
    assert len(report.mismatches) == 1 and report.mismatches[0].startswith(f"{group}: ")
    assert "expected" in report.mismatches[0] and "found" in report.mismatches[0]


@pytest.mark.parametrize("key", ["kept", "hitrate", "mscore"])
def test_a_difference_on_one_wheel_is_told(tmp_path: Path, tables: CaseTables, key: str):
    row = {**HIT["per_wheel"][0], key: 2}
    report = run(tmp_path, tables, {"hit_rate": {"cases": [{**HIT, "per_wheel": [row]}]}})
    assert [line.split(": ")[2] for line in report.mismatches] == [f"wheel 5 {key}"]


def test_a_wrong_hash_is_told(tmp_path: Path, tables: CaseTables):
    report = run(tmp_path, tables, {"resource_checks": {"compiled_table_sha256": {"mer2026": "0" * 64}}})
    assert len(report.mismatches) == 1


def test_an_error_that_was_not_expected_is_told(tmp_path: Path, tables: CaseTables):
    report = run(tmp_path, tables, {"hit_rate": {"cases": [{**HIT, "pred": {"a": "[glad]"}}]}})
    assert report.mismatches[0].endswith("found an error (KeyError: 'b')")
    report = run(tmp_path, tables, {"hit_rate": {"cases": [{**HIT, "official": {"error": "KeyError"}}]}})
    assert "expected an error (KeyError), found HitRate" in report.mismatches[0]


@pytest.mark.parametrize(
    "stated", [{"out": "IndexError: string index out of range"}, {"raises": "IndexError"}, {"out": None}]
)
def test_an_expected_error_is_read_wherever_it_is_stated(tmp_path: Path, tables: CaseTables, stated: Any):
    assert run(tmp_path, tables, {"parse_list": {"cases": [{"in": "[", **stated}]}}).mismatches == ()
    assert len(run(tmp_path, tables, {"parse_list": {"cases": [{"in": "[]", **stated}]}}).mismatches) == 1


def test_two_files_for_one_released_output_are_refused(tmp_path: Path, tables: CaseTables):
    other = tmp_path / "released"
    shutil.copytree(tables.released, other)
    write_openset(other / "sims" / "checkpoint_000030_loss_0.7-openset.npz", list("abcd"), ["[x]"] * 4)
    twice = replace(tables, released=other)
    with pytest.raises(CasesError, match="could both be the outputs"):
        run(tmp_path, twice, {"reproduction_on_released_outputs": CASES["reproduction_on_released_outputs"]})


@pytest.mark.parametrize("where", ["case", "group", "suffix", "bare"])
def test_a_case_may_name_its_word_table(tmp_path: Path, tables: CaseTables, where: str):
    """`fears` has clusters in one table only, so the case differs under the other."""
    case = {"id": "c", "gt": {"a": "sad"}, "pred": {"a": "sad, fears"}}
    value = {"fscore": 1.0, "precision": 1.0, "recall": 1.0}
    if where == "suffix":
        group = {"cases": [{**case, "official_mer2026": value}]}
    elif where == "case":
        group = {"cases": [{**case, "official": value, "resource_version": "mer2026"}]}
    else:
        group = {"cases": [{**case, "official": value}]} | (
            {"version": "MER2026"} if where == "group" else {}
        )
    report = run(tmp_path, tables, {"ew_f1": group})
    assert len(report.mismatches) == (2 if where == "bare" else 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"parse": {"cases": []}},
            "parse: no known group of cases, so not checked; known are resource_checks",
        ),
        ({"parse_list": []}, "parse_list: expected an object with a list of cases"),
        ({"parse_list": {"cases": []}}, "nothing in it could be compared"),
        ({"parse_list": {"cases": [], "extra": 1}}, "parse_list: extra not known, so not checked"),
        ({"parse_list": {"cases": [3]}}, "parse_list: case 1: expected an object, found 3"),
        ({"parse_list": {"cases": [{"out": []}]}}, "parse_list: case 1: no in"),
        ({"hit_rate": {"cases": [{**HIT, "mode": 2}]}}, "hit_rate: h1: mode not known, so not checked"),
        (
            {"hit_rate": {"cases": [{**HIT, "official": {"auc": 1}}]}},
            "h1: auc is no value that is computed here",
        ),
        (
            {"hit_rate": {"cases": [{**HIT, "per_wheel": [{"wheel": 6}]}]}},
            "h1: a row of per_wheel needs a wheel",
        ),
        ({"ew_f1": {"cases": [{**EW, "level": 3}]}}, "e1: level 3 is neither 1 nor 2"),
        ({"ew_f1": {"cases": [{**EW, "version": "mer2027"}]}}, "'mer2027' is no word table"),
        ({"word_to_wheels": {"cases": [{"word": "joy"}]}}, "'joy': no clusters to compare with"),
        ({"resource_checks": {"words": 1}}, "resource_checks: words not known, so not checked"),
        ({"benchmark_mean": {"cases": [{"scores": {"MELD": 1}, "mean": 1}]}}, "MER2023, MER2024, .* missing"),
        ({"reproduction_on_released_outputs": {"table": {"x": {}}}}, "'x' is not a set of MER-UniBench"),
        ([], "expected an object of case groups"),
        ({"_about": 1}, "nothing in it could be compared"),
    ],
)
def test_what_is_not_understood_is_an_error(tmp_path: Path, tables: CaseTables, content: Any, message: str):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, tables, content)


def test_cases_without_words_need_no_wheel_folder(tmp_path: Path):
    nowhere = CaseTables(wheel=tmp_path / "none", released=tmp_path / "none")
    assert run(tmp_path, nowhere, {"parse_list": CASES["parse_list"]}).mismatches == ()
    with pytest.raises(ValueError, match="none: no such folder"):
        run(tmp_path, nowhere, {"hit_rate": CASES["hit_rate"]})


def test_a_folder_of_no_official_version_is_refused(tmp_path: Path):
    own = CaseTables(wheel=write_wheel_folder(tmp_path / "w", own_sources()), released=tmp_path)
    with pytest.raises(ValueError, match="w: no official version"):
        run(tmp_path, own, {"hit_rate": CASES["hit_rate"]})


def test_the_other_folder_alone_does_not_serve(tmp_path: Path, tables: CaseTables):
    assert tables.wheel_2026 is not None
    only = CaseTables(wheel=tables.wheel_2026, released=tmp_path)
    with pytest.raises(
        CasesError, match="cases need the word table affectgpt, and this folder is the other one"
    ):
        run(tmp_path, only, {"hit_rate": CASES["hit_rate"]})


@pytest.mark.parametrize(
    ("expected", "found", "holds"),
    [
        (1.0, 1.0 + 9e-10, True),
        (1.0, 1.0 + 2e-9, False),
        (None, float("nan"), True),
        (None, 0.0, False),
        (0.0, float("nan"), False),
        ([1, None], [1.0, float("nan")], True),
        ([1], [1, 2], False),
        (["a"], "a", False),
        (True, 1, False),
        (Raised(error="x"), Raised(error="y"), True),
        (Raised(error="x"), [], False),
        ([], Raised(error="x"), False),
    ],
)
def test_sameness(expected: Any, found: Any, holds: bool):
    assert same(expected, found) is holds


def test_the_command_exits_with_1_on_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"parse_list": CASES["parse_list"]}))
    assert main(["bench", "cases", str(path)]) == 0
    assert "3 compared, 0 differ, 0 not checked" in capsys.readouterr().out
    path.write_text(json.dumps({"parse_list": WRONG["parse_list"]}))
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "cases", str(path)])
    assert exit_.value.code == 1
    assert "parse_list: '[a, b]': list: expected ['a', 'b]'], found ['a', 'b']" in capsys.readouterr().out
    path.write_text("{")
    assert main(["bench", "cases", str(path)]) == 2
    assert "not JSON" in capsys.readouterr().err


@needs_shared
def test_every_official_case_holds(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "cases", str(SHARED / "cases.json")]) == 0
    assert "533 compared, 0 differ, 12 not checked" in capsys.readouterr().out
