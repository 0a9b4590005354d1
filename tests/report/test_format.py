import math

import pytest

from edgebench.records import Estimate
from edgebench.report import format as fmt


def estimate(point, low, high, method="m"):
    return Estimate(point=point, low=low, high=high, n=10, method=method)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("latency_p50_ms", 0.02527, "25.3 µs"),
        ("latency_p50_ms", 14.04, "14.0 ms"),
        ("latency_p50_ms", 65_000.0, "65.0 s"),
        ("size_bytes", 900, "900 B"),
        ("size_bytes", 224_049, "219 KiB"),
        ("size_bytes", 46_800_000, "44.6 MiB"),
        ("accuracy", 0.97, "97.00 %"),
        ("accuracy_delta_pp", 0.5, "+0.50 pp"),
        ("accuracy_delta_pp", -0.5, "−0.50 pp"),
        ("accuracy_delta_pp", -1e-9, "0.00 pp"),
        ("parameters", 54866.0, "54,866"),
        ("sqnr_db", 21.34, "21.3 dB"),
        ("energy_mj", 0.0421, "42.1 µJ"),
        ("energy_mj", 3.142, "3.14 mJ"),
        ("energy_mj", 45_000.0, "45.0 J"),
        ("js_divergence", 6e-9, "6.00e−9"),
        ("js_divergence", 0.0, "0.00"),
        ("nobody_knows_this", 12.345, "12.3"),
        ("latency_p99_ms", None, "–"),
        ("latency_p50_ms", math.inf, "–"),
        ("latency_p50_ms", math.nan, "–"),
    ],
)
def test_point(name, value, text):
    assert fmt.point(name, value) == text


def test_one_unit_for_a_column():
    assert fmt.point("latency_p50_ms", 0.02, reference=3.0).endswith(" ms")
    assert fmt.point("size_bytes", 500, reference=2**21).endswith(" MiB")


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("latency_ratio", (0.62, 0.60, 0.65), "0.62 [0.60, 0.65]"),
        # A narrow interval about 1 must not read as [1.00, 1.00].
        ("latency_ratio", (1.0024, 0.9948, 1.0101), "1.002 [0.995, 1.010]"),
        ("latency_ratio", (0.25, 0.25, 0.25), "0.250"),
        ("accuracy_delta_pp", (-0.111, -0.78, 0.51), "−0.11 pp [−0.78, +0.51]"),
        ("accuracy", (0.9677, 0.954, 0.9774), "96.77 % [95.40, 97.74]"),
        ("js_divergence", (6e-9, 5e-9, 7e-9), "6.00e−9 [5.00e−9, 7.00e−9]"),
        ("latency_ratio", (0.5, None, 0.75), "0.50 [–, 0.75]"),
        ("latency_ratio", (None, None, None), "–"),
    ],
)
def test_estimate(name, values, text):
    assert fmt.estimate(name, estimate(*values)) == text


def test_what_has_no_value_says_why_elsewhere_but_infinity_is_named():
    short = estimate(None, None, None, "not enough samples: 412 of 662 queries")
    assert fmt.estimate("latency_p99_ms", short) == "–"
    endless = estimate(None, None, None, "ratio of means; not finite")
    assert fmt.estimate("latency_ratio", endless) == "not finite"


def test_identical_outputs_are_called_so():
    same = estimate(None, None, None, "identical logits: infinite")
    assert fmt.estimate("sqnr_db", same) == "identical"
    assert fmt.estimate("sqnr_db", None) == "–"


def test_chain_in_words():
    steps = [
        {"technique": "prune-structured", "ratio": 0.5, "finetune": {"epochs": 5}},
        {"technique": "qat", "bits": 8},
        {"technique": "fp16"},
    ]
    assert fmt.chain(steps) == (
        "prune-structured (ratio 0.5, finetune (epochs 5)) → qat (bits 8) → fp16"
    )


def test_clean_leaves_nothing_that_drives_a_terminal_or_breaks_xml():
    assert fmt.clean("a\x1b[31m\x00\u202e\ufffeb\n") == "a\ufffd[31m\ufffd\ufffd\ufffdb\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.384, "0.38 s"), (43.7, "44 s"), (185.2, "3 min 05 s")]
)
def test_duration(seconds, text):
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        ("2026-11-21T06:03:30+00:00", "2026-11-21 06:03 UTC"),
        ("2026-11-21T06:03:30Z", "2026-11-21 06:03 UTC"),
        ("2026-11-21T00:30:00+02:00", "2026-11-20 22:30 UTC"),
        ("2026-11-21T06:03:30", "2026-11-21 06:03"),
        ("yester\x1bday", "yester\ufffdday"),
    ],
)
def test_moment(stamp, text):
    assert fmt.moment(stamp) == text
