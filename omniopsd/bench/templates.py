"""The prompts of the two extraction steps, and whose words they are.

Step A turns a reply into a list of labels, step B a list of labels into a polarity. Official scores need the
official text to the byte, so it is read from the user's copy of the release (`toolkit/utils/qwen.py`) without
running it, or from a file of theirs; the wording shipped here is the project's own, and a score made with it says
so.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

Source = Literal["own", "official", "file"]
SLOT = "{text}"
OFFICIAL_FILE = "qwen.py"
OFFICIAL_FUNCTIONS = {"labels": "reason_to_openset_qwen", "polarity": "openset_to_sentiment_qwen"}

OWN_LABELS = (
    "You read notes about how people in a video clip feel. Name the emotions of the person described in most "
    "detail. Write them as one list in square brackets, separated by commas, and write nothing else. Only list "
    "emotions that the note states clearly; if it states none, write []. Note: It cannot be told how he feels. "
    "Emotions: [] Note: She seems glad at first, then hurt and furious. Emotions: [glad, hurt, furious] "
    "Note: {text} Emotions: "
)
OWN_POLARITY = (
    "Here are words for a person's feelings. Which one of positive, negative or neutral fits them best? Write that "
    "one word and nothing else. Words: [delighted] Choice: positive Words: [] Choice: neutral Words: {text} Choice: "
)


class TemplateError(ValueError):
    """Prompts that cannot be read, or that do not take exactly one text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """`labels` (step A) and `polarity` (step B), each with one `{text}` where the text goes."""

    labels: str
    polarity: str
    source: Source

    def fill(self, step: Literal["labels", "polarity"], text: str) -> str:
        """One prompt; the text is put in as it is, braces and all."""
        head, tail = getattr(self, step).split(SLOT)
        return f"{head}{text}{tail}"

    @property
    def sha256(self) -> str:
        """Names the wording."""
        return hashlib.sha256(f"{self.labels}\0{self.polarity}".encode()).hexdigest()


def own_templates() -> Templates:
    """The project's own wording."""
    return Templates(labels=OWN_LABELS, polarity=OWN_POLARITY, source="own")


def read_templates(path: str | Path) -> Templates:
    """From a YAML file (`labels:` and `polarity:`), `qwen.py`, or the folder of the official release.

    Raises TemplateError.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".py":
        return _official(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TemplateError(
            f"{path}: cannot be read ({error}); give a YAML file, or the official folder"
        ) from error
    if not isinstance(content, dict) or set(content) != {"labels", "polarity"}:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise TemplateError(f"{path}: holds {found}; write the two keys labels and polarity")
    for key, text in content.items():
        if not isinstance(text, str) or text.count(SLOT) != 1:
            raise TemplateError(f"{path}: {key} must be a text with {SLOT} exactly once")
    return Templates(labels=content["labels"], polarity=content["polarity"], source="file")


def _official(path: Path) -> Templates:
    file = _official_file(path)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise TemplateError(
            f"{file}: cannot be read as Python ({error}); restore the official file"
        ) from error
    found = {step: _prompt_of(tree, name, file) for step, name in OFFICIAL_FUNCTIONS.items()}
    return Templates(labels=found["labels"], polarity=found["polarity"], source="official")


def _official_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.rglob(f"utils/{OFFICIAL_FILE}"))
    fitting = [file for file in files if OFFICIAL_FUNCTIONS["labels"] in file.read_text(errors="replace")]
    if len(fitting) != 1:
        raise TemplateError(
            f"{path}: {len(fitting)} files utils/{OFFICIAL_FILE} with {OFFICIAL_FUNCTIONS['labels']}; "
            "give the path of the one to use"
        )
    return fitting[0]


def _prompt_of(tree: ast.AST, function: str, file: Path) -> str:
    """The f-string that a function's inner template builds, its one value replaced by the slot."""
    outer = _function(tree, function)
    texts = [node for node in ast.walk(outer) if isinstance(node, ast.JoinedStr)] if outer else []
    if len(texts) != 1:
        raise TemplateError(
            f"{file}: {function} has {len(texts)} f-strings and one was expected; is this the official file?"
        )
    pieces = [part.value if isinstance(part, ast.Constant) else SLOT for part in texts[0].values]
    prompt = "".join(str(piece) for piece in pieces)
    values = [part for part in texts[0].values if isinstance(part, ast.FormattedValue)]
    plain = all(
        isinstance(v.value, ast.Name) and v.conversion == -1 and v.format_spec is None for v in values
    )
    if prompt.count(SLOT) != 1 or len(values) != 1 or not plain:
        raise TemplateError(f"{file}: the prompt of {function} does not take exactly one plain text")
    return prompt


def _function(tree: ast.AST, name: str) -> ast.FunctionDef | None:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)
    return next(nodes, None)
