"""The metrics that come from the agent's clock, from the file, or from both arms of a pair."""

from __future__ import annotations

from typing import Literal

from edgebench.metrics.base import METRICS, Metric

_ROWS: list[tuple[str, str, str, Literal["higher", "lower"], str]] = [
    ("latency_p50_ms", "latency, median", "ms", "lower", "half of all queries are faster"),
    ("latency_p90_ms", "latency, 90 %", "ms", "lower", "nine queries in ten are faster"),
    ("latency_p95_ms", "latency, 95 %", "ms", "lower", "19 queries in 20 are faster"),
    ("latency_p99_ms", "latency, 99 %", "ms", "lower", "99 queries in 100 are faster"),
    ("latency_p999_ms", "latency, 99.9 %", "ms", "lower", "999 queries in 1,000 are faster"),
    (
        "energy_mj",
        "energy",
        "mJ",
        "lower",
        "energy of a query, that of the idle device subtracted, from the device's own sensor",
    ),
    (
        "first_inference_ms",
        "first inference",
        "ms",
        "lower",
        "the first query of a fresh process, median over processes",
    ),
    ("load_ms", "load", "ms", "lower", "reading the file and preparing the session, fresh process"),
    ("throughput_per_s", "throughput", "1/s", "higher", "queries a second, one after the other"),
    (
        "peak_memory_mib",
        "peak memory",
        "MiB",
        "lower",
        "most resident memory of a process that holds this model alone, Python included",
    ),
    ("size_bytes", "size", "bytes", "lower", "the exported file"),
    (
        "compressed_bytes",
        "compressed size",
        "bytes",
        "lower",
        "the file after deflate: what a download costs, and where zeros show",
    ),
    ("parameters", "parameters", "", "lower", "numbers in the file's weight tensors"),
    ("sparsity", "sparsity", "", "higher", "share of those numbers that are exactly zero"),
    (
        "latency_ratio",
        "latency ratio",
        "",
        "lower",
        "latency over base's, from interleaved pairs of blocks; below 1 is faster",
    ),
    ("size_ratio", "size ratio", "", "lower", "file size over base's"),
    (
        "compressed_size_ratio",
        "compressed size ratio",
        "",
        "lower",
        "compressed file size over base's",
    ),
]

# Read off the file, not off a clock.
_EXACT = {
    "size_bytes",
    "compressed_bytes",
    "parameters",
    "sparsity",
    "size_ratio",
    "compressed_size_ratio",
}

for _name, _title, _unit, _better, _meaning in _ROWS:
    _certainty: Literal["interval", "exact", "none"] = "interval"
    if _name in _EXACT:
        _certainty = "exact"
    elif _name in {"throughput_per_s", "energy_mj"}:
        _certainty = "none"
    METRICS.register(_name)(Metric(_name, _title, _unit, _better, _meaning, "measured", _certainty))
