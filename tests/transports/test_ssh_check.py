"""`edgebench targets check jetson --host`: the whole line over a real sshd on loopback."""

from __future__ import annotations

import pytest

from edgebench.__main__ import run
from edgebench.pipeline.checking import Check
from edgebench.protocol import PROFILES


@pytest.fixture
def command(sshd, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("EDGEBENCH_SSH_OPTIONS", f"-F {sshd.config}")
    short = PROFILES["quick"].model_copy(
        update={"pairs": 2, "block_s": 0.002, "warmup_s": 0.0, "warmup_cap_s": 0.05}
    )
    monkeypatch.setitem(PROFILES, "quick", short)
    return ["targets", "check", "jetson", "--set", f"python={sshd.python}"]


def test_over_ssh(command: list[str], sshd, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--host", sshd.host, "--json"]) == 0
    shown = capsys.readouterr()
    found = Check.model_validate_json(shown.out)
    assert found.timing is not None
    assert found.timing.smallest_detectable_change is not None
    assert found.hazards[0] == "it does not look like a Jetson: it has no L4T release file"
    assert shown.err == ""


def test_a_host_out_of_reach(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--host", "nobody@127.0.0.1:1"]) == 4
    shown = capsys.readouterr()
    assert "it refuses the connection" in shown.err
    assert shown.err.count("\n") == 1
