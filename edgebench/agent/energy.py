"""Measures the energy of a window of time, and tells that of a query from it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

from .device.sensors import COUNTER, Sensor, find_sensors

# Sensors are too slow, and what a device does beside is too uneven, for a shorter window.
LEAST_WINDOW_S = 10.0
# It takes a moment until the start and the end of a process's window are known here.
_NOTICE_S = 0.25
# A counter of 65 kJ, a small one, wraps in this time at 6.5 kW: no wrap goes unseen.
_COUNTER_LOOKS_HZ = 0.1


class EnergyMeter:
    """Measures windows of time with the widest sensor there is.

    Where no rail feeds all, counters of different parts (packages, memory, cards) are added up.
    `sensors` are those in use: empty where there are none. `clock` gives seconds; `sample` starts
    what calls its argument at a rate in Hz, and gives what stops that (a thread, by default).
    `cards`: whether graphics cards count.
    """

    def __init__(
        self,
        root: Path,
        clock: Callable[[], float] = time.monotonic,
        sample: Optional[Sampling] = None,
        *,
        cards: bool = True,
    ) -> None:
        self.sensors = _used(find_sensors(root, cards=cards))
        self._clock = clock
        self._sample = sample or _in_thread
        self._readings: list[tuple[float, Optional[list[float]]]] = []
        self._stop: Optional[Callable[[], None]] = None

    def start(self) -> None:
        """Begin a window; one that is open is forgotten."""
        self._end_sampling()
        self._readings = []
        if not self.sensors:
            return
        self._look()
        counting = self.sensors[0].kind == COUNTER
        self._stop = self._sample(
            self._look, _COUNTER_LOOKS_HZ if counting else self.sensors[0].rate_hz
        )

    def stop(self) -> Optional[dict[str, Any]]:
        """End the window; None where there is no sensor, or it fell silent.

        Gives `sensor`, `kind`, `scope`, `rate_hz` (how often it was really read, or is new),
        `seconds`, `joules`, `watts`, and `problem`: why it is no measurement, or None.
        """
        self._end_sampling()
        if not self.sensors or not self._readings:
            return None
        self._look()
        read = [(at, values) for at, values in self._readings if values is not None]
        begin, end = self._readings[0], self._readings[-1]
        seconds = end[0] - begin[0]
        if begin[1] is None or end[1] is None or seconds <= 0:
            return None
        counting = self.sensors[0].kind == COUNTER
        values = [value for _, value in read]
        joules = sum(map(self._counted, values, values[1:])) if counting else _integrated(read)
        rate = self.sensors[0].rate_hz if counting else (len(read) - 1) / seconds
        problem = None
        if seconds < LEAST_WINDOW_S - _NOTICE_S:
            problem = f"a window of {seconds:.1f} s is too short to be a measurement"
        elif not counting and rate < 1:
            problem = f"the sensor answered only {len(read)} times in {seconds:.0f} s"
        return {
            "sensor": " + ".join(sensor.name for sensor in self.sensors),
            "kind": self.sensors[0].kind,
            "scope": " + ".join(sensor.scope for sensor in self.sensors),
            "rate_hz": round(rate, 2),
            "seconds": round(seconds, 3),
            "joules": joules,
            "watts": joules / seconds,
            "problem": problem,
        }

    def _look(self) -> None:
        values = [sensor.read() for sensor in self.sensors]
        known = [value for value in values if value is not None]
        # The values belong to a moment between the two readings of the clock.
        self._readings.append((self._clock(), known if len(known) == len(values) else None))

    def _counted(self, begin: list[float], end: list[float]) -> float:
        """Joules between two readings of the counters, each of which may have wrapped once."""
        total = 0.0
        for sensor, first, last in zip(self.sensors, begin, end):
            total += last - first if last >= first else last - first + (sensor.range_uj or 0)
        return total / 1e6

    def _end_sampling(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None


def energy_per_query(
    run: Optional[dict[str, Any]], idle: Optional[dict[str, Any]], queries: int
) -> Optional[float]:
    """What a query costs beyond the idle device, in mJ.

    `run` and `idle` are two readings of one EnergyMeter. None where either is missing or is no
    measurement, where they come from different sensors, or without queries.
    """
    if run is None or idle is None or queries < 1:
        return None
    if run["sensor"] != idle["sensor"] or run["problem"] or idle["problem"]:
        return None
    beyond = run["joules"] - idle["joules"] / idle["seconds"] * run["seconds"]
    return float(1000 * beyond / queries)


def _used(sensors: Sequence[Sensor]) -> list[Sensor]:
    """The widest sensor; of counters, and of cards, all that see different parts."""
    if not sensors:
        return []
    counters = [s for s in sensors if s.kind == COUNTER and s.scope != "psys"]
    if sensors[0].name.startswith("INA3221"):
        return [sensors[0]]
    return counters or [s for s in sensors if s.kind == sensors[0].kind]


def _integrated(readings: Sequence[tuple[float, Sequence[float]]]) -> float:
    """Joules under readings of mW, by the trapezoid rule."""
    total = 0.0
    # itertools.pairwise is not there before Python 3.10.
    for (begin, before), (end, after) in zip(readings, readings[1:]):  # noqa: RUF007
        total += (sum(before) + sum(after)) / 2 * (end - begin)
    return total / 1e3


def _in_thread(look: Callable[[], None], rate_hz: float) -> Callable[[], None]:
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(1 / rate_hz):
            look()

    thread = threading.Thread(target=work, name="energy", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()

    return stop


# Starts calling its first argument so many times a second; gives what ends that.
Sampling = Callable[[Callable[[], None], float], Callable[[], None]]
