import math

import pytest
from flwr.app import Context, RecordDict
from scipy.optimize import brentq
from scipy.stats import norm

from atoll.attacks.defenses.base.privacy_accounting import count_uses, gaussian_epsilon


def exact_epsilon(noise_multiplier: float, uses: int, delta: float) -> float:
    """Balle and Wang (2018): the exact epsilon of a Gaussian mechanism; uses add up as one."""
    mu = math.sqrt(uses) / noise_multiplier

    def excess(epsilon: float) -> float:
        tail = norm.logcdf(-epsilon / mu - mu / 2)
        return float(norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon + tail)) - delta

    return float(brentq(excess, 0.0, 1000.0))


@pytest.mark.parametrize(
    ("noise_multiplier", "uses", "delta"),
    [(1.0, 1, 1e-5), (0.5, 3, 1e-5), (4.0, 100, 1e-6), (10.0, 25, 1e-3)],
)
def test_epsilon_is_the_exact_one(noise_multiplier: float, uses: int, delta: float) -> None:
    exact = exact_epsilon(noise_multiplier, uses, delta)
    ours = gaussian_epsilon(noise_multiplier, uses, delta)
    assert ours == pytest.approx(exact, rel=1e-9)


def test_nothing_is_spent_before_the_first_use() -> None:
    assert gaussian_epsilon(1.0, 0, 1e-5) == 0.0


def test_a_client_remembers_its_uses() -> None:
    context = Context(1, 1, {}, RecordDict(), {})
    assert [count_uses(context, "a", 2), count_uses(context, "a", 3)] == [2, 5]
    assert count_uses(context, "b", 1) == 1
