"""Probes against trees of devices (trees/), changed where a test needs another state."""

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


def test_a_recorded_guest() -> None:
    found = record(TREES / "x86-vm-recorded")
    identity, state = found["identity"], found["state"]
    assert identity["machine"] == "x86_64"
    assert identity["cpu_model"] == "Intel(R) Xeon(R) Processor"
    assert {"avx512f", "avx512_vnni"} <= set(identity["cpu_flags"])
    shown = identity["microarchitecture"]
    assert (shown["sockets"], shown["numa_nodes"], shown["threads_per_core"]) == (1, 1, 1)
    assert shown["int8_may_saturate"] is False
    assert (identity["cores"], identity["memory_mib"]) == (2, 24064)
    # Version 1 writes no limit as -1, and as almost 2^63 bytes.
    assert (identity["cgroup_cpus"], state["memory_limit_mib"]) == (None, None)
    assert state["killed_for_memory"] == 0
    assert state["stolen_share"] == pytest.approx(0.0042, rel=0.01)
    assert found["grade"] == "C"
    assert any("virtual machine" in reason for reason in found["grade_reasons"])


def test_identity_of_an_orin(orin: Path) -> None:
    found = record(orin)
    identity = dict(found["identity"])
    identity.pop("python")
    identity.pop("microarchitecture")
    assert identity.pop("clocks") == {
        "policies": [
            {
                "cpus": [0, 1, 2, 3, 4, 5],
                "driver": "tegra194",
                "governor": "schedutil",
                "preference": None,
                "least_khz": 729600,
                "most_khz": 1510400,
                "hardware_most_khz": 1510400,
            }
        ],
        "turbo": None,
        "gpu": [
            {
                "name": "gpu",
                "governor": "nvhost_podgov",
                "least_hz": 306000000,
                "most_hz": 624750000,
            }
        ],
    }
    assert identity == {
        "machine": "aarch64",
        "system": "Linux",
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
        "cpu_model": "Cortex-A78AE",
        "cpu_flags": ["asimd", "asimddp", "asimdhp", "fphp"],
        "cores": 6,
        "memory_mib": 7680,
        "power": {"profile": None, "battery": None},
        "cgroup_cpus": None,
        "numpy": "1.24.4",
        "runtime": {"name": "onnxruntime", "version": "1.20.0"},
        "providers": ["CPUExecutionProvider"],
        "jetson": {
            "model": "NVIDIA Jetson Orin Nano Developer Kit",
            "l4t": "36.3.0",
            "power_mode": 0,
            "power_mode_name": "15W",
        },
        "gpu": [],
        "nvidia": None,
    }
    assert found["state"]["gpu"] == [{"name": "gpu", "current_hz": 306000000, "load_percent": 41.5}]
    assert found["state"]["temperature_c"] == 48.25
    assert found["state"]["throttle_events"] == 5 == throttle_events(orin)


def test_identity_of_a_virtual_machine() -> None:
    found = record(TREES / "x86-vm")
    assert found["identity"]["machine"] == "x86_64"
    assert found["identity"]["cpu_flags"] == ["avx2", "avx512_vnni", "avx512f", "f16c", "fma"]
    assert found["identity"]["jetson"] is None
    assert found["grade"] == "C"
    assert found["grade_reasons"] == ["a virtual machine: others may use its processor unseen"]


def test_floating_clocks_are_b_and_locked_ones_a(orin: Path) -> None:
    assert record(orin)["grade"] == "B"
    assert record(orin)["grade_reasons"] == [
        "the clocks float (governor schedutil)",
        "the GPU's clock floats (gpu)",
    ]
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


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("proc/loadavg", "3.0 1 1 4/99 7"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "729600"),
        ("sys/class/devfreq/17000000.gpu/cur_freq", "624750000"),
        ("sys/class/thermal/thermal_zone0/temp", "71000"),
        ("sys/class/hwmon/hwmon1/oc1_event_cnt", "9"),
    ],
)
def test_state_leaves_the_fingerprint(orin: Path, file: str, content: str) -> None:
    before = record(orin)
    (orin / file).write_text(content)
    assert record(orin)["fingerprint"] == before["fingerprint"]
    assert record(orin)["state"] != before["state"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("var/lib/nvpmodel/status", "pmode:0001"),
        ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance"),
        ("sys/devices/system/cpu/cpu3/cpufreq/scaling_max_freq", "1190400"),
        ("sys/devices/system/cpu/cpufreq/boost", "1"),
        ("sys/class/devfreq/17000000.gpu/max_freq", "306000000"),
        ("sys/fs/cgroup/cpu.max", "100000 100000"),
        ("sys/firmware/acpi/platform_profile", "performance"),
    ],
)
def test_settings_change_the_fingerprint(orin: Path, file: str, content: str) -> None:
    before = record(orin)["fingerprint"]
    (orin / file).parent.mkdir(parents=True, exist_ok=True)
    (orin / file).write_text(content)
    assert record(orin)["fingerprint"] != before


