"""Options of `ptq` that contradict one another are refused in one line that names them."""

from __future__ import annotations

from typing import Any

import pytest

from edgebench.errors import RecipeError
from edgebench.techniques.base import TECHNIQUES
from edgebench.validation import validated

PTQ = TECHNIQUES.get("ptq")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"bits": 4}, "bits: 4 needs mode: weight-only"),
        ({"bits": 4, "mode": "dynamic"}, "bits: 4 needs mode: weight-only"),
        ({"calibration": "mse", "percentile": 99.9}, "'percentile' is for calibration: percentile"),
        ({"group_size": 32}, "'group_size' is for mode: weight-only, not static"),
        ({"kernel": "matmul-nbits"}, "'kernel' is for mode: weight-only"),
        ({"mode": "weight-only", "bias_correction": True}, "'bias_correction' is for mode: static"),
        ({"mode": "dynamic", "calibration": "mse"}, "'calibration' is for mode: static"),
        ({"mode": "dynamic", "keep_float": {"limit": 1}}, "'keep_float' is for mode: static"),
        ({"mode": "dynamic", "examples": 9}, "mode: dynamic uses no calibration examples"),
        ({"mode": "weight-only", "group_size": 24}, "'group_size' is 24, not a power of two"),
        ({"mode": "weight-only", "group_size": 8}, "'group_size' is 8, not a power of two from 16"),
        ({"mode": "weight-only", "group_size": 16, "per_channel": False}, "leave 'per_channel' on"),
        (
            {"mode": "weight-only", "kernel": "matmul-nbits", "per_channel": False},
            "leave 'per_channel' on",
        ),
        ({"keep_float": {}}, "lacks 'keep_float.limit'"),
        ({"keep_float": {"limit": -1}}, "from 0 to 100 percentage points"),
        (
            {"keep_float": {"metric": "functional_preservation", "limit": 1}},
            "a functional preservation of 1 is the float file itself",
        ),
        ({"keep_float": {"metric": "sqnr", "limit": 0}}, "an SQNR is a limit above 0 dB"),
        ({"keep_float": {"limit": 1, "most": 0}}, "keep_float.most"),
    ],
)
def test_options_that_make_no_sense(values: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validated(PTQ.Options, values, RecipeError, where="here", noun="options")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"calibration": "percentile", "percentile": 99.9},
        {"mode": "weight-only", "bits": 4, "group_size": 16},
        {"mode": "weight-only", "equalize": True, "examples": 64},
        {"keep_float": {"metric": "sqnr", "limit": 30, "most": 2}, "bias_correction": True},
    ],
)
def test_options_that_make_sense(values: dict[str, Any]) -> None:
    options = validated(PTQ.Options, values, RecipeError, where="here", noun="options")
    assert PTQ.Options.model_validate(options.model_dump(mode="json")) == options
