"""The cluster YAML: what it takes, and that everything else is refused with place and suggestion."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.cluster_file import load_cluster
from cluster.init_yaml import template
from cluster.yaml_file import ConfigError
from tests.cluster_scene import run

LOCAL = "name: dev\nprovider: local\n"
SSH = (
    "name: dev\nprovider: ssh\nssh: {user: ubuntu, key: ~/.ssh/id}\nhead: {host: node0}\n"
    "workers:\n  - {name: gpu, hosts: [node1], gpus: 8}\nsecurity: {network: private, insecure_network: true}\n"
)
PROVIDERS = ("local", "ssh", "aws", "gcp", "azure", "kuberay", "slurm")


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_cluster(write(folder, text))
    return str(error.value).replace(f"{folder}/", "")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_template_is_a_sound_cluster(tmp_path: Path, provider: str) -> None:
    assert load_cluster(write(tmp_path, template(provider))).provider == provider


def test_init_writes_a_new_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    assert run("init", "local", "-f", file) == 0
    assert run("check", "-f", file) == 0
    assert run("init", "local", "-f", file) == 2
    assert "exists; remove it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae: dev\nprovider: local\n", 'cluster.yaml:1: nmae: unknown key; did you mean "name"?'),
        (LOCAL + "workers:\n  - {nam: a}\n", 'cluster.yaml:4: workers.0.nam: unknown key; did you mean "name"?'),
        (LOCAL + "workers:\n  - {count: 1}\n", "workers.0.name: required and not given (Name of the group)"),
        ("name: dev\nprovider: ash\n", 'cluster.yaml:2: provider: expected local, ssh, aws'),
        (LOCAL + "head: {gpus: true}\n", "head.gpus: expected a whole number, found true"),
        (LOCAL + "ssh: {user: me, key: k}\n", "ssh: has no effect with provider: local; leave it out"),
        ("name: dev\nprovider: ssh\n", "provider: ssh needs the section ssh; write it"),
        (LOCAL + "workers: [{name: a}, {name: a}]\n", '"a" is taken'),
        (SSH.replace("[node1]", "[node0]"), "host node0 is given 2 times"),
        (SSH.replace("[node1]", "[]"), "0 hosts, and count is 1"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_line_and_remedy(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(tmp_path, text)


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    text = refusal(
        tmp_path, "name: Dev\nprovider: local\nhead: {gpu: 1}\nworkers:\n  - {name: a, count: -1}\n"
    )
    assert [line.split(": ")[0] for line in text.splitlines()] == [f"cluster.yaml:{n}" for n in (1, 3, 5)]


@pytest.mark.parametrize(
    "text",
    [
        LOCAL + "head: !!python/object/apply:os.system [touch /tmp/pwn]\n",
        LOCAL + "a: &a [x,x]\nb: [*a,*a]\n",
        LOCAL + "name: other\n",
        LOCAL + "#" + "x" * 10_000_000,
        LOCAL + "head: " + "[" * 5000 + "]" * 5000,
    ],
    ids=["tag", "alias", "duplicate", "ten megabytes", "deep"],
)
def test_s8_yaml_that_is_more_than_data_is_refused_at_once(tmp_path: Path, text: str) -> None:
    begin = time.process_time()
    refusal(tmp_path, text)
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_s4_an_open_dashboard_needs_expose_and_tls(tmp_path: Path, host: str) -> None:
    yaml = LOCAL + f'security: {{dashboard_host: "{host}"'
    assert "dashboard_host:" in refusal(tmp_path, yaml + "}\n")
    if host == "::":  # no address to write in a URL
        return
    assert "write the section security.tls" in refusal(tmp_path, yaml + ", expose: true}\n")
    tls = ", tls: {certificate: /c, key: /k, authority: /a}"
    assert load_cluster(write(tmp_path, yaml + f", expose: true{tls}}}\n")).security.expose


def test_s2_and_s13_several_machines_need_a_private_and_trusted_network(tmp_path: Path) -> None:
    assert load_cluster(write(tmp_path, SSH)).node_count == 2
    assert "security.network: several machines need" in refusal(
        tmp_path, SSH.replace("network: private, ", "")
    )
    assert "insecure_network: true when" in refusal(tmp_path, SSH.replace(", insecure_network: true", ""))
    assert "no effect on one machine" in refusal(tmp_path, LOCAL + "security: {network: private}\n")


@pytest.mark.parametrize(
    "host",
    [
        "-oProxyCommand=touch /tmp/pwn",
        "a; touch /tmp/pwn",
        "a\\ntouch",
        "$(id)",
        "a b",
        "`id`",
        "a|b",
        "../a",
        "",
    ],
)
def test_s9_names_that_a_shell_or_ssh_would_read_are_refused(tmp_path: Path, host: str) -> None:
    assert "head.host: expected a host name" in refusal(tmp_path, SSH.replace("node0", f'"{host}"'))
    assert "ssh.user: expected a user name" in refusal(tmp_path, SSH.replace("ubuntu", f'"{host}"'))
    assert "name: expected a name of" in refusal(tmp_path, LOCAL.replace("dev", f'"{host}"'))
    assert "labels" in refusal(tmp_path, LOCAL + f'head: {{labels: {{gpu: "{host}"}}}}\n')


def test_s6_a_secret_is_named_not_written(tmp_path: Path) -> None:
    text = refusal(tmp_path, LOCAL + 'security: {pass_env: ["HF_TOKEN=hf_abc"]}\n')
    assert "the name of an environment variable, not its value" in text


def test_staged_faults_do_not_reach_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIOPSD_FAULTS", "rollout.after_generate=kill@3")
    assert "staged faults are for tests" in refusal(tmp_path, LOCAL)


def test_up_asks_and_shows_the_plan_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, LOCAL + "workers: [{name: gpu, count: 2, gpus: 2}]\n")
    assert run("up", "-f", file) == 2
    shown = capsys.readouterr()
    assert "gpu" in shown.out and "start 3 nodes? There is no terminal to ask on; add -y" in shown.err
    assert run("up", "--dry-run", "-f", file) == 0
    assert capsys.readouterr().out.count("--node-ip-address=127.0.0.") == 3
    assert run("status", "-f", file) == 2
    assert "is not up" in capsys.readouterr().err
