from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgebench.data.splitting import apportion, stratified_halves, stratified_part
from edgebench.errors import DataError

label_lists = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(
    lambda labels: np.array(labels, dtype=np.int64)
)
NAMES = [f"c{k}" for k in range(7)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.data())
def test_apportioned_shares_add_up_within_their_bounds(counts: list[int], data) -> None:
    array = np.array(counts, dtype=np.int64)
    total = data.draw(st.integers(len(counts), sum(counts)))
    shares = apportion(array, total, np.ones_like(array), array)
    assert shares.sum() == total
    assert ((shares >= 1) & (shares <= array)).all()
    # Largest remainders: where no bound is met, no share is a whole example off.
    free = (shares > 1) & (shares < array)
    if free.all():
        assert (np.abs(shares - total * array / array.sum()) < 1).all()


@given(label_lists, st.integers(1, 90), st.integers(0, 5))
def test_a_part_has_its_size_and_every_class(labels, size: int, seed: int) -> None:
    classes = np.unique(labels)
    assume(size >= len(classes))
    chosen = stratified_part(labels, size, seed, "here")
    assert len(chosen) == min(size, len(labels))
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(np.unique(labels[chosen]), classes)
    assert np.array_equal(chosen, stratified_part(labels, size, seed, "here"))


@given(
    st.lists(st.integers(2, 15), min_size=1, max_size=7),
    st.sampled_from([0.2, 0.5, 0.9]),
    st.randoms(use_true_random=False),
)
def test_halves_share_nothing_lose_nothing_and_both_have_every_class(counts, fraction, random):
    labels = np.repeat(np.arange(len(counts)), counts)
    random.shuffle(labels)
    classes, seed = np.unique(labels), random.randint(0, 5)
    first, second = stratified_halves(labels, fraction, seed, NAMES, "here")
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert np.array_equal(np.unique(labels[first]), classes)
    assert np.array_equal(np.unique(labels[second]), classes)
    wanted = round(len(labels) * fraction)
    assert len(second) == min(max(wanted, len(classes)), len(labels) - len(classes))


def test_shares_are_exact_where_they_can_be() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    chosen = stratified_part(labels, 16, 0, "here")
    assert np.bincount(labels[chosen]).tolist() == [10, 5, 1]
    _, second = stratified_halves(labels, 0.2, 0, NAMES, "here")
    assert np.bincount(labels[second]).tolist() == [20, 10, 2]


def test_another_seed_chooses_others() -> None:
    labels = np.repeat([0, 1], 100)
    a, b = (stratified_part(labels, 20, seed, "here") for seed in (0, 1))
    assert not np.array_equal(a, b)


def test_too_few_for_the_classes_is_an_error() -> None:
    with pytest.raises(DataError, match="here: 2 examples cannot show 3 classes; take 3 or more"):
        stratified_part(np.array([0, 1, 2, 2]), 2, 0, "here")
    with pytest.raises(DataError, match="here: class 'c1' has a single example"):
        stratified_halves(np.array([0, 0, 1, 2, 2]), 0.2, 0, NAMES, "here")
