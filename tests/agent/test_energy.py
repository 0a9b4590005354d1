"""Energy from recorded sensors under an injected clock: nothing here waits."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.agent.device import device_record, find_sensors
from edgebench.agent.energy import EnergyMeter, energy_per_query

TREES = Path(__file__).with_name("trees")
VDD_IN = "sys/bus/i2c/devices/1-0040/hwmon/hwmon4"


class Time:
    """A clock that a test moves, and a sampler that looks when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.look: Callable[[], None] | None = None
        self.rate_hz = 0.0

    def __call__(self) -> float:
        return self.now

    def sample(self, look: Callable[[], None], rate_hz: float) -> Callable[[], None]:
        self.look, self.rate_hz = look, rate_hz
        return lambda: setattr(self, "look", None)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREES / "x86-server", tmp_path / "server"))


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREES / "orin-nano", tmp_path / "orin"))


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_counters_may_wrap(server: Path, time: Time) -> None:
    meter = EnergyMeter(server, time, time.sample)
    meter.start()
    # The package was 1143.32885 J below its end: it wraps and goes on for 100 J.
    put(server, {"sys/class/powercap/intel-rapl:0/energy_uj": "100000000"})
    put(server, {"sys/class/powercap/intel-rapl:0:0/energy_uj": "25000000"})
    time.now += 20
    reading = meter.stop()
    assert reading is not None
    assert reading == {
        "sensor": "RAPL package-0 + RAPL dram of package-0",
        "kind": "counter",
        "scope": "package-0 + dram of package-0",
        "rate_hz": 1000.0,
        "seconds": 20.0,
        "joules": pytest.approx(1143.32885 + 100 + 20),
        "watts": pytest.approx(1263.32885 / 20),
        "problem": None,
    }


def test_counter_that_wraps_twice_in_a_window_is_seen_to(server: Path, time: Time) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    whole = int((server / zone / "max_energy_range_uj").read_text()) / 1e6
    meter = EnergyMeter(server, time, time.sample)
    put(server, {f"{zone}/energy_uj": "0"})
    meter.start()
    assert time.rate_hz == 0.1
    assert time.look is not None
    for share in (0.9, 0.3, 0.9, 0.1):
        time.now += 10
        put(server, {f"{zone}/energy_uj": str(round(share * whole * 1e6))})
        time.look()
    reading = meter.stop()
    assert reading is not None
    assert reading["joules"] == pytest.approx(2.1 * whole)
    assert reading["problem"] is None


def test_power_is_integrated_by_the_trapezoid_rule(orin: Path, time: Time) -> None:
    meter = EnergyMeter(orin, time, time.sample)
    meter.start()
    assert time.rate_hz == 20
    assert time.look is not None
    # 6 W, rising to 10 W within 5 s and staying there for 5 s.
    for at, milliamperes in ((5, "2000"), (10, "2000")):
        time.now = 100.0 + at
        put(orin, {f"{VDD_IN}/curr1_input": milliamperes})
        time.look()
    reading = meter.stop()
    assert reading is not None
    assert (reading["sensor"], reading["kind"]) == ("INA3221 VDD_IN", "power")
    assert reading["joules"] == pytest.approx(5 * (6 + 10) / 2 + 5 * 10)
    assert reading["seconds"] == 10
    assert "only 4 times" in reading["problem"]


def test_rate_is_the_one_that_was_reached(orin: Path, time: Time) -> None:
    meter = EnergyMeter(orin, time, time.sample)
    meter.start()
    assert time.look is not None
    for _ in range(99):
        time.now += 0.125
        time.look()
    time.now += 0.125
    reading = meter.stop()
    assert reading is not None
    assert reading["rate_hz"] == 8
    assert reading["problem"] is None
    assert reading["joules"] == pytest.approx(6 * 12.5)


def test_short_window_is_no_measurement(server: Path, time: Time) -> None:
    meter = EnergyMeter(server, time, time.sample)
    meter.start()
    time.now += 9.5
    reading = meter.stop()
    assert reading is not None
    assert reading["problem"] == "a window of 9.5 s is too short to be a measurement"
    assert energy_per_query(reading, reading, 10) is None


