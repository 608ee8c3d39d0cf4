"""Digits of scikit-learn: 1,797 images of 8x8 pixels, without a download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from atoll.clients.data.dataset import Decoded, Split
from atoll.registry import Registry

# Imported when the digits are not in the cache yet: scikit-learn takes a second to import.
LOADERS: Registry[Callable[[], Any]] = Registry(
    "data set of scikit-learn", {"digits": "sklearn.datasets:load_digits"}
)

TEST_EVERY = 5


def decode_digits() -> Decoded:
    """Return the digits; every fifth is a test example."""
    digits = LOADERS["digits"]()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    is_test = np.arange(len(labels)) % TEST_EVERY == 0
    return Decoded(
        tuple("0123456789"),
        Split(images[~is_test], labels[~is_test]),
        Split(images[is_test], labels[is_test]),
    )
