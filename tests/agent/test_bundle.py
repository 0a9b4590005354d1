from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgebench.agent.bundle import open_bundle
from edgebench.agent.errors import AgentError


@pytest.fixture
def bundle(bundles: ModuleType, tmp_path: Path) -> Path:
    base = bundles.classifier(tmp_path / "base.onnx")
    return bundles.make_bundle(tmp_path / "bundle", {"base": base, "small": base})


def zipped(bundle: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(bundle.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(bundle).as_posix())
    return target


def refusal(source: Path, tmp_path: Path) -> str:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(AgentError) as caught:
        open_bundle(source, scratch)
    assert caught.value.code == "bundle"
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.problem
    return caught.value.problem


def test_folder_is_read_in_place(bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle, tmp_path)
    assert [m["name"] for m in opened.models] == ["base", "small"]
    assert opened.path(opened.base["file"]) == bundle / "models/base.onnx"


def test_zip_is_unpacked_into_the_scratch_folder(bundle: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    opened = open_bundle(zipped(bundle, tmp_path / "bundle.zip"), scratch)
    assert opened.path("inputs.npy").read_bytes() == (bundle / "inputs.npy").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "edgebench.bundle/9"}, "this agent reads 'edgebench.bundle/1'"),
        ({"run_id": "../up"}, "run_id: '../up'"),
        ({"seed": -1}, "seed: -1 is negative"),
        ({"seed": True}, "seed is True"),
        ({"protocol": {}}, "protocol.processes is missing"),
        ({"protocol__pairs": 0}, "protocol.pairs: 0; it has to be at least 1"),
        ({"protocol__cpu": [-1]}, "neither null nor a list of processor numbers"),
        ({"runtime__providers": []}, "neither 'auto' nor a list"),
        ({"runtime__threads": 0}, "runtime.threads: 0"),
        ({"runtime__session_config": {"a": 1}}, "not a mapping of text to text"),
        ({"protocol__max_processes": 0}, "protocol.max_processes: 0; it has to be at least 1"),
        ({"protocol__half_width": -0.1}, "protocol.half_width: -0.1 is neither null nor a positi"),
        ({"protocol__time_cap_s": 0}, "protocol.time_cap_s: 0 is neither null nor a positive"),
        ({"protocol__block_s": float("nan")}, "protocol.block_s: nan"),
        ({"protocol__energy_s": -1}, "protocol.energy_s: -1; it has to be at least 0"),
        ({"protocol__confirm": 1}, "protocol.confirm is 1"),
        ({"answers": "words"}, "answers: 'words' is none of classes, any, all"),
        ({"inputs": []}, "inputs: there are none"),
        ({"inputs": [7]}, "inputs[0] is not a JSON object"),
        ({"inputs__0__dtype": "object"}, "inputs[0].dtype: 'object'; it has to be one of float32"),
        ({"inputs__0__dtype": "int64"}, "inputs.npy is float32 [100, 1, 4, 4]"),
        ({"inputs__0__shape": [100, 1, 4, 5]}, "inputs.npy is float32 [100, 1, 4, 4]"),
        ({"inputs__0__shape": []}, "inputs[0].shape: [] is not [N, ...]"),
        ({"models__1__limits": {"latency_ratio": {"max": "1"}}}, "models[1].limits"),
        ({"models__1__name": "Small"}, "models[1].name: 'Small' does not fit"),
        ({"models__1__name": "device.json"}, "'device.json' does not fit"),
        ({"models__1__name": "base"}, "'base' is there twice"),
        ({"models__0__name": "other"}, "there is no 'base'"),
        ({"models__1__file": "../small.onnx"}, "not a path inside the bundle"),
        ({"models__1__file": "/etc/passwd"}, "not a path inside the bundle"),
        ({"models__1__file": "models\\small.onnx"}, "not a path inside the bundle"),
        ({"models__1__file": "models/none.onnx"}, "models/none.onnx is missing"),
        ({"models__1__sha256": "0" * 64}, "models/small.onnx is damaged"),
        ({"models__1__sha256": "abc"}, "'abc' is not a sha256"),
        ({"models__1__bytes": 1}, "the manifest says 1"),
        ({"models__1__timed": 1}, "models[1].timed is 1"),
        ({"models": [3]}, "models[0] is not a JSON object"),
    ],
)
def test_manifest_that_cannot_hold_is_refused(
    bundle: Path, bundles: ModuleType, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    bundles.edit_manifest(bundle, **change)
    assert message in refusal(bundle, tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_manifest_that_is_not_a_json_object(bundle: Path, tmp_path: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    assert "manifest.json is not" in refusal(bundle, tmp_path)


def test_link_that_leads_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    outside.write_bytes((bundle / "models/small.onnx").read_bytes())
    (bundle / "models/small.onnx").unlink()
    os.symlink(outside, bundle / "models/small.onnx")
    assert "leads out of the bundle" in refusal(bundle, tmp_path)


def test_pickled_inputs_are_never_loaded(bundle: Path, bundles: ModuleType, tmp_path: Path) -> None:
    import hashlib

    path = bundle / "inputs.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    bundles.edit_manifest(bundle, inputs__0__sha256=digest)
    assert "inputs.npy is not a numpy array" in refusal(bundle, tmp_path)


def test_missing_bundle(tmp_path: Path) -> None:
    assert "there is no bundle at" in refusal(tmp_path / "none", tmp_path)


def test_zip_with_a_larger_file_than_it_says(
    bundle: Path, bundles: ModuleType, tmp_path: Path
) -> None:
    (bundle / "models/small.onnx").write_bytes(b"\0" * 50_000_000)
    problem = refusal(zipped(bundle, tmp_path / "bomb.zip"), tmp_path)
    assert "50000000 bytes, the manifest says" in problem
    assert not (tmp_path / "scratch/models/small.onnx").exists()


def test_zip_members_that_climb_are_never_unpacked(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(zipped(bundle, tmp_path / "slip.zip"), "a") as archive:
        archive.writestr("../slipped", "x")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    open_bundle(tmp_path / "slip.zip", scratch)
    assert not (tmp_path / "slipped").exists()


def test_broken_zips(bundle: Path, tmp_path: Path) -> None:
    whole = zipped(bundle, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    assert "not a whole zip" in refusal(tmp_path / "cut.zip", tmp_path)


def test_zip_with_a_damaged_stream(bundle: Path, tmp_path: Path) -> None:
    whole = bytearray(zipped(bundle, tmp_path / "whole.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
        start = archive.getinfo("inputs.npy").header_offset + 100
    whole[start : start + 200] = bytes(200)
    (tmp_path / "bad.zip").write_bytes(whole)
    assert "not a whole zip" in refusal(tmp_path / "bad.zip", tmp_path)


def test_zip_without_a_manifest(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("other.json", json.dumps({}))
    assert "manifest.json" in refusal(tmp_path / "a.zip", tmp_path)
