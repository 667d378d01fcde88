"""The shape of the code: who may import whom, and where Ray, vLLM and DeepSpeed may appear."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rollout", "teacher", "learner", "rationale_cache", "cluster", "omniopsd")
LEAVES = {"cluster.runtime", "cluster.addresses"}
GUARD = "cluster.output_guard"
MAY_IMPORT: dict[str, set[str]] = {
    "cluster": {"cluster"},
    "rationale_cache": {"rationale_cache", GUARD},
    # nothing that builds or answers a student's prompt can reach a rationale
    "rollout": {"rollout"} | LEAVES,
    "teacher": {"teacher", "rollout", "rationale_cache"} | LEAVES,
    "learner": {"learner", "teacher", "rollout"} | LEAVES,
    "omniopsd": set(PACKAGES),
}
# What makes a student prompt must not even reach the rationales, through whatever it imports.
STUDENT_MODULES = ["omniopsd.student_prompts", "omniopsd.samples"]
PRIVILEGED = ("rationale_cache", "teacher", "omniopsd.rationales", "omniopsd.prompts")
VLLM_FILES = {f"rollout/vllm_{noun}.py" for noun in ("engine", "layout", "text", "thinker", "weights")}
DEEPSPEED_FILES = {"learner/engine.py"}
HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers")
MOST_LINES = 400


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported, at any depth: `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(package: str, tree: ast.AST) -> list[str]:
    own = [name for name in imports(tree) if name.split(".")[0] in PACKAGES]
    return [n for n in own if not any(f"{n}.".startswith(f"{allowed}.") for allowed in MAY_IMPORT[package])]


def reached(modules: list[str]) -> set[str]:
    """Modules of ours that these import, directly or through others; `a.b.c` also counts as `a.b` and `a`."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = ROOT / module.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module in found or not file.is_file():
            continue
        found.add(module)
        names = [n for n in imports(parsed(file)) if n.split(".")[0] in PACKAGES]
        waiting += [*names, *(n.rpartition(".")[0] for n in names), module.rpartition(".")[0]]
    return found


def privileged_reached(modules: list[str]) -> list[str]:
    return sorted(m for m in reached(modules) if f"{m}.".startswith(tuple(f"{p}." for p in PRIVILEGED)))


def remote_calls(tree: ast.AST) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "remote"
    ]


@cache
def parsed(path: Path) -> ast.AST:
    text = path.read_text(encoding="utf-8")
    try:
        return ast.parse(text)
    except SystemError:  # Python 3.11 mixes up the depths of two parses that the collector lets overlap
        return ast.parse(text)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_go_one_way():
    wrong = [
        f"{name(path)}: {found}"
        for package in PACKAGES
        for path in sources(package)
        for found in wrong_imports(package, parsed(path))
    ]
    assert not wrong


def test_student_prompts_cannot_reach_a_rationale():
    rollout = [name(path).removesuffix(".py").replace("/", ".") for path in sources("rollout")]
    assert "omniopsd.samples" in reached(STUDENT_MODULES) and "rollout.renderer" in reached(STUDENT_MODULES)
    assert not privileged_reached([*STUDENT_MODULES, *rollout])
    assert "rationale_cache.types" in privileged_reached(["omniopsd.prompts"]), "the walk would find it"


def test_remote_is_called_in_cluster_only():
    calls = {
        name(path): lines
        for path in sources(*PACKAGES, "examples", "benchmarks")
        if not name(path).startswith("cluster/") and (lines := remote_calls(parsed(path)))
    }
    assert not calls


@pytest.mark.parametrize(("library", "files"), [("vllm", VLLM_FILES), ("deepspeed", DEEPSPEED_FILES)])
def test_an_engine_library_stays_in_its_files(library: str, files: set[str]):
    found = {
        name(path)
        for path in sources(*PACKAGES)
        for imported in imports(parsed(path))
        if imported.split(".")[0] == library
    }
    assert found <= files


def test_configs_and_records_import_without_the_heavy_libraries():
    modules = [
        name(path).removesuffix(".py").replace("/", ".")
        for path in sources(*PACKAGES)
        if path.stem in ("config", "types")
    ]
    assert "omniopsd.config" in modules and "rollout.types" in modules
    modules += ["omniopsd.config_file", "omniopsd.cli", "cluster.cli"]
    code = f"import sys, {', '.join(modules)}; print(*[n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_files_stay_short():
    long = {
        name(path): lines
        for path in sources(*PACKAGES, "examples", "benchmarks")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long


def test_no_file_is_called_utils_or_common():
    vague = [
        name(path)
        for path in sources(*PACKAGES)
        if {"util", "utils", "common", "helpers", "misc"} & {*path.with_suffix("").relative_to(ROOT).parts}
    ]
    assert not vague


def test_the_rules_catch_what_they_are_for():
    assert wrong_imports("rollout", ast.parse("def f():\n    from teacher.types import Support")) == [
        "teacher.types.Support"
    ]
    assert wrong_imports("rollout", ast.parse("from rationale_cache.types import Rationale"))
    assert wrong_imports("teacher", ast.parse("import cluster.ray_runtime")) == ["cluster.ray_runtime"]
    leak = ast.parse("def f():\n    from rationale_cache.reader import CacheReader")
    assert (
        wrong_imports("rollout", leak)
        == wrong_imports("learner", leak)
        == ["rationale_cache.reader.CacheReader"]
    )
    assert wrong_imports("teacher", leak) == []
    assert wrong_imports("learner", ast.parse("from cluster.runtime import Ref\nimport torch")) == []
    assert remote_calls(ast.parse("x = 1\nactor.run.remote(2)")) == [2]
