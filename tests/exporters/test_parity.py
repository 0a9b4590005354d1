"""The comparison of a file's answers with its module's."""

from __future__ import annotations

import numpy as np
import pytest

from edgebench.errors import BuildError
from edgebench.exporters.parity import largest_gap

WANTED = np.array([[0.0, 2.0], [4.0, -2.0]], np.float32)


def gap(whole: np.ndarray, single: np.ndarray | None = None, *, quantized: bool = False) -> float:
    return largest_gap(
        WANTED,
        whole,
        whole[:1] if single is None else single,
        quantized=quantized,
        float_tolerance=1e-3,
        names=("the file", "the module"),
    )


def test_the_largest_difference_is_told() -> None:
    assert gap(WANTED) == 0
    off = WANTED.copy()
    off[1, 0] += 0.001
    assert gap(off) == pytest.approx(0.001, rel=1e-3)
    assert gap(WANTED, WANTED[:1] - np.float32(0.0005)) == pytest.approx(0.0005, rel=1e-3)


def test_another_shape_is_refused() -> None:
    with pytest.raises(BuildError, match=r"the file answers \(2, 1\) where the module answers"):
        gap(WANTED[:, :1])


def test_other_answers_are_refused() -> None:
    off = WANTED.copy()
    off[0, 0] += 0.01
    with pytest.raises(BuildError, match="the file's answers differ from the module's by up to"):
        gap(off)
    with pytest.raises(BuildError, match="differ"):
        gap(np.full_like(WANTED, np.nan))


def test_a_quantized_model_may_round_single_values_otherwise() -> None:
    off = WANTED.copy()
    off[0, 0] += 0.6
    assert gap(off, WANTED[:1], quantized=True) == pytest.approx(0.6)
    with pytest.raises(BuildError, match="differ"):
        gap(WANTED + 1, quantized=True)
