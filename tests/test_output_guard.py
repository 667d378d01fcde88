"""Secrets stay out of prints, logs, tracebacks and errors of our processes."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import cloudpickle
import pytest

from cluster import cli as cluster_cli
from cluster import output_guard
from cluster.output_guard import (
    GuardedStream,
    HiddenError,
    guard_output,
    hide_secrets,
    learn_secret,
    learn_variables,
    looks_secret,
    secrets_in,
    without_secrets,
)
from cluster.upload import UploadError, stage
from omniopsd.config_file import ConfigError, load_config
from rationale_cache.secret import read_secret
from tests.run_scene import run_yaml

CANARY = "canary/77 é+d1'x"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that knows no secret yet, and whose logging is as before afterwards."""
    monkeypatch.setattr(output_guard, "_known", {})
    monkeypatch.setattr(output_guard, "_pattern", None)
    monkeypatch.setattr(output_guard, "_variables", set())
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    factory = logging.getLogRecordFactory()
    monkeypatch.setattr(logging, "_logRecordFactory", factory)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("OPENAI_API_KEY", True), ("HF_TOKEN", True), ("AWS_SECRET_ACCESS_KEY", True), ("PGPASSWORD", True),
        ("GOOGLE_APPLICATION_CREDENTIALS_JSON", True), ("PROXY_AUTHORIZATION", True),
        ("TOKENIZERS_PARALLELISM", False), ("SSH_AUTH_SOCK", False), ("RAY_AUTH_TOKEN_PATH", False),
        ("GIT_AUTHOR_NAME", False), ("PATH", False), ("RAY_AUTH_MODE", False),
    ],
)  # fmt: skip
def test_which_variables_hold_secrets(name: str, secret: bool) -> None:
    assert looks_secret(name) == secret


def test_the_secrets_of_an_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("f" * 64 + "\n")
    environment = {
        "A_KEY": CANARY, "B_KEY": "short", "LOGIN": "someone-else", "HOME": "/home/someone",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }  # fmt: skip
    assert secrets_in(environment, ["LOGIN", "ABSENT"]) == {
        CANARY: "the environment variable A_KEY",
        "someone-else": "the environment variable LOGIN",
        "f" * 64: "the file behind RAY_AUTH_TOKEN_PATH",
    }
    assert secrets_in({"RAY_AUTH_TOKEN_PATH": str(tmp_path)}) == {}


def test_every_written_form_is_hidden() -> None:
    learn_secret(CANARY)
    learn_secret(CANARY + "-and-more")
    forms = [CANARY, quote(CANARY, safe=""), json.dumps(CANARY), repr([CANARY])]
    forms += [base64.b64encode(CANARY.encode()).decode(), repr({"key": f"{CANARY}-and-more"})]
    for text in forms:
        hidden = hide_secrets(f"<{text}>")
        assert "***" in hidden and "77" not in hidden and "more" not in hidden
    assert hide_secrets("nothing here") == "nothing here"


def test_a_stream_stays_a_stream() -> None:
    learn_secret(CANARY)
    inner = io.StringIO()
    stream = GuardedStream(inner)
    assert stream.write(f"a {CANARY}") == len(f"a {CANARY}")
    stream.writelines(["b ", CANARY, "\n"])
    print("c", CANARY, file=stream, flush=True)
    assert inner.getvalue() == "a ***b ***\nc ***\n" and not stream.isatty()


def test_log_records_of_every_handler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_API_KEY", CANARY)
    guard_output()
    guard_output()
    log = logging.getLogger("guarded")
    log.setLevel(logging.DEBUG)
    log.propagate = False  # pytest's own handler would raise at the wrong template
    handler = logging.FileHandler(tmp_path / "log")
    log.addHandler(handler)
    seen: list[object] = []
    log.addFilter(lambda record: seen.append(record.args) or True)
    try:
        log.debug("sent %s to %s", {"authorization": f"Bearer {CANARY}"}, "there")
        log.info("plain %d of %d", 1, 2)
        try:
            raise ValueError(f"refused {CANARY}")
        except ValueError:
            log.exception("it failed", stack_info=True)
        log.warning("wrong template %d %d", CANARY)  # logging's own complaint goes to stderr, guarded too
    finally:
        log.removeHandler(handler)
        handler.close()
    complaint = capsys.readouterr().err
    assert "Logging error" in complaint and "***" in complaint and CANARY not in complaint
    text = (tmp_path / "log").read_text()
    assert CANARY not in text and text.count("***") == 2 and "ValueError: refused ***" in text
    assert "Traceback" in text and "Stack (most recent call last)" in text
    assert seen[1] == (1, 2)  # what holds no secret keeps its parts


