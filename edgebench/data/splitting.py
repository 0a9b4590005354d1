"""Stratified choices: a part of a data set that keeps the shares of its classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgebench.data.base import Indices, Labels
from edgebench.errors import DataError

Counts = npt.NDArray[np.int64]


def apportion(counts: Counts, total: int, low: Counts, high: Counts) -> Counts:
    """Shares of `total` in proportion to `counts`, each within [`low`, `high`].

    The method of largest remainders, with bounds: the class farthest below its exact share gets
    the next one. `total` must lie within [sum of `low`, sum of `high`].
    """
    exact = total * counts / counts.sum()
    shares: Counts = np.clip(np.floor(exact).astype(np.int64), low, high)
    while (missing := total - int(shares.sum())) != 0:
        step = 1 if missing > 0 else -1
        has_room = shares < high if step > 0 else shares > low
        need = np.where(has_room, step * (exact - shares), -np.inf)
        shares[int(np.argmax(need))] += step
    return shares


def stratified_part(labels: Labels, size: int, seed: int, where: str) -> Indices:
    """Indices of `size` examples, ascending, in which every class keeps its share.

    Each class keeps one example at least; a `size` beyond the data set takes all of it. The
    choice depends on `labels`, `size` and `seed` alone. Raises DataError where `size` is smaller
    than the number of classes.
    """
    if size >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if size < len(counts):
        raise DataError(
            f"{size} examples cannot show {len(counts)} classes",
            where=where,
            hint=f"take {len(counts)} or more",
        )
    shares = apportion(counts, size, np.ones_like(counts), counts)
    return _draw(inverse, shares, seed)


def stratified_halves(
    labels: Labels, fraction: float, seed: int, names: Sequence[str], where: str
) -> tuple[Indices, Indices]:
    """Indices of the two halves of a data set, ascending; the second gets `fraction` of it.

    Every class has one example at least on either side; `names[label]` is what a message calls
    it. Raises DataError where a class has fewer than two.
    """
    values, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.size and counts.min() < 2:
        raise DataError(
            f"class '{names[values[int(np.argmin(counts))]]}' has a single example, "
            "and a split needs two",
            where=where,
            hint="add examples, or leave the class out",
        )
    total = round(len(labels) * fraction)
    total = min(max(total, len(counts)), len(labels) - len(counts))
    shares = apportion(counts, total, np.ones_like(counts), counts - 1)
    second = _draw(inverse, shares, seed)
    first = np.setdiff1d(np.arange(len(labels), dtype=np.int64), second, assume_unique=True)
    return first, second


def _draw(inverse: npt.NDArray[np.intp], shares: Counts, seed: int) -> Indices:
    """`shares[k]` random members of each class k, ascending."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(inverse))
    by_class = order[np.argsort(inverse[order], kind="stable")]
    ends = np.cumsum(np.bincount(inverse, minlength=len(shares)))
    starts = ends - np.bincount(inverse, minlength=len(shares))
    chosen = [by_class[s : s + n] for s, n in zip(starts, shares, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
