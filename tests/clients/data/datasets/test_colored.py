"""Coloured data sets against their protocol's own words: counts, rates, pixels, seeds."""

from __future__ import annotations

import numpy as np
import pytest

from atoll.clients.data.catalog.loading import check_options, load_dataset
from atoll.clients.data.files.dataset import Dataset, Split
from atoll.errors import InvalidExperimentError


def of(dataset: Dataset, split: Split, domain: str) -> tuple[np.ndarray, np.ndarray]:
    chosen = split.domains == dataset.domains.index(domain)
    return split.images[chosen], split.labels[chosen]


def disagreement(images: np.ndarray, labels: np.ndarray) -> float:
    """How often the colour is not the label's; every image has exactly one colour."""
    lit = images.any(axis=(1, 2))
    assert (lit.sum(axis=1) == 1).all()
    return float((lit[:, 1] != labels).mean())


def within(count: int, rate: float) -> float:
    """Five standard errors of a rate."""
    return 5 * (rate * (1 - rate) / count) ** 0.5


@pytest.mark.parametrize("preset", ["tiny", "paper"])
def test_the_irm_protocol(preset: str) -> None:
    data = load_dataset("colored-mnist", options={"preset": preset}, seed=3)
    size = {"tiny": 5_000, "paper": 25_000}[preset]
    assert data.image_shape == (2, 14, 14)
    assert data.domains == ("e0.2", "e0.1", "e0.9", "grey")
    assert (data.mean, data.std) == ((0.0, 0.0), (1.0, 1.0))
    assert np.bincount(data.train.domains).tolist() == [size, size]
    for domain, rate in (("e0.2", 0.2), ("e0.1", 0.1)):
        images, labels = of(data, data.train, domain)
        assert abs(disagreement(images, labels) - rate) < within(size, rate)
    images, labels = of(data, data.test, "e0.9")
    assert len(labels) == 10_000
    assert abs(disagreement(images, labels) - 0.9) < within(10_000, 0.9)
    grey, grey_labels = of(data, data.test, "grey")
    np.testing.assert_array_equal(grey[..., 0], grey[..., 1])
    np.testing.assert_array_equal(grey[..., 0], images.max(axis=-1))
    np.testing.assert_array_equal(grey_labels, labels)


def test_the_third_domain_is_the_end_of_mnist_at_half_the_size_with_a_quarter_of_labels_wrong() -> (
    None
):
    mnist, data = load_dataset("mnist"), load_dataset("colored-mnist", seed=3)
    images, labels = of(data, data.test, "e0.9")
    np.testing.assert_array_equal(images.max(axis=-1), mnist.train.images[50_000:, ::2, ::2, 0])
    wrong = labels != (mnist.train.labels[50_000:] < 5)
    assert abs(wrong.mean() - 0.25) < within(10_000, 0.25)
    # Label noise is drawn, not a fixed pattern of digits.
    by_digit = [wrong[mnist.train.labels[50_000:] == digit].mean() for digit in range(10)]
    assert max(by_digit) - min(by_digit) < 0.1


def test_training_domains_share_no_image_and_use_none_of_the_third(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    digits, data = load_dataset("digits"), load_dataset("colored-digits", seed=1)
    source = {image.tobytes(): i for i, image in enumerate(digits.train.images[..., 0])}
    assert len(source) == len(digits.train)
    seen = [
        {source[np.ascontiguousarray(image).tobytes()] for image in of(data, s, d)[0].max(axis=-1)}
        for s, d in ((data.train, "e0.2"), (data.train, "e0.1"), (data.test, "e0.9"))
    ]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert min(seen[2]) == len(digits.train) * 5 // 6


@pytest.mark.slow
def test_domainbeds_protocol_has_three_equal_domains_of_all_images() -> None:
    data = load_dataset("colored-mnist", options={"protocol": "domainbed"}, seed=0)
    assert data.image_shape == (2, 28, 28)
    assert data.domains == ("e0.1", "e0.2", "e0.9", "grey")
    train = np.bincount(data.train.domains, minlength=4)
    test = np.bincount(data.test.domains, minlength=4)
    assert (train + test)[:3].sum() == 70_000
    assert train[3] == 0
    assert abs(test[0] / (train[0] + test[0]) - 0.2) < 1e-3
    for domain, rate in (("e0.1", 0.1), ("e0.2", 0.2), ("e0.9", 0.9)):
        images, labels = of(data, data.train, domain)
        assert abs(disagreement(images, labels) - rate) < within(len(labels), rate)


def test_label_shift_true_and_as_released() -> None:
    mnist = load_dataset("mnist")
    low = int((mnist.train.labels[:50_000] < 5).sum())
    no_noise = {"label_noise": 0.0}
    true = load_dataset("colored-mnist", options={"label_shift": "share", **no_noise})
    size = 50_000 - low
    for domain, share in (("e0.2", 0.97), ("e0.1", 0.03)):
        labels = of(true, true.train, domain)[1]
        assert len(labels) == size
        assert labels.mean() == pytest.approx(share, abs=1 / size)
    # The counts of the released scripts on the full data: 25,538 + 1,500 and 0 + 22,962.
    released = load_dataset("colored-mnist", options={"label_shift": "as-released", **no_noise})
    counts = [np.bincount(of(released, released.train, d)[1]).tolist() for d in ("e0.2", "e0.1")]
    assert counts == [[1_500, 25_538], [22_962]]


def test_the_seed_and_the_options_alone_decide(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "a"))
    one, other = load_dataset("colored-digits", seed=1), load_dataset("colored-digits", seed=2)
    pinned = load_dataset("colored-digits", options={"seed": 1}, seed=2)
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "b"))
    again = load_dataset("colored-digits", seed=1)
    assert one.fingerprint == again.fingerprint == pinned.fingerprint != other.fingerprint
    assert pinned.directory == one.directory
    assert not one.train.images.flags.owndata


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("colored-mnist", {"preset": "big"}, "data.options.preset = 'big': expected 'tiny', 's"),
        ("colored-mnist", {"presett": "tiny"}, "has no such option; did you mean 'preset'"),
        ("colored-mnist", {"label_noise": 0.7}, "data.options.label_noise = 0.7: expected less"),
        ("mnist", {"preset": "tiny"}, "data.dataset = 'mnist' has no such option; it takes none"),
        (
            "colored-mnist",
            {"protocol": "domainbed", "label_shift": "share"},
            "expected label_shift only with protocol = 'irm'",
        ),
        ("rotated-mnist", {"angles": [10]}, "data.options.angles"),
        ("rotated-mnist", {"angles": [0, 360]}, "expected angles that differ from each other"),
        ("folder", {"image_size": 0}, "data.options.image_size = 0: expected greater than 0"),
    ],
)
def test_wrong_options_are_one_line(dataset: str, options: dict, message: str) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        check_options(dataset, options)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
