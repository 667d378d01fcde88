"""The word table: compiled from wheels, synonyms and forms, and known by its hash."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from omniopsd.bench.own_words import own_sources, own_table
from omniopsd.bench.wheel_files import WordsError, WordSources, read_sources
from omniopsd.bench.words import (
    OFFICIAL,
    compile_folder,
    compile_words,
    corrected_2026,
    level1_homes,
    level2_homes,
    read_words,
    version_name,
)
from tests.bench_files import SHARED, needs_shared, synonym_rows, write_sheet, write_wheel_folder

WHEEL = {"up": {"high": ("lark", "shared")}, "down": {"zed": ("mole",), "deep": ("shared", "pit")}}


def sources(**changes: object) -> WordSources:
    """Five equal wheels; `birdy` could stand for a word of either sector."""
    plain = {
        "wheels": (WHEEL,) * 5,
        "synonyms": {"lark": ("lark",), "mole": ("mole",), "birdy": ("lark", "mole"), "ghost": ("nowhere",)},
        "forms": {"lark": ("larks", "both"), "mole": ("moles", "both"), "birdy": ("birdies",), "ghost": ()},
    }
    return WordSources(**{**plain, **changes})


def test_the_word_that_comes_first_by_code_point_speaks_for_a_form():
    table = compile_words(sources(), "own")
    assert table.clusters("birdies") == ("up",) * 5  # lark before mole
    assert table.clusters("both") == ("up",) * 5
    assert table.clusters("moles") == ("down",) * 5
    assert table.clusters("lark") == ("up",) * 5  # a base word is a form of itself


def test_a_candidate_off_the_wheel_leaves_room_for_the_next():
    other = {"sky": {"cloud": ("mole",)}}
    table = compile_words(sources(wheels=(other, *(WHEEL,) * 4)), "own")
    assert table.clusters("birdies") == ("sky", "up", "up", "up", "up")
    assert table.clusters("larks")[0] == ""


def test_a_known_form_without_cluster_is_in_the_table_and_an_unknown_one_is_not():
    table = compile_words(sources(), "own")
    assert "ghost" in table and table.clusters("ghost") == ("",) * 5
    assert "spook" not in table and table.clusters("spook", 2) == ("",) * 5


def test_case_and_space_count_in_the_table():
    table = compile_words(sources(), "own")
    assert table.clusters("Lark") == table.clusters("lark ") == ("",) * 5


def test_a_later_place_of_a_word_overwrites_an_earlier_one():
    assert level1_homes(WHEEL)["shared"] == "down"
    assert level2_homes(WHEEL)["shared"] == "deep"


def test_a_level_1_name_goes_to_its_first_level_2_name_of_the_alphabet():
    assert level2_homes(WHEEL)["down"] == "deep"
    assert level1_homes(WHEEL)["zed"] == "down"


def test_the_hash_is_that_of_the_sorted_json():
    table = compile_words(sources(), "own")
    rows = {form: [*table.clusters(form, 1), *table.clusters(form, 2)] for form in table.rows}
    text = json.dumps(rows, sort_keys=True, separators=(",", ":"))
    assert table.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_base_word_without_synonym_list_is_refused():
    with pytest.raises(WordsError, match="'stray' of the form list"):
        compile_words(sources(forms={"stray": ()}), "own")


def test_the_own_table_is_pinned():
    """mer-mini's scores hang on it: a change needs its reason in the commit."""
    assert own_table().sha256 == "f26d391e5cb96399c4fcbc66fac8041257db2e92f64a27f211fd0ce5354f4338"
    assert own_table().version == "own"


@pytest.mark.parametrize(
    ("anchor", "words"),
    [
        ("happy", "joyful joy happiness"),
        ("sad", "sorrowful unhappy depressed gloomy lonely miserable"),
        ("angry", "mad furious annoyed irritated enraged resentful hostile anger"),
        ("worried", "anxious nervous scared frightened fearful terrified uneasy concerned fear"),
    ],
)
def test_safe_words_of_the_own_table_share_the_row_of_their_anchor(anchor: str, words: str):
    rows = {own_table().clusters(word) for word in words.split()}
    assert rows == {own_table().clusters(anchor)} and "" not in own_table().clusters(anchor)