class Sealed(Exception):
    """An error that builds its text from something else than its arguments."""

    def __init__(self, header: str) -> None:
        super().__init__("sealed")
        self.header = header

    def __str__(self) -> str:
        return f"refused {self.header}"


def test_errors_leave_without_secrets_and_with_their_type() -> None:
    learn_secret(CANARY)
    plain = ValueError("nothing")
    assert without_secrets(plain) is plain
    error = ValueError(f"key {CANARY} refused", 7)
    error.add_note(f"it was {CANARY}")
    error.__cause__ = KeyError(CANARY)
    clean = without_secrets(error)
    assert clean is error and clean.args == ("key *** refused", 7) and clean.__notes__ == ["it was ***"]
    assert clean.__cause__ is not None and clean.__cause__.args == ("***",)
    for one in (Sealed(CANARY), FileNotFoundError(2, "No such file", f"/x/{CANARY}")):
        sent = without_secrets(one)
        assert type(sent) is HiddenError and type(one).__name__ in str(sent) and "***" in str(sent)
        assert CANARY.encode() not in cloudpickle.dumps(sent) and sent.__cause__ is None


def test_an_error_that_only_carries_a_secret_leaves_it_behind() -> None:
    learn_secret(CANARY)
    error = ValueError("refused")
    error.request = {"authorization": CANARY}  # type: ignore[attr-defined]
    assert type(without_secrets(error)) is HiddenError


def test_what_is_read_as_a_key_is_hidden_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("sk-canary-from-file\n")
    file.chmod(0o600)
    read_secret(None, str(file))
    monkeypatch.setenv("OUR_LOGIN", "canary-login")
    learn_variables(["OUR_LOGIN"])
    assert hide_secrets("sk-canary-from-file canary-login") == "*** ***"


def test_a_config_that_holds_a_secret_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_yaml(tmp_path, teacher={"template": "sk-canary-in-yaml {evidence}"})
    load_config(path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-in-yaml")
    with pytest.raises(
        ConfigError, match=r"teacher\.template: holds the value of .* OPENAI_API_KEY"
    ) as error:
        load_config(path)
    assert "canary" not in str(error.value)
    with pytest.raises(ConfigError, match="--set run.name: holds the value"):
        load_config(run_yaml(tmp_path / "2"), ["run.name=sk-canary-in-yaml"])
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("name: dev\nprovider: local\njob: {workdir: /data/sk-canary-in-yaml}\n")
    assert cluster_cli.main(["check", "-f", str(cluster)]) == 2
    assert "cluster.yaml:3: job.workdir: holds the value" in capsys.readouterr().err


def test_a_secret_in_a_comment_is_not_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    (tmp_path / "run.yaml").write_text(f"run:\n  name: a  # {CANARY}\n")
    (tmp_path / "job").mkdir()
    with pytest.raises(UploadError, match=r"run\.yaml:2: holds the value of .* OPENAI_API_KEY") as error:
        stage(tmp_path / "run.yaml", tmp_path / "job")
    assert CANARY not in str(error.value)


@pytest.mark.parametrize("program", ["omniopsd.cli", "cluster.cli"])
def test_the_traceback_of_our_programs(program: str) -> None:
    code = (
        f"import argparse, os, sys, {program} as program\n"
        "def run(options): raise IndexError('bug with ' + os.environ['SOME_API_KEY'])\n"
        "top = argparse.ArgumentParser(); top.set_defaults(run=run, speaks=False)\n"
        "program.parser = lambda: top\n"
        "print('begin', os.environ['SOME_API_KEY'])\n"
        "program.main([])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
        env={"PATH": "/usr/bin", "SOME_API_KEY": CANARY},
    )  # fmt: skip
    assert done.returncode == 1 and "IndexError: bug with ***" in done.stderr and CANARY not in done.stderr
    assert CANARY in done.stdout, "before main nobody hides anything: the test sees what it looks for"
