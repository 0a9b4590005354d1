"""`edgebench run --target jetson --host`: the whole line over a real sshd on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgebench.__main__ import run

RECIPE = """
model: lenet
model_options: {width: 0.25}
data: digits
training: {epochs: 2, batch_size: 32, learning_rate: 3.0e-3}
variants:
  int8: [{technique: ptq}]
controls: {independent: 1}
protocol: {processes: 1, pairs: 6, block_s: 0.01, warmup_s: 0.01, warmup_cap_s: 0.05}
gates:
  - {metric: size_ratio, max: 0.9}
"""


@pytest.fixture
def command(tmp_path, sshd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEBENCH_SSH_OPTIONS", f"-F {sshd.config}")
    Path("small.yaml").write_text(RECIPE)
    return ["run", "small.yaml", "--target", "jetson", "--set", f"target.python={sshd.python}"]


def test_over_ssh(command, sshd, capsys) -> None:
    assert run([*command, "--host", sshd.host]) == 0
    record = json.loads(Path("runs/small-jetson/run.json").read_text())
    assert record["target"]["host"] == sshd.host
    assert record["verdict"] == "GO"
    assert all(v["status"] == "measured" for v in record["variants"])
    assert "GO" in capsys.readouterr().out


def test_the_host_from_the_environment(command, sshd, monkeypatch, capsys) -> None:
    monkeypatch.setenv("EDGEBENCH_JETSON_HOST", sshd.host)
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"]["host"] == sshd.host


@pytest.mark.parametrize(
    ("host", "said"),
    [("nobody@127.0.0.1:1", "it refuses the connection"), ("me@host.invalid", "host.invalid")],
)
def test_a_host_out_of_reach(command, capsys, host, said) -> None:
    assert run([*command, "--host", host]) == 4
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert not Path("runs/small-jetson/build.json").exists()


def test_a_device_that_is_no_jetson_is_told(command, sshd) -> None:
    run([*command, "--host", sshd.host])
    record = json.loads(Path("runs/small-jetson/run.json").read_text())
    assert any("does not look like a Jetson" in w for w in record["warnings"])
