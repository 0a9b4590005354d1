"""Who killed a worker, told by what the kernel counts."""

from __future__ import annotations

import pytest

from edgebench.agent import supervise


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (None, None, "most likely the device ran out of memory"),
        (3, None, "most likely the device ran out of memory"),
        (3, 4, "the kernel killed it, the device ran out of memory"),
        (3, 3, "not by the kernel for want of memory"),
    ],
)
def test_the_kernels_count_tells_who_it_was(
    monkeypatch: pytest.MonkeyPatch, before: int | None, now: int | None, said: str
) -> None:
    """The count is made up: a kernel that runs out of memory takes the tests with it."""
    monkeypatch.setattr(supervise, "killed_for_memory", lambda root: now)
    assert said in supervise._killer(before)
