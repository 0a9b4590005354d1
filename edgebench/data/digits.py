"""The digits that ship with scikit-learn: real data with no download."""

from __future__ import annotations

import numpy as np

from edgebench.data.base import DATASETS, Source, Split


@DATASETS.register("digits")
def digits() -> Source:
    """1,797 scans of handwritten digits, grey, 8x8, halved into 898 to train and 899 to test on.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998, doi:10.24432/C50P49; its test part, as scikit-learn ships it.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)[:, None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, bunch.target, test_size=0.5, random_state=0, stratify=bunch.target
    )
    return Source(
        Split.of_arrays(train_x, train_y, "digits"),
        Split.of_arrays(test_x, test_y, "digits"),
        tuple(str(name) for name in bunch.target_names),
        "scikit-learn load_digits: 1,797 scans, 8x8, halved by class",
    )
