import math

import numpy as np
import pytest
from scipy import stats

from atoll.attacks.arena.paired_tests import bootstrap, compare


def test_the_interval_is_that_of_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=40)
    ours = bootstrap(values.tolist())
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=5000, random_state=1
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)


def test_one_victim_has_a_mean_and_no_interval() -> None:
    alone = bootstrap([3.0])
    assert (alone.mean, alone.count) == (3.0, 1)
    assert math.isnan(alone.low)


def test_paired_differences_see_what_unpaired_ones_do_not() -> None:
    generator = np.random.default_rng(0)
    victims = generator.normal(0, 10, size=30)
    better = victims + 1 + generator.normal(0, 0.1, size=30)
    found = compare(better.tolist(), victims.tolist())
    assert 0.9 < found.difference.low < 1.0 < found.difference.high < 1.1
    assert found.p_value < 1e-6
    assert stats.ranksums(better, victims).pvalue > 0.5


def test_equal_attacks_have_no_p_value() -> None:
    assert math.isnan(compare([1.0, 2.0], [1.0, 2.0]).p_value)
