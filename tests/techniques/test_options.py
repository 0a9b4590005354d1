"""Options out of range are refused in one line that names the option."""

from __future__ import annotations

from typing import Any

import pytest

from edgebench.errors import RecipeError
from edgebench.techniques.base import TECHNIQUES
from edgebench.validation import validated


@pytest.mark.parametrize(
    ("technique", "values", "text"),
    [
        ("ptq", {"bits": 4}, "bits"),
        ("ptq", {"calibration": "entropy"}, "calibration"),
        ("ptq", {"percentile": 50}, "percentile"),
        ("ptq", {"percentile": 100.1}, "percentile"),
        ("ptq", {"examples": 0}, "examples"),
        ("ptq", {"exampels": 10}, "unknown key 'exampels' in the options; did you mean 'examples'"),
        ("qat", {"bits": 16}, "bits"),
        ("qat", {"epochs": 0}, "epochs"),
        ("qat", {"learning_rate": 0}, "learning_rate"),
        ("qat", {"temperature": -1}, "temperature"),
        ("cast", {"dtype": "fp8"}, "dtype"),
        ("prune-unstructured", {}, "lacks 'ratio'"),
        ("prune-unstructured", {"ratio": 0}, "ratio"),
        ("prune-unstructured", {"ratio": 1}, "ratio"),
        ("prune-unstructured", {"ratio": "half"}, "ratio"),
        ("prune-unstructured", {"ratio": float("nan")}, "ratio"),
        ("prune-unstructured", {"ratio": 0.5, "scope": "all"}, "scope"),
        ("prune-unstructured", {"ratio": 0.5, "finetune": {"epochs": 0}}, "finetune.epochs"),
        ("prune-unstructured", {"ratio": 0.5, "finetune": {"epoch": 1}}, "did you mean 'epochs'"),
        ("prune-unstructured", {"ratio": 0.5, "finetune": 3}, "finetune"),
        ("prune-structured", {}, "lacks 'ratio'"),
        ("prune-structured", {"ratio": 1.5}, "ratio"),
        ("prune-structured", {"ratio": 0.5, "importance": "tailor"}, "importance"),
        ("prune-structured", {"ratio": 0.5, "round_to": 1}, "round_to"),
        ("distill", {"width": 0}, "width"),
        ("distill", {"width": 1.5}, "width"),
        ("distill", {"temperature": 0}, "temperature"),
        ("distill", {"alpha": 1.01}, "alpha"),
        ("distill", {"epochs": 0}, "epochs"),
        ("distill", {"options": 3}, "options"),
    ],
)
def test_options_out_of_range(technique: str, values: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validated(
            TECHNIQUES.get(technique).Options, values, RecipeError, where="here", noun="options"
        )
    line = str(caught.value)
    assert text in line
    assert line.startswith("here: ")
    assert "\n" not in line
