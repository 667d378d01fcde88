"""The commands: what they pass on, and what a user sees when something is wrong."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import cluster.cli
from cluster.runtime import RuntimeFault
from omniopsd.cli import execute, main, parser
from omniopsd.own_packages import ShadowedPackage, check_own_packages

ROOT = Path(__file__).resolve().parent.parent
RUN = "run: {name: x, steps: 10}\nmodel: {path: m}\ndata: {train: t.jsonl}\n"


def parsed(text: str) -> dict[str, object]:
    values = vars(parser().parse_args(text.split()))
    return {key: value for key, value in values.items() if key != "run"}


def raising(error: BaseException) -> Namespace:
    def run(options: Namespace) -> None:
        raise error

    return Namespace(run=run)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("train run.yaml", {"config": "run.yaml", "set": [], "resume": False, "workdir": None}),
        (
            "train run.yaml --set a.b=1 --set c.d=2 --resume --workdir d",
            {"config": "run.yaml", "set": ["a.b=1", "c.d=2"], "resume": True, "workdir": "d"},
        ),
        ("check run.yaml --limit 3", {"config": "run.yaml", "set": [], "limit": 3}),
        ("eval runs/x test.jsonl", {"source": "runs/x", "data": "test.jsonl", "set": [], "out": None}),
        ("eval m t.jsonl --out o.json", {"source": "m", "data": "t.jsonl", "set": [], "out": "o.json"}),
        ("export runs/x out", {"source": "runs/x", "out": "out"}),
        ("data mer-mini --out d --clips 8", {"out": "d", "clips": 8, "seed": 0, "looks": "train"}),
        (
            "data mer-mini --out d --clips 8 --seed 3 --looks test",
            {"out": "d", "clips": 8, "seed": 3, "looks": "test"},
        ),
        (
            "coldstart --out m --steps 5 --seed 1",
            {"config": None, "set": [], "out": "m", "steps": 5, "seed": 1},
        ),
        ("demo", {"root": "runs", "seed": 0}),
        ("demo --root x --seed 2", {"root": "x", "seed": 2}),
    ],
)
def test_arguments(text, values):
    assert parsed(text) == values


@pytest.mark.parametrize(
    "text",
    [
        "", "trian run.yaml", "train", "check run.yaml --limit 0", "data", "data mer-mini --out d",
        "data mer-mini --out d --clips -1", "data mer-mini --out d --clips 8 --looks odd", "demo --seed -1",
    ],
)  # fmt: skip
def test_wrong_arguments_end_with_usage(text, capsys):
    with pytest.raises(SystemExit) as end:
        parser().parse_args(text.split())
    assert end.value.code == 2
    assert "usage: omniopsd" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [RuntimeFault("rollout-0.generate: no answer within 600 s"), UnicodeError("odd")]
)
def test_a_user_error_is_one_line(error, capsys):
    assert execute(raising(error)) == 2
    assert capsys.readouterr().err == f"omniopsd: error: {error}\n"


def test_several_problems_are_one_line_each(capsys):
    assert execute(raising(ShadowedPackage("one\ntwo"))) == 2
    assert capsys.readouterr().err == "omniopsd: error:\n  one\n  two\n"


def test_a_bare_value_error_tells_how_to_find_its_place(capsys):
    assert execute(raising(ValueError("shapes differ"))) == 2
    assert "OMNIOPSD_DEBUG=1" in capsys.readouterr().err


def test_debug_raises(monkeypatch):
    monkeypatch.setenv("OMNIOPSD_DEBUG", "1")
    with pytest.raises(RuntimeFault):
        execute(raising(RuntimeFault("dead")))


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        execute(raising(ZeroDivisionError()))


def test_an_interrupt_is_130():
    assert execute(raising(KeyboardInterrupt())) == 130


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_bad_config_stops_before_anything_heavy(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)
    assert main([command, "run.yaml", "--set", "rollout.replica=2"]) == 2
    assert capsys.readouterr().err == (
        'omniopsd: error: --set rollout.replica: unknown key; did you mean "replicas"?\n'
    )


def test_the_program_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "omniopsd.cli", "train", "no.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        2, "omniopsd: error: no.yaml: cannot be read: no such file or directory\n"
    )  # fmt: skip


def test_a_shadowed_package_is_named(tmp_path):
    check_own_packages()
    with pytest.raises(ShadowedPackage, match=f"package rollout comes from {ROOT / 'rollout'}, not from"):
        check_own_packages(tmp_path)


def test_the_cluster_command_names_its_verbs(capsys):
    with pytest.raises(SystemExit) as end:
        cluster.cli.main(["--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0
    assert all(verb in told for verb in ("up", "down", "status", "submit", "logs", "stop-job"))
