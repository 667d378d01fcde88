"""The prompts of the extraction steps: byte for byte from a file in the official form, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from omniopsd.bench.templates import TemplateError, own_templates, read_templates

# The form of the official file (nested template functions, continued lines, runs of spaces), in words of our own.
OFFICIAL_FORM = '''
raise SystemExit("this file must not be run")

def other(reason=None):
    def func_prompt_template(reason):
        prompt = f"""Something else: {reason}; """
        return prompt

def reason_to_openset_qwen(model=None, reason=None, batch_reasons=None):

    def func_prompt_template(reason):
        prompt = f"""Name the states. \\
Write [] if there are none. \\
Input: {reason}; Output: """
        return prompt

    if reason is not None:
        return func_prompt_template(reason)

def openset_to_sentiment_qwen(model=None, reason=None, batch_reasons=None):
    def func_prompt_template(reason):
        prompt = f"""Choose one. \\
            Caf\u00e9 {{braces}} \\
            Input: {reason}; Output: """
        return prompt
    if reason is not None:
        return func_prompt_template(reason)
'''


def test_official_prompts_are_read_to_the_byte_without_running_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "AffectGPT" / "toolkit" / "utils"
    folder.mkdir(parents=True)
    (folder / "qwen.py").write_text(OFFICIAL_FORM, encoding="utf-8")
    names: dict[str, object] = {}
    exec(OFFICIAL_FORM.replace('raise SystemExit("this file must not be run")', ""), names)
    for path in (tmp_path / "AffectGPT", folder / "qwen.py"):
        found = read_templates(path)
        assert found.source == "official"
        for text in ("[happy, sad]", "He said {this} and {text}."):
            assert found.fill("labels", text) == names["reason_to_openset_qwen"](reason=text)  # type: ignore[operator]
            assert found.fill("polarity", text) == names["openset_to_sentiment_qwen"](reason=text)  # type: ignore[operator]


def test_own_and_file_prompts(tmp_path: Path) -> None:
    own = own_templates()
    assert own.source == "own" and own.fill("labels", "She smiles.").count("She smiles.") == 1
    (tmp_path / "p.yaml").write_text('labels: "A {text} B"\npolarity: "C {text}"\n')
    found = read_templates(tmp_path / "p.yaml")
    assert (found.fill("labels", "x"), found.fill("polarity", "y"), found.source) == ("A x B", "C y", "file")
    assert found.sha256 != own.sha256


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("labels: x {text}\n", r"holds \['labels'\]; write the two keys"),
        ("labels: x\npolarity: y {text}\n", "labels must be a text with {text} exactly once"),
        ("labels: '{text} {text}'\npolarity: y {text}\n", "labels must be a text"),
        ("- a\n", "holds list"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_bad_prompt_files(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(TemplateError, match=told):
        read_templates(tmp_path / "p.yaml")


def test_folders_and_sources_that_are_not_the_release(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="0 files utils/qwen.py"):
        read_templates(tmp_path)
    (tmp_path / "qwen.py").write_text("def reason_to_openset_qwen(x):\n    return 'no f-string'\n")
    with pytest.raises(TemplateError, match="has 0 f-strings and one was expected"):
        read_templates(tmp_path / "qwen.py")