def test_fingerprint_of_this_machine_stays() -> None:
    assert record(Path("/"))["fingerprint"] == record(Path("/"))["fingerprint"]


def test_runtime_changes_the_fingerprint(orin: Path) -> None:
    before = record(orin)["fingerprint"]
    assert record(orin, version="1.21.0")["fingerprint"] != before


def test_server_with_turbo_floats(tmp_path: Path) -> None:
    server = Path(shutil.copytree(TREES / "x86-server", tmp_path / "server"))
    found = record(server)
    assert found["identity"]["board"] == "Dell Inc. PowerEdge R650"
    assert found["identity"]["microarchitecture"] == {
        "family": "6",
        "model": "106",
        "stepping": "6",
        "core_types": {"Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz": 4},
        "threads_per_core": 2,
        "sockets": 1,
        "numa_nodes": 1,
        "cache_kib": {"L1d": 48, "L1i": 32, "L2": 1280, "L3": 49152},
        "int8_may_saturate": False,
    }
    assert found["identity"]["clocks"]["turbo"] is True
    assert found["grade"] == "B"
    assert "turbo is on" in found["grade_reasons"][0]
    # Two cores (one of which slowed down once) and one package, however many processors show them.
    assert found["state"]["throttle_counts"] == {
        "processor core too hot": 1,
        "processor package too hot": 4,
    }
    (server / "sys/devices/system/cpu/intel_pstate/no_turbo").write_text("1")
    assert record(server)["grade"] == "A"
    assert record(server)["fingerprint"] != found["fingerprint"]


def test_clock_fixed_above_the_guaranteed_one_is_not_locked(tmp_path: Path) -> None:
    server = Path(shutil.copytree(TREES / "x86-server", tmp_path / "server"))
    lock_clocks(server)
    assert record(server)["grade"] == "B"
    for policy in server.glob("sys/devices/system/cpu/cpu*/cpufreq"):
        for file in ("scaling_min_freq", "scaling_max_freq"):
            (policy / file).write_text("2000000")
    assert record(server)["grade"] == "A"


def test_laptop() -> None:
    found = record(TREES / "laptop")
    assert found["identity"]["microarchitecture"]["core_types"]["x86 atom"] == 2
    assert [p["most_khz"] for p in found["identity"]["clocks"]["policies"]] == [4700000, 3500000]
    assert found["identity"]["power"] == {"profile": "balanced", "battery": True}
    assert found["state"]["temperatures_c"]["x86_pkg_temp"] == 67.5
    assert found["grade"] == "B"
    assert found["hazards"] == [
        "it is slowed down now: cooling by Processor (step 2 of 3)",
        "it slowed itself down 78 times since its start "
        "(processor core too hot, processor package too hot)",
        "1024 MiB are swapped out",
        "it runs on its battery",
    ]


