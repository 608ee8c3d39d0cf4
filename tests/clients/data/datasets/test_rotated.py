from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from atoll.clients.data.catalog.loading import load_dataset


def test_every_image_is_in_one_domain_turned_by_its_angle(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    angles = (0, 90, 180)
    digits = load_dataset("digits")
    data = load_dataset("rotated-digits", options={"angles": list(angles)}, seed=2)
    assert data.domains == ("0", "90", "180")
    base = np.concatenate([digits.train.images, digits.test.images])[..., 0]
    upright = []
    for split in (data.train, data.test):
        for image, domain in zip(split.images[..., 0], split.domains, strict=True):
            # A turn by a right angle loses nothing.
            upright.append(np.rot90(image, -angles[domain] // 90).tobytes())
    assert sorted(upright) == sorted(image.tobytes() for image in base)
    sizes = np.bincount(data.train.domains) + np.bincount(data.test.domains)
    assert sizes.max() - sizes.min() <= 1
    assert len(data.test) / len(base) == pytest.approx(0.2, abs=0.01)


def test_rotated_mnist_has_six_angles_and_presets_are_prefixes() -> None:
    tiny = load_dataset("rotated-mnist", options={"preset": "tiny"}, seed=0)
    small = load_dataset("rotated-mnist", options={"preset": "small"}, seed=0)
    assert tiny.domains == ("0", "15", "30", "45", "60", "75")
    assert np.bincount(tiny.train.domains).tolist() == [1_000] * 6
    assert np.bincount(tiny.test.domains).tolist() == [250] * 6
    assert np.bincount(small.train.domains).tolist() == [3_000] * 6
    assert (tiny.mean, tiny.std) == ((0.0,), (1.0,))


def test_turns_are_counter_clockwise_about_the_middle() -> None:
    tiny = load_dataset("rotated-mnist", options={"preset": "tiny"}, seed=0)
    mnist = load_dataset("mnist")
    images = np.concatenate([mnist.train.images, mnist.test.images])[..., 0]
    upright = tiny.train.images[tiny.train.domains == 0][0, ..., 0]
    assert (images == upright).all(axis=(1, 2)).any()
    # Turned back, an image of the last domain is close to one of MNIST's.
    turned = tiny.train.images[tiny.train.domains == 5][0, ..., 0]
    back = np.asarray(Image.fromarray(turned).rotate(-75, Image.Resampling.BILINEAR), float)
    distances = np.abs(images.astype(np.int16) - back.astype(np.int16)).mean(axis=(1, 2))
    label = np.concatenate([mnist.train.labels, mnist.test.labels])[distances.argmin()]
    assert label == tiny.train.labels[tiny.train.domains == 5][0]
    assert distances.min() < 12