def test_the_own_table_has_the_traps():
    kept = {
        word: sum(map(bool, own_table().clusters(word)))
        for word in ("neutral", "disgust", "surprise", "happy and sad")
    }
    assert kept == {"neutral": 0, "disgust": 3, "surprise": 4, "happy and sad": 0}
    assert "neutral" not in own_table()
    frustrated, sad, angry = (own_table().clusters(word) for word in ("frustrated", "sad", "angry"))
    assert {(f == s, f == a) for f, s, a in zip(frustrated, sad, angry, strict=True)} == {
        (True, False),
        (False, True),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel_folder(tmp_path_factory.mktemp("own") / "wheel", own_sources())


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(written, tmp_path / "wheel")


def test_a_wheel_folder_gives_back_its_sources(folder: Path):
    table = compile_folder(folder)
    assert table.rows == own_table().rows and table.version == "unknown"


def test_a_folder_of_no_official_version_is_refused(folder: Path):
    with pytest.raises(WordsError, match="asked for the word table affectgpt .* found no official version"):
        read_words(folder)


def test_pandas_blanks_are_blank_in_the_files(folder: Path):
    with open(folder / "format.csv", "a", encoding="utf-8") as file:
        file.write('\n\nhappy,nan\nsad,"grief,griefs"\n')
    table = compile_folder(folder)
    assert table.clusters("griefs") == own_table().clusters("sad")
    assert "nan" not in table


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("wheel1.xlsx", [["level1", "level2"], ["up", "high"]], "no column level3"),
        ("wheel2.xlsx", [["level1", "level2", "level3"]], "the sheet has no rows"),
        ("wheel3.xlsx", [["level1", "level2", "level3"], [None, "high", "lark"]], "row 2 has no level1"),
        (
            "wheel4.xlsx",
            [["level1", "level2", "level3"], ["up", "high", 3]],
            "row 2: expected a word, found 3",
        ),
        ("synonym.xlsx", [["word_run1"]], "no column synonym_run1"),
        ("synonym.xlsx", [synonym_rows(own_sources())[0], ["yeti"] * 16], "row 2: 'yeti' is on none"),
    ],
)
def test_a_broken_sheet_is_named_with_its_row(folder: Path, name: str, rows: list, message: str):
    write_sheet(folder / name, rows)
    with pytest.raises(WordsError, match=f"{name}: {message}"):
        compile_folder(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wheel1.xlsx", b"no zip", "not an xlsx file"),
        ("format.csv", b"name,forms\na,b\n", "no column format"),
        ("format.csv", b"name,format\n,b\n", "2: the row has no name"),
        ("format.csv", b"name,format\n", "the file has no rows"),
        ("format.csv", b"name,format\n\xff,b\n", "byte 12 is not UTF-8"),
        ("synonym.xlsx", None, "cannot be read: no such file"),
    ],
)
def test_a_broken_file_is_named(folder: Path, name: str, content: bytes | None, message: str):
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(WordsError, match=f"{name}.*{message}"):
        compile_folder(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(WordsError, match="nowhere: no such folder"):
        read_sources(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "name"),
    [("MER2025", "affectgpt"), ("AffectGPT/MER2025", "affectgpt"), ("mer-2026", "mer2026"), ("own", "own")],
)
def test_versions_have_names(text: str, name: str):
    assert version_name(text) == name


def test_an_unknown_version_is_refused():
    with pytest.raises(WordsError, match="'mer2027' is no word table; write affectgpt"):
        version_name("mer2027")


@needs_shared
def test_the_official_folder_compiles_to_the_official_hash():
    table = read_words(SHARED / "emotion_wheel", "mer2025")
    assert table.version == "affectgpt" and table.sha256 == OFFICIAL["affectgpt"]
    assert len(table.rows) == 7386


@needs_shared
def test_the_official_folder_is_refused_as_the_other_version():
    with pytest.raises(WordsError, match="asked for the word table mer2026 .* found the affectgpt version"):
        read_words(SHARED / "emotion_wheel", "mer2026")


@needs_shared
def test_the_known_correction_gives_the_other_official_hash():
    table = compile_words(corrected_2026(read_sources(SHARED / "emotion_wheel")))
    assert table.version == "mer2026" and len(table.rows) == 7356


@needs_shared
def test_one_changed_form_is_noticed():
    given = read_sources(SHARED / "emotion_wheel")
    forms = {**given.forms, "happy": (*given.forms["happy"], "happyish")}
    assert compile_words(replace(given, forms=forms)).version == "unknown"
