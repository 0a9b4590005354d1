"""Results of a device that is damaged, hostile, or another one."""

from __future__ import annotations

import io
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgebench.errors import EdgebenchError, NotComparableError
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.judging import judge_folder
from edgebench.pipeline.main import read_build
from edgebench.records import RunRecord

Finished = tuple[RunRecord, Path]


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> RunFolder:
    shutil.copytree(finished[1], tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


def judge(folder: RunFolder) -> RunRecord:
    return judge_folder(folder, read_build(folder), [], [])


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def resample(path: Path, **arrays: np.ndarray) -> None:
    with np.load(path) as old:
        merged = {**{name: old[name] for name in old.files}, **arrays}
    np.savez(path, **merged)


def header_of(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "result is a list": lambda p: (p / "result.json").write_text("[]"),
    "result is empty": lambda p: (p / "result.json").write_text("{}"),
    "result is cut": lambda p: (p / "result.json").write_text('{"schema": '),
    "cold is text": lambda p: change(p / "result.json", cold=[{"load_ms": "x"}]),
    "outputs are an archive": lambda p: shutil.copy(p / "samples.npz", p / "outputs.npy"),
    "outputs are cut": lambda p: (p / "outputs.npy").write_bytes(b"\x93NUMPY"),
    "outputs are vast": lambda p: (p / "outputs.npy").write_bytes(header_of("(9999999999999, 10)")),
    "outputs are few": lambda p: np.save(p / "outputs.npy", np.zeros((3, 10), np.float32)),
    "outputs are pickled": lambda p: np.save(p / "outputs.npy", np.array([{}]), allow_pickle=True),
    "outputs are not finite": lambda p: np.save(
        p / "outputs.npy", np.full((899, 10), np.nan, np.float32)
    ),
    "samples are cut": lambda p: (p / "samples.npz").write_bytes(b"PK\x03\x04"),
    "samples are gone": lambda p: (p / "samples.npz").unlink(),
    "samples lack arrays": lambda p: np.savez(p / "samples.npz", sample_ns=np.ones(3)),
    "time runs backwards": lambda p: resample(p / "samples.npz", sample_ns=np.array([-1.0])),
    "numbers are words": lambda p: resample(p / "samples.npz", block_process=np.array(["a"] * 12)),
    "phases differ in a pair": lambda p: resample(
        p / "samples.npz", block_phase=np.arange(12, dtype=np.int32) % 2
    ),
    "one arm alone": lambda p: resample(p / "samples.npz", block_arm=np.zeros(12, np.int32)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_result_fails_alone(copy: RunFolder, damage: str) -> None:
    DAMAGES[damage](copy.results / "int8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = judge(copy)
    found = run.variant("int8")
    assert found is not None
    assert (found.status, found.verdict) == ("failed", None)
    assert "\n" not in found.problem
    assert run.variant("chain").verdict == "GO"


def test_a_damaged_device(copy: RunFolder) -> None:
    for text in ("{}", "[]", "nothing", '{"fingerprint": "x", "identity": {}, "grade": "Z"}'):
        (copy.results / "device.json").write_text(text)
        with pytest.raises(EdgebenchError) as caught:
            judge(copy)
        assert "\n" not in caught.value.line()
        assert "http" not in caught.value.line()


@pytest.mark.parametrize("what", ["key", "device", "bundle"])
def test_results_of_another_bundle_or_device(copy: RunFolder, what: str) -> None:
    if what == "key":
        change(copy.results / "int8" / "result.json", key="0" * 64)
    elif what == "device":
        change(copy.results / "device.json", fingerprint="0" * 64)
    else:
        change(copy.bundle / "manifest.json", run_id="another")
    with pytest.raises(NotComparableError, match="another bundle or device") as caught:
        judge(copy)
    assert caught.value.exit_code == 4


def test_ingesting_the_wrong_zip_keeps_what_was(
    copy: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgebench.__main__ import run

    change(copy.results / "int8" / "result.json", key="0" * 64)
    archive = tmp_path / "results.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(copy.results.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                zipped.write(path, path.relative_to(copy.results))
    before = copy.record_file.read_bytes()
    samples = (copy.results / "base" / "samples.npz").read_bytes()
    assert run(["ingest", str(archive), str(copy.path)]) == 4
    assert capsys.readouterr().err.count("\n") == 1
    assert copy.record_file.read_bytes() == before
    assert (copy.results / "base" / "samples.npz").read_bytes() == samples
    assert not (copy.path / "results.new").exists()


def test_npz_of_the_agent_is_what_we_read(finished: Finished) -> None:
    with zipfile.ZipFile(finished[1] / "results" / "int8" / "samples.npz") as archive:
        arrays = {n: np.load(io.BytesIO(archive.read(n))) for n in archive.namelist()}
    assert (arrays["single_ns.npy"] > 0).all()


HOSTILE: dict[str, object] = {
    "confirmation": ["no", "mapping"],
    "cpu": 7,
    "providers": {"CPUExecutionProvider": 1},
    "inspection": {"integer_operators": {"QLinearConv": "many"}, "nodes": None, "notes": 3},
    "energy": {"energy_mj": 10**400},
    "steady": "perhaps",
    "confirms": 1,
}


@pytest.mark.parametrize("key", HOSTILE)
def test_evidence_of_another_type_is_left_out(copy: RunFolder, key: str) -> None:
    path = copy.results / "int8" / "result.json"
    evidence = json.loads(path.read_text())["evidence"]
    change(path, evidence={**evidence, key: HOSTILE[key]})
    found = judge(copy).variant("int8")
    assert found is not None
    assert found.status == "measured"
    assert found.measurement is not None
    assert key not in found.measurement.evidence
    assert found.metrics.get("energy_mj") is None


def test_a_device_cannot_claim_its_own_second_look(copy: RunFolder) -> None:
    path = copy.results / "int8" / "result.json"
    evidence = json.loads(path.read_text())["evidence"]
    kind = {"point": 0.5, "low": 0.4, "high": 0.6, "n": 6, "method": "believe me"}
    change(path, evidence={**evidence, "confirmation": {"latency_ratio": kind}})
    found = judge(copy).variant("int8")
    assert found is not None
    assert found.measurement is not None
    assert "confirmation" not in found.measurement.evidence


@pytest.mark.parametrize("identity", [None, {}, {"machine": 3, "cpu_flags": [], "providers": []}])
def test_device_that_does_not_say_what_it_is(copy: RunFolder, identity: object) -> None:
    change(copy.results / "device.json", identity=identity)
    with pytest.raises(EdgebenchError, match="is no record of an agent: identity"):
        judge(copy)
