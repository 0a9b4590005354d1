"""Probes against recorded trees of devices (trees/), changed where a test needs another state."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgebench.agent.device import allowed_cpus, device_record, pick_cpus, throttle_events

RUNTIME = {
    "name": "onnxruntime",
    "version": "1.20.0",
    "providers": ["CPUExecutionProvider"],
    "numpy": "1.24.4",
}
TREES = Path(__file__).with_name("trees")


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREES / "orin-nano", tmp_path / "orin"))


def record(root: Path, **runtime: Any) -> dict[str, Any]:
    return device_record(root, {**RUNTIME, **runtime})


def lock_clocks(root: Path) -> None:
    for policy in root.glob("sys/devices/system/cpu/cpu*/cpufreq"):
        shutil.copy(policy / "scaling_max_freq", policy / "scaling_min_freq")
    for gpu in root.glob("sys/class/devfreq/*"):
        shutil.copy(gpu / "max_freq", gpu / "min_freq")


def test_identity_of_an_orin(orin: Path) -> None:
    found = record(orin)
    identity = dict(found["identity"])
    identity.pop("python")
    assert identity == {
        "machine": "aarch64",
        "system": "Linux",
        "cpu_model": "Cortex-A78AE",
        "cpu_flags": ["asimd", "asimddp", "asimdhp", "fphp"],
        "cores": 6,
        "memory_mib": 7680,
        "numpy": "1.24.4",
        "runtime": {"name": "onnxruntime", "version": "1.20.0"},
        "providers": ["CPUExecutionProvider"],
        "jetson": {
            "model": "NVIDIA Jetson Orin Nano Developer Kit",
            "l4t": "36.3.0",
            "power_mode": 0,
        },
        "gpu": [],
    }
    assert found["state"]["temperature_c"] == 48.25
    assert found["state"]["throttle_events"] == 5 == throttle_events(orin)


def test_identity_of_a_virtual_machine() -> None:
    found = record(TREES / "x86-vm")
    assert found["identity"]["machine"] == "x86_64"
    assert found["identity"]["cpu_flags"] == ["avx2", "avx512_vnni", "avx512f", "f16c"]
    assert found["identity"]["jetson"] is None
    assert found["grade"] == "C"
    assert found["grade_reasons"] == ["a virtual machine: others may use its processor unseen"]


def test_floating_clocks_are_b_and_locked_ones_a(orin: Path) -> None:
    assert record(orin)["grade"] == "B"
    assert record(orin)["grade_reasons"] == ["the clocks float (governor schedutil)"]
    lock_clocks(orin)
    assert record(orin)["grade"] == "A"


def test_gpu_clock_that_floats_keeps_it_from_a(orin: Path) -> None:
    lock_clocks(orin)
    (orin / "sys/class/devfreq/17000000.gpu/min_freq").write_text("1")
    assert record(orin)["grade"] == "B"


def test_clocks_that_cannot_be_read_are_b(orin: Path) -> None:
    shutil.rmtree(orin / "sys/devices")
    assert record(orin)["grade_reasons"] == ["whether the clocks are locked cannot be read"]


@pytest.mark.parametrize(
    ("load", "grade"),
    [("5.90 1 1 4/99 7", "C"), ("5.90 1 1 1/99 7", "A"), ("0.9 1 1 4/99 7", "A")],
)
def test_busy_device_is_c(orin: Path, load: str, grade: str) -> None:
    lock_clocks(orin)
    (orin / "proc/loadavg").write_text(load)
    assert record(orin)["grade"] == grade


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "150000 100000"}, 1.5),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, None),
    ],
)
def test_limited_control_group_is_c(orin: Path, files: dict[str, str], cpus: float | None) -> None:
    lock_clocks(orin)
    for name, content in files.items():
        (orin / name).parent.mkdir(parents=True, exist_ok=True)
        (orin / name).write_text(content)
    found = record(orin)
    assert found["state"]["cgroup_cpus"] == cpus
    assert found["grade"] == ("A" if cpus is None else "C")


def test_fingerprint_covers_identity_and_not_state(orin: Path) -> None:
    before = record(orin)["fingerprint"]
    (orin / "proc/loadavg").write_text("3.0 1 1 4/99 7")
    lock_clocks(orin)
    assert record(orin)["fingerprint"] == before
    assert record(orin, version="1.21.0")["fingerprint"] != before
    (orin / "var/lib/nvpmodel/status").write_text("pmode:0001")
    assert record(orin)["fingerprint"] != before


def test_arm_guest_is_known_by_its_vendor(orin: Path) -> None:
    (orin / "sys/class/dmi/id").mkdir(parents=True)
    (orin / "sys/class/dmi/id/sys_vendor").write_text("Amazon EC2\n")
    assert record(orin)["grade"] == "C"


def test_nvidia_cards_are_named(orin: Path) -> None:
    card = orin / "proc/driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA RTX A2000\nIRQ: 17\n")
    assert record(orin)["identity"]["gpu"] == ["NVIDIA RTX A2000"]


def test_empty_tree_still_gives_a_record(tmp_path: Path) -> None:
    found = record(tmp_path)
    assert found["identity"]["cores"] == os.cpu_count()
    assert found["grade"] == "B"


def test_the_fastest_processor_is_picked_and_the_last_of_equals(tmp_path: Path) -> None:
    allowed = allowed_cpus()
    assert pick_cpus(tmp_path, 1) == allowed[-1:]
    assert pick_cpus(tmp_path, 1000) == allowed
    fast = tmp_path / f"sys/devices/system/cpu/cpu{allowed[0]}"
    fast.mkdir(parents=True)
    (fast / "cpu_capacity").write_text("1024")
    assert pick_cpus(tmp_path, 1) == allowed[:1]
