"""Random search: what is drawn, from what, and that it stays when the search grows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.errors import InvalidExperimentError
from atoll.platform.sweeps.random_search import distribution_of, draw_samples

RATE = {"distribution": "log-uniform", "low": 1e-4, "high": 1.0}
EPOCHS = {"distribution": "integer", "low": 1, "high": 3}
SIZES = {"distribution": "log-integer", "low": 8, "high": 64}


def drawn(value: Any, count: int = 2000, seed: int = 0) -> list[Any]:
    samples = draw_samples({"client.x": distribution_of(value, "k")}, count, seed)
    return [sample["client.x"] for sample in samples]


def test_a_logarithmic_scale_gives_each_order_of_magnitude_the_same() -> None:
    counts = np.histogram(np.log10(drawn(RATE)), bins=[-4, -3, -2, -1, 0])[0]
    # Four binomials of 2000 and 1/4: five standard deviations are 97.
    assert np.all(np.abs(counts - 500) < 97)
    assert {len(f"{value:e}".split("e")[0].rstrip("0")) <= 5 for value in drawn(RATE)} == {True}


def test_integers_include_both_limits_and_are_equally_likely() -> None:
    values, counts = np.unique(drawn(EPOCHS), return_counts=True)
    assert values.tolist() == [1, 2, 3]
    assert np.all(np.abs(counts - 2000 / 3) < 106)
    assert all(type(value) is int for value in drawn(EPOCHS, 10))
    sizes = drawn(SIZES)
    assert (min(sizes), max(sizes)) == (8, 64)
    middle = math.sqrt(7.5 * 64.5)
    assert abs(sum(size < middle for size in sizes) - 1000) < 160


def test_a_list_is_a_choice() -> None:
    assert set(drawn([1, 2], 50)) == {1, 2}


def test_a_search_that_grows_keeps_what_it_had() -> None:
    few = draw_samples({"client.a": distribution_of(RATE, "k")}, 5, 7)
    both = {"client.b": distribution_of(EPOCHS, "k"), "client.a": distribution_of(RATE, "k")}
    many = draw_samples(both, 9, 7)
    assert [sample["client.a"] for sample in many[:5]] == [sample["client.a"] for sample in few]
    assert draw_samples(both, 9, 7) == many
    assert draw_samples(both, 9, 8) != many
    assert draw_samples({}, 9, 7) == [{}]


NUMBERS = st.integers(-(10**9), 10**9) | st.floats(-1e15, 1e15, allow_nan=False)


@given(st.sampled_from(["uniform", "log-uniform", "integer", "log-integer"]), NUMBERS, NUMBERS)
@settings(max_examples=200)
def test_whatever_is_accepted_stays_within_its_limits(kind: str, low: Any, high: Any) -> None:
    try:
        distribution = distribution_of({"distribution": kind, "low": low, "high": high}, "k")
    except InvalidExperimentError as error:
        assert str(error).startswith("k")
        return
    for seed in range(5):
        assert low <= distribution.draw(np.random.default_rng(seed)) <= high


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "k = 3: expected a list of values to choose from, or { distribution ="),
        ([], "k = []: expected a list of values"),
        ({**RATE, "low": 0.0}, "expected low to be greater than 0 on a logarithmic scale"),
        ({**RATE, "low": 2.0}, "expected low to be less than high"),
        ({**EPOCHS, "low": 0.5}, "expected low and high to be integers"),
        ({**EPOCHS, "high": 10**400}, "expected less than or equal to 1000000000000000"),
        ({"distribution": "log-unifrm", "low": 1, "high": 2}, "did you mean 'log-uniform'?"),
        ({"distribution": "uniform", "low": 1}, "k: high is not set"),
        ({"distribution": "uniform", "low": math.nan, "high": 2}, "k: low = nan: expected "),
    ],
)
def test_what_cannot_be_drawn_from_is_a_clear_line(value: Any, message: str) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        distribution_of(value, "k")
    assert message in str(caught.value)
