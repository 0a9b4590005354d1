"""NVIDIA cards, through the driver's own library and no package; nothing is ever set.

Source: NVIDIA's NVML API Reference Guide. A card without a value (a Jetson's, an old one) gives
None for it; where there is no library, there is no evidence.
"""

from __future__ import annotations

import ctypes
from typing import Any, Optional

LIBRARY = "libnvidia-ml.so.1"

_SUCCESS = 0
_GRAPHICS, _MEMORY = 0, 2
# Those that mean slower than the settings say; "idle" and "as the user set it" do not.
_SLOWED = {
    0x04: "power cap",
    0x08: "hardware slow-down",
    0x20: "heat, by software",
    0x40: "heat, by hardware",
    0x80: "power brake",
}
_VIOLATIONS = {0: "power", 1: "heat"}


class _Violation(ctypes.Structure):
    _fields_ = [("reference_ns", ctypes.c_ulonglong), ("violation_ns", ctypes.c_ulonglong)]


class Nvml:
    """An open connection to the driver; `None` from `open` where there is none."""

    def __init__(self, library: Any) -> None:
        self._library = library
        count = self._number("nvmlDeviceGetCount_v2") or 0
        self._cards = []
        for index in range(count):
            handle = ctypes.c_void_p()
            if self._call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle)):
                self._cards.append(handle)

    @classmethod
    def open(cls, name: Optional[str] = None) -> Optional[Nvml]:
        """Connect through the library `name`."""
        try:
            library = ctypes.CDLL(name or LIBRARY)
            started = library.nvmlInit_v2()
        except (OSError, AttributeError):
            return None
        return cls(library) if started == _SUCCESS else None

    def close(self) -> None:
        """Disconnect."""
        self._library.nvmlShutdown()

    def identity(self) -> dict[str, Any]:
        """What the cards are and how they are set: driver, limits in W and MHz, ECC, MIG."""
        return {
            "driver": self._text("nvmlSystemGetDriverVersion"),
            "cards": [
                {
                    "name": self._text("nvmlDeviceGetName", card),
                    "power_limit_w": _scaled(
                        self._number("nvmlDeviceGetEnforcedPowerLimit", card), 1000
                    ),
                    "most_graphics_mhz": self._number("nvmlDeviceGetMaxClockInfo", card, _GRAPHICS),
                    "most_memory_mhz": self._number("nvmlDeviceGetMaxClockInfo", card, _MEMORY),
                    "application_graphics_mhz": self._number(
                        "nvmlDeviceGetApplicationsClock", card, _GRAPHICS
                    ),
                    "persistence": _flag(self._number("nvmlDeviceGetPersistenceMode", card)),
                    "ecc": _flag(self._first_of_two("nvmlDeviceGetEccMode", card)),
                    "mig": _flag(self._first_of_two("nvmlDeviceGetMigMode", card)),
                }
                for card in self._cards
            ],
        }

    def state(self) -> list[dict[str, Any]]:
        """What each card does now: clocks, heat, power, and what slows it down."""
        return [
            {
                "graphics_mhz": self._number("nvmlDeviceGetClockInfo", card, _GRAPHICS),
                "memory_mhz": self._number("nvmlDeviceGetClockInfo", card, _MEMORY),
                "temperature_c": self._number("nvmlDeviceGetTemperature", card, 0),
                "power_w": _scaled(self.power_mw(index), 1000),
                "slowed_by": self._slowed_by(card),
            }
            for index, card in enumerate(self._cards)
        ]

    def slowed_ns(self) -> dict[str, int]:
        """How long the cards were slowed down since the driver's start, by cause, in ns."""
        total: dict[str, int] = {}
        for card in self._cards:
            for policy, name in _VIOLATIONS.items():
                status = _Violation()
                if self._call("nvmlDeviceGetViolationStatus", card, policy, ctypes.byref(status)):
                    total[name] = total.get(name, 0) + status.violation_ns
        return total

    def count(self) -> int:
        """How many cards there are."""
        return len(self._cards)

    def power_mw(self, index: int) -> Optional[int]:
        """What a card draws now, in mW."""
        return self._number("nvmlDeviceGetPowerUsage", self._cards[index])

    def energy_mj(self, index: int) -> Optional[int]:
        """What a card has used since the driver's start, in mJ (Volta and later)."""
        value = ctypes.c_ulonglong()
        name = "nvmlDeviceGetTotalEnergyConsumption"
        return value.value if self._call(name, self._cards[index], ctypes.byref(value)) else None

    def _slowed_by(self, card: Any) -> list[str]:
        mask = ctypes.c_ulonglong()
        # The name before and after driver 535.
        names = (
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        )
        known = any(self._call(name, card, ctypes.byref(mask)) for name in names)
        return [name for bit, name in _SLOWED.items() if mask.value & bit] if known else []

    def _number(self, name: str, *arguments: Any) -> Optional[int]:
        value = ctypes.c_uint()
        return value.value if self._call(name, *arguments, ctypes.byref(value)) else None

    def _first_of_two(self, name: str, card: Any) -> Optional[int]:
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        done = self._call(name, card, ctypes.byref(current), ctypes.byref(pending))
        return current.value if done else None

    def _text(self, name: str, *arguments: Any) -> Optional[str]:
        buffer = ctypes.create_string_buffer(96)
        done = self._call(name, *arguments, buffer, ctypes.c_uint(96))
        return buffer.value.decode("utf-8", "replace") if done else None

    def _call(self, name: str, *arguments: Any) -> bool:
        try:
            return bool(getattr(self._library, name)(*arguments) == _SUCCESS)
        except AttributeError:
            return False


def _flag(value: Optional[int]) -> Optional[bool]:
    return None if value is None else value != 0


def _scaled(value: Optional[int], by: int) -> Optional[float]:
    return None if value is None else value / by
