"""The digits that come with Atoll are scikit-learn's."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from atoll.clients.data.datasets.digits import decode_digits


def test_they_are_scikit_learns_in_its_order() -> None:
    expected, found = load_digits(), decode_digits()
    is_test = np.arange(len(expected.target)) % 5 == 0
    for part, chosen in ((found.train, ~is_test), (found.test, is_test)):
        assert np.array_equal(part.labels, expected.target[chosen])
        # 16 grey levels, spread over 0 .. 255.
        levels = np.rint(expected.images[chosen] * 255 / 16)
        assert np.array_equal(part.images[..., 0], levels)