def test_raspberry_pi(tmp_path: Path) -> None:
    pi = Path(shutil.copytree(TREES / "raspberry-pi", tmp_path / "pi"))
    found = record(pi)
    assert found["identity"]["board"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert found["identity"]["cpu_model"] == "Cortex-A72"
    assert found["identity"]["cpu_flags"] == ["asimd"]
    assert found["identity"]["jetson"] is None
    assert found["state"]["throttle_counts"] == {
        "firmware: under-voltage": 1,
        "firmware: capped clock": 0,
        "firmware: throttling": 1,
        "firmware: soft temperature limit": 0,
    }
    assert found["state"]["throttled_now"] == []
    (pi / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text("50005")
    assert record(pi)["state"]["throttled_now"] == [
        "firmware: under-voltage",
        "firmware: throttling",
    ]


def test_container() -> None:
    found = record(TREES / "container")
    state = found["state"]
    assert state["container"] == "docker"
    assert (state["cgroup_cpus"], state["cgroup_cpuset"]) == (1.5, "0-1")
    assert state["memory_limit_mib"] == 2048
    assert state["cgroup_throttling"] == {
        "periods": 1000,
        "throttled": 120,
        "throttled_us": 4200000,
    }
    assert state["killed_for_memory"] == 2
    assert found["identity"]["microarchitecture"]["int8_may_saturate"] is True
    assert found["grade_reasons"] == ["a cgroup limits it to 1.5 processors"]


@pytest.mark.parametrize(
    ("file", "content", "kind"),
    [
        ("run/.containerenv", "", "podman"),
        ("run/systemd/container", "lxc", "lxc"),
        ("proc/1/cgroup", "4:cpu:/kubepods/besteffort/pod1/x", "kubepods"),
    ],
)
def test_kinds_of_container(tmp_path: Path, file: str, content: str, kind: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(content)
    assert record(tmp_path)["state"]["container"] == kind


def test_stolen_time_is_a_hazard(tmp_path: Path) -> None:
    guest = Path(shutil.copytree(TREES / "x86-vm", tmp_path / "guest"))
    assert record(guest)["state"]["stolen_share"] == pytest.approx(0.00984)
    (guest / "proc/stat").write_text("cpu  500 0 0 400 0 0 0 100 0 0\n")
    assert "its host took 10% of its time so far" in record(guest)["hazards"]


def test_pressure_shows_a_busy_device(orin: Path) -> None:
    (orin / "proc/pressure").mkdir()
    (orin / "proc/pressure/cpu").write_text("some avg10=34.20 avg60=1.00 avg300=0 total=1\n")
    assert record(orin)["grade"] == "C"
    assert "work waited 34.2 %" in record(orin)["grade_reasons"][0]


def test_old_control_groups(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n0::/\n",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.stat": (
            "nr_periods 10\nnr_throttled 4\nthrottled_time 3000000"
        ),
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1073741824",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/box/memory.oom_control": "oom_kill_disable 0\noom_kill 3",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    # As systems mount it: the short name is a link to the long one, and counts once.
    (tmp_path / "sys/fs/cgroup/cpu").symlink_to("cpu,cpuacct")
    state = record(tmp_path)["state"]
    assert state["cgroup_cpus"] == 0.5
    assert state["memory_limit_mib"] == 1024
    assert state["cgroup_throttling"] == {"periods": 10, "throttled": 4, "throttled_us": 3000}
    assert state["killed_for_memory"] == 3


def test_thor_names_its_gpu_clock_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/devfreq/gpu-gpc-0"
    folder.mkdir(parents=True)
    (folder / "min_freq").write_text("306000000")
    (folder / "max_freq").write_text("1575000000")
    assert record(tmp_path)["identity"]["clocks"]["gpu"] == [
        {"name": "gpu-gpc-0", "governor": None, "least_hz": 306000000, "most_hz": 1575000000}
    ]


def test_memory_clock_of_a_jetson_counts_where_it_can_be_read(orin: Path) -> None:
    lock_clocks(orin)
    emc = orin / "sys/kernel/debug/bpmp/debug/clk/emc"
    emc.mkdir(parents=True)
    (emc / "rate").write_text("2133000000")
    (emc / "max_rate").write_text("3199000000")
    assert record(orin)["grade_reasons"] == ["the memory's clock is below its most"]


@pytest.mark.parametrize("content", ["", "garbage", "\xff\xfe"])
@pytest.mark.parametrize("tree", ["x86-server", "container", "raspberry-pi", "orin-nano"])
def test_damaged_files_are_absent_evidence(tmp_path: Path, tree: str, content: str) -> None:
    root = Path(shutil.copytree(TREES / tree, tmp_path / "root"))
    for file in root.rglob("*"):
        if file.is_file():
            file.write_text(content, encoding="latin-1")
    assert record(root)["grade"] in {"A", "B", "C"}


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