def test_window_whose_end_is_noticed_late_counts(server: Path, time: Time) -> None:
    meter = EnergyMeter(server, time, time.sample)
    meter.start()
    time.now += 9.99
    reading = meter.stop()
    assert reading is not None
    assert reading["problem"] is None


def test_meter_measures_one_window_after_another(server: Path, time: Time) -> None:
    meter = EnergyMeter(server, time, time.sample)
    meter.start()
    time.now += 10
    assert meter.stop() is not None
    put(server, {"sys/class/powercap/intel-rapl:0:0/energy_uj": "1005000000"})
    meter.start()
    time.now += 10
    second = meter.stop()
    assert second is not None
    assert second["joules"] == 0


def test_silent_sensor_is_left_out(orin: Path, time: Time) -> None:
    meter = EnergyMeter(orin, time, time.sample)
    meter.start()
    assert time.look is not None
    (orin / f"{VDD_IN}/curr1_input").write_text("")
    time.now += 5
    time.look()
    (orin / f"{VDD_IN}/curr1_input").write_text("1200")
    time.now += 5
    reading = meter.stop()
    assert reading is not None
    assert reading["joules"] == pytest.approx(60)
    meter.start()
    (orin / f"{VDD_IN}/curr1_input").unlink()
    time.now += 20
    assert meter.stop() is None


def test_no_sensor_no_energy(tmp_path: Path, time: Time) -> None:
    meter = EnergyMeter(tmp_path, time, time.sample)
    assert meter.sensors == []
    meter.start()
    time.now += 20
    assert meter.stop() is None


def test_sampling_thread_samples_and_ends(orin: Path) -> None:
    looked = threading.Event()

    def clock() -> float:
        if threading.current_thread() is not threading.main_thread():
            looked.set()
        return 0.0

    meter = EnergyMeter(orin, clock)
    meter.start()
    assert looked.wait(30)
    meter.stop()
    assert not [t for t in threading.enumerate() if t.name == "energy"]


def reading(joules: float, seconds: float, **changes: Any) -> dict[str, Any]:
    base = {"sensor": "s", "kind": "counter", "rate_hz": 1.0, "problem": None}
    return {**base, "joules": joules, "seconds": seconds, **changes}


def test_idle_is_subtracted() -> None:
    # 12 W for 20 s, of which 5 W are idle, over 1000 queries: 140 J.
    assert energy_per_query(reading(240, 20), reading(50, 10), 1000) == pytest.approx(140)
    assert energy_per_query(reading(240, 20), None, 1000) is None
    assert energy_per_query(None, reading(50, 10), 1000) is None
    assert energy_per_query(reading(240, 20), reading(50, 10), 0) is None
    assert energy_per_query(reading(240, 20), reading(50, 10, sensor="t"), 10) is None


def test_rails_without_an_input_are_added_up(orin: Path) -> None:
    put(orin, {f"{VDD_IN}/in1_label": "NC"})
    (sensor,) = find_sensors(orin)
    assert sensor.scope == "VDD_CPU_GPU_CV + VDD_SOC"
    assert sensor.read() == 5000 * (300 + 280) / 1000


def test_jetpack_4(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    put(
        tmp_path,
        {
            f"{folder}/rail_name_0": "POM_5V_IN",
            f"{folder}/in_power0_input": "2340",
            f"{folder}/rail_name_1": "POM_5V_GPU",
            f"{folder}/in_power1_input": "120",
        },
    )
    (sensor,) = find_sensors(tmp_path)
    assert (sensor.scope, sensor.read()) == ("POM_5V_IN", 2340)


def test_platform_counter_does_not_join_the_package_it_holds() -> None:
    assert [s.scope for s in EnergyMeter(TREES / "laptop").sensors] == ["package-0"]


def test_counter_for_root_alone_is_named(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever runs the tests may be root, who may read anything.
    zone = server / "sys/class/powercap/intel-rapl:0/energy_uj"
    monkeypatch.setattr("os.access", lambda path, mode: path != str(zone))
    runtime = {"name": "onnxruntime", "version": "1", "providers": [], "numpy": "2"}
    state = device_record(server, runtime)["state"]
    assert state["energy_sensors_refused"] == [f"RAPL package-0: only root may read {zone}"]
    assert state["energy_sensors"] == ["RAPL package-0", "RAPL dram of package-0"]
