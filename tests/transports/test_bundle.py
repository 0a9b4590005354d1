from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from edgebench.errors import DataError, NotMeasuredError, StorageError
from edgebench.transports import bundle as bundle_transport
from edgebench.transports.base import TransportSpec, open_transport
from edgebench.transports.bundle import pack, unpack_results


@pytest.fixture
def bundle(bundles: ModuleType, tmp_path: Path) -> Path:
    base = bundles.classifier(tmp_path / "base.onnx")
    return Path(bundles.make_bundle(tmp_path / "bundle", {"base": base}, processes=1))


def results_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_there_and_back(bundle: Path, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "out" / "bundle.zip")
    device = tmp_path / "device"
    with zipfile.ZipFile(tmp_path / "out" / "bundle.zip") as archive:
        readme = archive.read("README.txt").decode()
        assert "python3 bundle/agent.pyz" in readme
        assert "pip install numpy onnxruntime;" in readme
        archive.extractall(device)
    done = subprocess.run(
        [sys.executable, str(device / "agent.pyz")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    unpack_results(device / "results.zip", tmp_path / "results")
    files = [
        p.relative_to(tmp_path / "results").as_posix() for p in tmp_path.glob("results/**/*.*")
    ]
    assert sorted(files) == [
        "base/outputs.npy",
        "base/result.json",
        "base/samples.npz",
        "device.json",
    ]


def test_readme_names_what_the_device_needs(bundle: Path, bundles: ModuleType) -> None:
    from edgebench.scenario import resolve_scenarios

    load = [{"scenario": "offline", "driver": "loadgen"}]
    asked = resolve_scenarios(load, profile="quick", batch=1, where="test")
    bundles.edit_manifest(
        bundle,
        runtime__name="openvino",
        protocol__scenarios=[one.model_dump(mode="json") for one in asked],
    )
    pack(bundle, bundle.parent / "bundle.zip")
    with zipfile.ZipFile(bundle.parent / "bundle.zip") as archive:
        readme = archive.read("README.txt").decode()
    assert "with numpy openvino mlcommons-loadgen\n" in readme
    assert "pip install numpy openvino mlcommons-loadgen;" in readme


def test_readme_names_the_wheel_that_holds_the_providers(bundle: Path, bundles: ModuleType) -> None:
    bundles.edit_manifest(
        bundle, runtime__providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    pack(bundle, bundle.parent / "bundle.zip")
    with zipfile.ZipFile(bundle.parent / "bundle.zip") as archive:
        assert "pip install numpy onnxruntime-gpu;" in archive.read("README.txt").decode()


def test_packed_zip_runs_without_unpacking(bundle: Path, tmp_path: Path) -> None:
    from edgebench.agent.bundle import open_bundle

    pack(bundle, tmp_path / "bundle.zip")
    (tmp_path / "scratch").mkdir()
    assert open_bundle(tmp_path / "bundle.zip", tmp_path / "scratch").base["name"] == "base"


def test_zip_that_cannot_be_written(bundle: Path) -> None:
    with pytest.raises(StorageError):
        pack(bundle, Path("/proc/edgebench/bundle.zip"))


@pytest.mark.parametrize(
    "name",
    ["../device.json", "/etc/passwd", "base/../../x.npz", "base/run.sh", "base\\result.json"],
)
def test_members_that_no_agent_writes_are_refused(tmp_path: Path, name: str) -> None:
    path = results_zip(tmp_path / "r.zip", {"device.json": b"{}", name: b"x"})
    with pytest.raises(DataError, match="which no agent writes"):
        unpack_results(path, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_zip_without_the_device_is_refused(tmp_path: Path) -> None:
    path = results_zip(tmp_path / "r.zip", {"base/result.json": b"{}"})
    with pytest.raises(DataError, match=r"is not a whole results.zip; run python3 agent.pyz"):
        unpack_results(path, tmp_path / "results")


def test_zip_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_transport, "_MAX_BYTES", 1000)
    path = results_zip(tmp_path / "r.zip", {"device.json": b"\0" * 1001})
    with pytest.raises(DataError, match="would unpack to 1001 bytes"):
        unpack_results(path, tmp_path / "results")


@pytest.mark.parametrize("cut", [0, 30, 90])
def test_cut_zip_is_refused(tmp_path: Path, cut: int) -> None:
    path = results_zip(tmp_path / "r.zip", {"device.json": b"{}" * 500})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read as a zip"):
        unpack_results(path, tmp_path / "results")


def test_damaged_member_leaves_nothing(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    path = results_zip(tmp_path / "r.zip", {"device.json": b"{}", "base/outputs.npy": content})
    damaged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("base/outputs.npy").header_offset + 60
    damaged[start : start + 20] = bytes(20)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"'base/outputs.npy' in it is damaged"):
        unpack_results(path, tmp_path / "results")
    assert list((tmp_path / "results").iterdir()) == []


def test_missing_zip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as a zip"):
        unpack_results(tmp_path / "none.zip", tmp_path / "results")


def test_target_without_a_connection_says_what_to_do(tmp_path: Path) -> None:
    transport = open_transport(TransportSpec("field", "bundle"))
    with pytest.raises(NotMeasuredError, match="edgebench ingest"):
        transport.probe()
    with pytest.raises(NotMeasuredError, match="edgebench bundle"):
        transport.measure(tmp_path, tmp_path, lambda event: None)
