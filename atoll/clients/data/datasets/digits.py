"""Digits of scikit-learn: 1,797 images of 8x8 pixels, without a download.

``digits.npz`` holds the test set of "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak, 1998), which the UCI Machine Learning Repository publishes under CC BY 4.0, as scikit-learn
orders it: pixels from 0 to 16, and labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atoll.clients.data.files.dataset import Decoded, Split

FILE = Path(__file__).with_name("digits.npz")
TEST_EVERY = 5


def decode_digits() -> Decoded:
    """Return the digits; every fifth is a test example."""
    with np.load(FILE) as digits:
        images = np.rint(digits["images"] * (255 / 16)).astype(np.uint8)[..., None]
        labels = digits["labels"].astype(np.int64)
    is_test = np.arange(len(labels)) % TEST_EVERY == 0
    return Decoded(
        tuple("0123456789"),
        Split(images[~is_test], labels[~is_test]),
        Split(images[is_test], labels[is_test]),
    )
