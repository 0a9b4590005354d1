"""The sensors a device has for energy and power, widest scope first.

Source: the Linux kernel's Documentation/power/powercap/powercap.rst and hwmon/ina3221.rst; NVIDIA's
L4T developer guide; NVIDIA's NVML API Reference Guide.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Callable, Optional

from .files import number, numbered, text
from .nvml import Nvml

COUNTER, POWER = "counter", "power"

# The kernel refreshes RAPL about every millisecond; the INA3221 averages over some milliseconds.
_RAPL_HZ = 1000.0
_SAMPLING_HZ = 20.0
_CARD_HZ = 10.0
# What feeds the whole board, on boards that have such a rail.
_BOARD_RAILS = ("VDD_IN", "POM_5V_IN", "5V_IN")
# The INA3221's seventh channel is the sum of the others.
_SUM_CHANNEL = 7


class Sensor:
    """One thing that can be read.

    `kind` is "counter" (`read` gives µJ since some start; it wraps after `range_uj`) or "power"
    (`read` gives mW). `scope` says what it sees, `rate_hz` how often its value is new or is asked
    for. `read` gives None where the sensor does not answer.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        scope: str,
        *,
        rate_hz: float,
        read: Callable[[], Optional[float]],
        range_uj: Optional[int] = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.scope = scope
        self.rate_hz = rate_hz
        self.read = read
        self.range_uj = range_uj

    def __repr__(self) -> str:
        return f"Sensor({self.name!r}, {self.kind!r}, {self.scope!r})"


def find_sensors(root: Path, *, cards: bool = True) -> list[Sensor]:
    """Every sensor that can be read here, the one that sees most of the device first.

    A board's input rail comes before the sum of its rails, both before the processor's own
    counters, which leave out what is outside the package; a card's see the card alone, and are
    left out where `cards` is false, since nothing that is measured runs there.
    """
    return [*_board(root), *_rapl(root), *(_cards(root) if cards else [])]


def unreadable_sensors(root: Path) -> list[str]:
    """Sensors that are there, but that this user may not read."""
    return [
        f"RAPL {text(zone / 'name')}: only root may read {zone / 'energy_uj'}"
        for zone in _rapl_zones(root)
        if not os.access(str(zone / "energy_uj"), os.R_OK)
    ]


def _board(root: Path) -> list[Sensor]:
    rails = {**_iio_rails(root), **_hwmon_rails(root)}
    if not rails:
        return []
    whole = [
        Sensor(f"{device} {rail}", POWER, rail, rate_hz=_SAMPLING_HZ, read=read)
        for rail in _BOARD_RAILS
        for (device, name), read in rails.items()
        if name == rail
    ]
    if whole:
        return whole[:1]
    devices = ", ".join(sorted({device for device, _ in rails}))
    scope = " + ".join(name for _, name in rails)
    read = _sum(list(rails.values()))
    return [Sensor(f"{devices} sum", POWER, scope, rate_hz=_SAMPLING_HZ, read=read)]


def _hwmon_rails(root: Path) -> dict[tuple[str, str], Callable[[], Optional[float]]]:
    """The INA3221's channels under its kernel driver: mV times mA."""
    found: dict[tuple[str, str], Callable[[], Optional[float]]] = {}
    for device in sorted((root / "sys/bus/i2c/devices").glob("*")):
        for monitor in numbered(device, "hwmon/hwmon[0-9]*"):
            for label in numbered(monitor, "in[0-9]*_label"):
                channel = int(re.findall(r"\d+", label.name)[0])
                name = text(label) or ""
                volts, amperes = monitor / f"in{channel}_input", monitor / f"curr{channel}_input"
                if not (text(monitor / "name") or "ina").startswith("ina"):
                    continue
                if name in {"", "NC"} or channel == _SUM_CHANNEL or number(amperes) is None:
                    continue
                found["INA3221", name] = _product(volts, amperes)
    return found


def _iio_rails(root: Path) -> dict[tuple[str, str], Callable[[], Optional[float]]]:
    """The same chip under JetPack 4's own driver, which multiplies itself: mW."""
    found: dict[tuple[str, str], Callable[[], Optional[float]]] = {}
    places = ("devices/*/iio:device[0-9]*", "drivers/ina3221x/*/iio:device[0-9]*")
    for device in [d for place in places for d in sorted((root / "sys/bus/i2c").glob(place))]:
        for label in numbered(device, "rail_name_[0-9]*"):
            channel = int(re.findall(r"\d+", label.name)[0])
            name, file = text(label) or "", device / f"in_power{channel}_input"
            if name not in {"", "NC"} and number(file) is not None:
                found["INA3221", name] = _reader(file)
    return found


def _rapl_zones(root: Path) -> list[Path]:
    return [
        zone
        for zone in numbered(root / "sys/class/powercap", "intel-rapl:*")
        if (zone / "energy_uj").exists()
    ]


def _rapl(root: Path) -> list[Sensor]:
    """RAPL's packages, each with its memory where that is counted apart."""
    zones = [zone for zone in _rapl_zones(root) if number(zone / "energy_uj") is not None]
    return [
        Sensor(
            f"RAPL {name}",
            COUNTER,
            name,
            rate_hz=_RAPL_HZ,
            read=_reader(zone / "energy_uj"),
            range_uj=number(zone / "max_energy_range_uj"),
        )
        for zone in zones
        for name in [_rapl_name(zone)]
        if re.match(r"package|dram|psys", name)
    ]


def _rapl_name(zone: Path) -> str:
    """A zone's name; a package's memory is called by its package too."""
    name = text(zone / "name") or zone.name
    above = zone.parent / zone.name.rpartition(":")[0]
    package = text(above / "name")
    return f"{name} of {package}" if package else name


def _cards(root: Path) -> list[Sensor]:
    if root != Path("/"):
        return []
    nvidia = Nvml.open()
    if nvidia is None:
        return []
    names = [card["name"] for card in nvidia.identity()["cards"]]
    found = []
    for index, name in enumerate(names):
        scope = f"card {index}"
        if nvidia.energy_mj(index) is not None:
            kind, read = COUNTER, _scaled(nvidia.energy_mj, index, 1000)
        elif nvidia.power_mw(index) is not None:
            kind, read = POWER, _scaled(nvidia.power_mw, index, 1)
        else:
            continue
        found.append(Sensor(f"NVML {name}", kind, scope, rate_hz=_CARD_HZ, read=read))
    return found


def _reader(file: Path) -> Callable[[], Optional[float]]:
    return lambda: number(file)


def _product(volts: Path, amperes: Path) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        millivolts, milliamperes = number(volts), number(amperes)
        if millivolts is None or milliamperes is None:
            return None
        return millivolts * milliamperes / 1000

    return read


def _sum(reads: list[Callable[[], Optional[float]]]) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        values = [read_one() for read_one in reads]
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return read


def _scaled(
    get: Callable[[int], Optional[int]], index: int, by: int
) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        value = get(index)
        return None if value is None else value * by

    return read
