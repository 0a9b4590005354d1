"""How numbers, names and chains are written, alike in every report."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from edgebench.records import Estimate
from edgebench.report.glossary import words

MISSING = "–"
NOT_FINITE = "not finite"

# What XML 1.0 forbids, with the C1 controls and the marks that reorder text: nothing in a name
# or a message may drive a terminal, break a document or read as something else.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufffe\uffff]"
)


class Scale(NamedTuple):
    """How a unit is written: times `factor`, at least `decimals` decimals, `unit` behind.

    `fixed`: just so many decimals where no interval asks for more.
    """

    factor: float
    unit: str
    decimals: int = 0
    signed: bool = False
    fixed: bool = False


_DURATIONS = ((1e4, Scale(1e-3, " s")), (0.1, Scale(1.0, " ms")), (0.0, Scale(1e3, " µs")))
_SIZES = (
    (1024**2, Scale(1 / 1024**2, " MiB")),
    (1024, Scale(1 / 1024, " KiB")),
    (0, Scale(1.0, " B")),
)
_ENERGIES = ((1e4, Scale(1e-3, " J")), (0.1, Scale(1.0, " mJ")), (0.0, Scale(1e3, " µJ")))
_SCALES = {
    "memory": Scale(1.0, " MiB"),
    "rate": Scale(1.0, " /s"),
    "fraction": Scale(100.0, " %", 2, fixed=True),
    "points": Scale(1.0, " pp", 2, signed=True, fixed=True),
    "percent": Scale(1.0, " %", 2, signed=True, fixed=True),
    "ratio": Scale(1.0, "", 2),
    "decibel": Scale(1.0, " dB", 1),
}


def clean(text: object) -> str:
    """`text` with characters that XML forbids or terminals obey replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def shorten(text: str, limit: int) -> str:
    """`text` on one line, cut at `limit` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def finite(value: float | None) -> float | None:
    """`value`, or None where it is missing, infinite or not a number."""
    return value if value is not None and math.isfinite(value) else None


def number(value: float | None) -> str:
    """A bare number with three significant digits."""
    value = finite(value)
    if value is None:
        return MISSING
    if value and abs(value) < 1e-4:
        return _signs(f"{value:.2e}".replace("e-0", "e-"), signed=False)
    return _fixed(value, _significant(value))


def duration(seconds: float) -> str:
    """A span of time for people: `0.42 s`, `12 s`, `3 min 05 s`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def moment(stamp: str) -> str:
    """An ISO 8601 time for people: `2026-11-21 06:03 UTC`; what is no such time stays as it is."""
    # Python 3.10 does not read the "Z".
    try:
        read = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", stamp))
    except ValueError:
        return clean(stamp)
    if read.tzinfo is None:
        return f"{read:%Y-%m-%d %H:%M}"
    return f"{read.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def point(name: str, value: float | None, reference: float | None = None) -> str:
    """The metric's value with its unit; `reference` (base's value) chooses between units."""
    value = finite(value)
    if value is None:
        return MISSING
    scale = _scale(name, value if finite(reference) is None else reference)
    scaled = value * scale.factor
    if scale.fixed or _is_count(name):
        return _fixed(scaled, scale.decimals, signed=scale.signed) + scale.unit
    if scaled and abs(scaled) < 1e-4:
        return number(scaled) + scale.unit
    return _fixed(scaled, max(scale.decimals, _significant(scaled))) + scale.unit


def parts(name: str, estimate: Estimate | None, reference: float | None = None) -> tuple[str, str]:
    """The point with its unit, and the interval in brackets (empty where it is exact).

    Both are written with as many decimals as the interval's width can bear.
    """
    if estimate is None:
        return MISSING, ""
    value, low, high = (finite(v) for v in (estimate.point, estimate.low, estimate.high))
    if value is None:
        # The signal-to-noise ratio of identical outputs is infinite; its method says so.
        if estimate.method.startswith("identical"):
            return "identical", ""
        return (NOT_FINITE if estimate.method.endswith("not finite") else MISSING), ""
    if (low is None and high is None) or (low == value == high):
        return point(name, value, reference), ""
    scale = _scale(name, value if finite(reference) is None else reference)
    ends = [None if end is None else end * scale.factor for end in (low, high)]
    scaled = value * scale.factor
    decimals = min(6, max(scale.decimals, _bearable(scaled, ends)))
    if max(abs(v) for v in (scaled, *ends) if v is not None) < 1e-4:
        return number(scaled) + scale.unit, f"[{number(ends[0])}, {number(ends[1])}]"
    written = [
        MISSING if end is None else _fixed(end, decimals, signed=scale.signed) for end in ends
    ]
    return (
        _fixed(scaled, decimals, signed=scale.signed) + scale.unit,
        f"[{written[0]}, {written[1]}]",
    )


def estimate(name: str, value: Estimate | None, reference: float | None = None) -> str:
    """Point and interval on one line: `0.62 [0.60, 0.65]`."""
    return " ".join(part for part in parts(name, value, reference) if part)


def chain(steps: Iterable[Mapping[str, Any]]) -> str:
    """A chain of techniques in words: `prune-structured (ratio 0.5) → ptq (bits 8)`."""
    return " → ".join(_step(step) for step in steps)


def plain(value: Any) -> str:
    """Any JSON value as a short text on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{clean(k)} {plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(v) for v in value) or "none"
    return " ".join(clean(value).split())


def _step(step: Mapping[str, Any]) -> str:
    options = {k: v for k, v in step.items() if k != "technique"}
    settings = ", ".join(
        f"{clean(k)} ({plain(v)})" if isinstance(v, Mapping) else f"{clean(k)} {plain(v)}"
        for k, v in options.items()
    )
    name = clean(step.get("technique", "?"))
    return f"{name} ({settings})" if settings else name


def _is_count(name: str) -> bool:
    return words(name).kind == "count"


def _scale(name: str, reference: float | None) -> Scale:
    size = abs(reference or 0.0)
    kind = words(name).kind
    if kind == "duration":
        return next(scale for least, scale in _DURATIONS if size >= least)
    if kind == "energy":
        return next(scale for least, scale in _ENERGIES if size >= least)
    if kind == "size":
        return next(scale for least, scale in _SIZES if size >= least)
    return _SCALES.get(kind, Scale(1.0, ""))


def _significant(value: float) -> int:
    """Decimals that show three significant digits."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2


def _bearable(value: float, ends: list[float | None]) -> int:
    """Decimals whose last place is at most a quarter of the interval's width."""
    known = [end for end in (value, *ends) if end is not None]
    width = max(known) - min(known)
    if width <= 0 or not math.isfinite(width):
        return _significant(value)
    return max(0, -math.floor(math.log10(width / 4)))


def _fixed(value: float, decimals: int, *, signed: bool = False) -> str:
    rounded = round(value, decimals) + 0.0  # no negative zero
    return _signs(f"{rounded:,.{decimals}f}", signed=signed and rounded > 0)


def _signs(text: str, *, signed: bool) -> str:
    return ("+" if signed else "") + text.replace("-", "−")
