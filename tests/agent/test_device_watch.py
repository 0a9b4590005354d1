"""What a watch reports when files of a recorded tree change between its two looks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from edgebench.agent.device import Watch, counters
from edgebench.agent.device.watch import Watched

TREES = Path(__file__).with_name("trees")
SECONDS = 10.0

Tree = Callable[[str], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return lambda name: Path(shutil.copytree(TREES / name, tmp_path / name))


def watched(root: Path, changes: dict[str, str], cpus: tuple[int, ...] = (0, 1)) -> Watched:
    """Ten seconds, in which these files get this content."""
    ticks = count()
    watch = Watch(root, cpus, clock=lambda: SECONDS * next(ticks))
    watch.start()
    for name, content in changes.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return watch.stop()


@pytest.mark.parametrize(
    "name",
    ["x86-server", "raspberry-pi", "orin-nano", "container", "x86-vm", "x86-vm-recorded"],
)
def test_nothing_happened(tree: Tree, name: str) -> None:
    changes, reasons = watched(tree(name), {})
    assert reasons == []
    assert changes["seconds"] == SECONDS
    assert changes["throttle_events"] == 0
    json.dumps(changes, allow_nan=False)


def test_over_current_on_a_jetson(tree: Tree) -> None:
    changes, reasons = watched(tree("orin-nano"), {"sys/class/hwmon/hwmon1/oc3_event_cnt": "4"})
    assert reasons == ["the device slowed itself down 2 times meanwhile (over-current oc3)"]
    assert changes["throttle_events"] == 2


def test_heat_on_a_server(tree: Tree) -> None:
    files = {
        f"sys/devices/system/cpu/cpu{n}/thermal_throttle/package_throttle_count": "5"
        for n in range(4)
    }
    _, reasons = watched(tree("x86-server"), files)
    assert reasons == ["the device slowed itself down once meanwhile (processor package too hot)"]


def test_counter_that_was_reset(tree: Tree) -> None:
    changes, _ = watched(tree("orin-nano"), {"sys/class/hwmon/hwmon1/oc1_event_cnt": "1"})
    assert changes["throttle_events"] == 1


def test_firmware_of_a_raspberry_pi(tree: Tree) -> None:
    file = "sys/devices/platform/soc/soc:firmware/get_throttled"
    changes, reasons = watched(tree("raspberry-pi"), {file: "d0008"})
    assert changes["throttle_causes"] == {"firmware: soft temperature limit": 1}
    assert reasons == [
        "the device slowed itself down once meanwhile (firmware: soft temperature limit)",
        "the device is slowed down: firmware: soft temperature limit",
    ]


def test_cooling_that_slows(tree: Tree) -> None:
    assert watched(tree("laptop"), {}).reasons == [
        "the device is slowed down: cooling by Processor (step 2 of 3)"
    ]


@pytest.mark.parametrize(
    ("stopped_us", "reason"),
    [
        (90_000, []),
        (1_500_000, ["its control group was stopped for 15.0% of the time (30 of 100 periods)"]),
    ],
)
def test_control_group_that_was_stopped(tree: Tree, stopped_us: int, reason: list[str]) -> None:
    stat = f"nr_periods 1100\nnr_throttled 150\nthrottled_usec {4200000 + stopped_us}"
    changes, reasons = watched(tree("container"), {"sys/fs/cgroup/cpu.stat": stat})
    assert reasons == reason
    assert changes["cgroup"]["throttled_ms"] == stopped_us / 1000


def test_swapping_and_killing(tree: Tree) -> None:
    stat = "pswpin 512\npswpout 2048\noom_kill 1\n"
    changes, reasons = watched(tree("x86-vm"), {"proc/vmstat": stat})
    mib = (512 + 2048) * os.sysconf("SC_PAGE_SIZE") >> 20
    assert reasons == [
        f"the system swapped {mib} MiB meanwhile",
        "the kernel killed a process for want of memory meanwhile",
    ]
    assert changes["swapped_pages"] == {"in": 512, "out": 2048}


def test_a_few_pages_are_no_swapping(tree: Tree) -> None:
    assert watched(tree("x86-vm"), {"proc/vmstat": "pswpin 9\npswpout 9\n"}).reasons == []


def test_stolen_time_and_others(tree: Tree) -> None:
    stat = "cpu  50800 0 9000 931000 120 0 40 9940 0 0\n"
    changes, reasons = watched(tree("x86-vm"), {"proc/stat": stat})
    assert changes["stolen_share"] == pytest.approx(100 / 900, abs=1e-6)
    assert 0 <= changes["others_share"] <= round(800 / 900, 6)
    assert reasons == []


CLOCK = "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq"


def test_clock_that_changed_although_locked(tree: Tree) -> None:
    root = tree("orin-nano")
    for policy in root.glob("sys/devices/system/cpu/cpu*/cpufreq"):
        shutil.copy(policy / "scaling_max_freq", policy / "scaling_min_freq")
        shutil.copy(policy / "scaling_max_freq", policy / "scaling_cur_freq")
    for gpu in root.glob("sys/class/devfreq/*"):
        shutil.copy(gpu / "max_freq", gpu / "min_freq")
    changes, reasons = watched(root, {CLOCK: "1190400"})
    assert reasons == [
        "the clock of processor 1 changed from 1510 to 1190 MHz although it is locked"
    ]
    assert changes["frequency_khz"]["after"] == {"0": 1510400, "1": 1190400}


def test_clock_that_floats_may_change(tree: Tree) -> None:
    assert watched(tree("orin-nano"), {CLOCK: "729600"}).reasons == []


def test_guess_at_a_sleeping_processor_is_no_change(tree: Tree) -> None:
    root = tree("x86-server")
    (root / "sys/devices/system/cpu/intel_pstate/no_turbo").write_text("1")
    assert watched(root, {CLOCK: "800000"}).reasons == []


def test_settings_that_changed(tree: Tree) -> None:
    governor = "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor"
    changes, reasons = watched(tree("x86-server"), {governor: "powersave"})
    assert reasons == ["the settings of the clocks changed meanwhile"]
    assert changes["settings_changed"] is True


def test_this_machine_can_be_watched() -> None:
    watch = Watch(Path("/"))
    watch.start()
    changes, _ = watch.stop()
    json.dumps(changes, allow_nan=False)


def test_counters_follow_the_files(tree: Tree) -> None:
    root = tree("x86-server")
    assert counters(root, [1, 3]) == (5, (3200000, 3200000))
    assert counters(root, [0]) == (4, (3200000,))
    (root / "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count").write_text("2")
    (root / CLOCK).write_text("2900000")
    assert counters(root, [1, 3]) == (6, (2900000, 3200000))


def test_counters_see_a_raspberry_pi_s_firmware(tree: Tree) -> None:
    root = tree("raspberry-pi")
    before = counters(root, [3])[0]
    (root / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text("50002")
    assert counters(root, [3])[0] == before + 1


def test_no_files_no_counters(tmp_path: Path) -> None:
    assert counters(tmp_path, [0, 1]) == (0, ())
