"""`edgebench targets check` as a user meets it; `list` and `show` are in test_cli.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from edgebench.__main__ import run
from edgebench.agent.device import device_record
from edgebench.cli.targets import check_page
from edgebench.pipeline.checking import Check, Timing
from edgebench.protocol import PROFILES
from edgebench.records import Estimate

TREES = Path(__file__).parents[1] / "agent" / "trees"
RUNTIME = {
    "name": "onnxruntime",
    "version": "1.20.0",
    "providers": ["CPUExecutionProvider"],
    "numpy": "1.24.4",
}
TIMING = Timing(
    protocol="quick",
    providers=("CPUExecutionProvider",),
    latency_p50_ms=0.31,
    to_itself=Estimate(point=1.001, low=0.995, high=1.004, n=6, method="order statistics"),
    noise_floor=0.009,
    smallest_detectable_change=0.018,
    steady=True,
    valid=True,
    invalid_reasons=(),
    seconds=4.9,
)


def page(tree: str, width: int, timing: Timing | None = TIMING, problem: str | None = None) -> str:
    device = device_record(TREES / tree, RUNTIME)
    found = Check(
        created="2026-11-21T14:00:00+00:00",
        edgebench_version="0.1.0",
        target={"name": "mine"},
        device=device,
        hazards=tuple(device["hazards"]),
        timing=timing,
        problem=problem,
    )
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(check_page(found))
    return captured.get()


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize(
    "tree", ["x86-server", "laptop", "raspberry-pi", "orin-nano", "container", "x86-vm"]
)
def test_page_fits(tree: str, width: int) -> None:
    text = page(tree, width)
    assert max(len(line) for line in text.splitlines()) <= width
    joined = " ".join(text.split())
    assert "changes of latency of 1.8 % and more" in joined
    assert "1.001" in joined
    assert "None" not in text


def test_page_of_a_laptop() -> None:
    text = page("laptop", 160)
    assert text.startswith("grade B  mine  floating")
    assert "the clocks float (governor powersave)" in text
    assert "400 to 4700 MHz (powersave, 2 processors)" in text
    assert "turbo on" in text
    assert "cooling by Processor (step 2 of 3)" in text
    assert "it runs on its battery" in text


def test_page_of_an_orin() -> None:
    text = page("orin-nano", 160)
    assert "NVIDIA Jetson Orin Nano Developer Kit" in text
    assert "0 (15W), L4T 36.3.0" in text
    assert "GPU 306 to 625 MHz" in text
    assert "INA3221 VDD_IN" in text


def test_page_without_hazards_or_timing() -> None:
    text = page("x86-vm", 80, timing=None)
    assert "none in sight" in text
    assert "left out" in text
    assert "not possible: no such provider" in page("x86-vm", 80, None, "no such provider")


def test_what_a_device_says_cannot_steer_the_terminal() -> None:
    device = device_record(TREES / "x86-vm", RUNTIME)
    device["identity"]["board"] = "\x1b[2Jgone"
    found = Check(
        created="", edgebench_version="", target={"name": "mine"}, device=device, hazards=()
    )
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(check_page(found))
    assert "\x1b" not in captured.get()


def test_check_times_and_grades(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = PROFILES["quick"].model_copy(
        update={"pairs": 2, "block_s": 0.002, "warmup_s": 0.0, "warmup_cap_s": 0.05}
    )
    monkeypatch.setitem(PROFILES, "quick", short)
    assert run(["targets", "check", "cpu", "--json"]) == 0
    found = Check.model_validate_json(capsys.readouterr().out)
    assert found.timing is not None
    assert found.timing.smallest_detectable_change is not None


def test_check_without_timing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets", "check", "cpu", "--no-timing"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("grade ")
    assert "onnxruntime" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["jetsno"], 2, "did you mean 'jetson'?"),
        (["cpu", "--host", "me@there"], 2, "not over ssh"),
        (["jetson"], 4, "has no host"),
        (["cpu", "--set", "python=/nowhere/python"], 4, "cannot be started"),
    ],
)
def test_what_cannot_be_checked(
    arguments: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EDGEBENCH_JETSON_HOST", raising=False)
    assert run(["targets", "check", *arguments]) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_provider_that_is_missing_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["targets", "check", "cpu", "--set", "runtime.providers=[NoExecutionProvider]"])
    assert code == 4
    assert "not possible: target 'cpu'" in capsys.readouterr().out


def test_json_is_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets", "check", "cpu", "--no-timing", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["schema"] == "edgebench.check/1"
    assert shown.err == ""
