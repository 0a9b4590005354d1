from __future__ import annotations

import pytest

from edgebench.__main__ import run
from edgebench.agent.runtimes import RUNTIMES


def test_runtimes_are_listed_with_package_and_file_format(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["list", "runtimes"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, runtime in RUNTIMES.items():
        assert f"{name} {runtime.title}: package {runtime.package}, {runtime.suffix} files" in said
    assert "onnxruntime, .onnx files (installed here)" in said


def test_a_runtime_that_is_not_there_is_said_to_be_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(["list", "runtimes"]) == 0
    assert "not installed here" in " ".join(capsys.readouterr().out.split())
