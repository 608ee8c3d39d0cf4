"""What mechanisms spend, against integrals, closed forms and Google's dp-accounting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from atoll.attacks.defenses.base.privacy_accounting import gaussian_epsilon
from atoll.privacy.accounting import Mechanism, noise_for
from atoll.privacy.gaussian import exact_gaussian_epsilon, gaussian_delta
from atoll.privacy.opacus_accountant import composed_epsilon

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mu", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 4.0])
def test_delta_is_the_integral_of_what_one_density_has_above_the_other(
    mu: float, epsilon: float
) -> None:
    x = np.linspace(-40, 40, 2_000_001)
    p = np.exp(-((x - mu) ** 2) / 2) / math.sqrt(2 * math.pi)
    q = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    integral = float(np.maximum(p - math.exp(epsilon) * q, 0).sum() * (x[1] - x[0]))
    assert gaussian_delta(mu, epsilon) == pytest.approx(integral, rel=1e-6, abs=1e-12)


def test_epsilon_inverts_delta() -> None:
    for mu in (0.01, 0.3, 2.0, 20.0, 60.0, 1e3, 1e5):
        epsilon = exact_gaussian_epsilon(mu, 1e-6)
        assert epsilon == 0.0 or gaussian_delta(mu, epsilon) == pytest.approx(1e-6, rel=1e-3)
    assert exact_gaussian_epsilon(0.0, 1e-6) == 0.0


@pytest.mark.parametrize(("noise", "uses"), [(1.0, 1), (0.5, 3), (4.0, 100), (20.0, 50)])
def test_uses_of_a_clients_data_spend_the_exact_epsilon_and_not_renyis_bound(
    noise: float, uses: int
) -> None:
    exact = gaussian_epsilon(noise, uses, 1e-5)
    # The least epsilon at which the densities of the sum of all uses differ by no more than delta.
    mu = math.sqrt(uses) / noise
    x = np.linspace(-60, 60, 2_000_001)
    p = np.exp(-((x - mu) ** 2) / 2) / math.sqrt(2 * math.pi)
    q = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    for epsilon, side in ((0.999 * exact, 1), (1.001 * exact, -1)):
        delta = float(np.maximum(p - math.exp(epsilon) * q, 0).sum() * (x[1] - x[0]))
        assert side * (delta - 1e-5) > 0
    bound = composed_epsilon("rdp", noise, 1.0, uses, 1e-5)
    assert 1.02 * exact < bound < 1.4 * exact


# Printed by dp-accounting 0.6.0 (RdpAccountant, and PLDAccountant in the last column) for cohorts
# of m of N clients in T rounds at delta = 1e-5: without replacement, neighbours exchanging one
# client, noise z / 2 by the sensitivity; then Poisson sampling, a client more or less.
REFERENCE = [
    (1.0, 100, 20, 25, 52.137326828685346, 8.249713543013014, 7.299580432367683),
    (2.0, 1000, 50, 100, 6.466584880743369, 1.2221959852171929, 1.0972318656978064),
    (4.0, 100, 20, 25, 5.287453754542332, 1.1219024514069713, 1.013705544491501),
    (8.0, 100, 20, 25, 2.2578205280058095, 0.5002055243411827, 0.452140613876592),
]


@pytest.mark.parametrize(("z", "clients", "cohort", "rounds", "fixed", "rdp", "pld"), REFERENCE)
def test_sampled_mechanisms_spend_what_dp_accounting_says(
    z: float, clients: int, cohort: int, rounds: int, fixed: float, rdp: float, pld: float
) -> None:
    rate = cohort / clients
    exchanged = exact_gaussian_epsilon(2 * math.sqrt(rounds) / z, 1e-5)
    assert Mechanism(z, "fixed", rate).epsilon(rounds, 1e-5) == pytest.approx(
        min(fixed, exchanged), rel=1e-9
    )
    # It has more orders, so it finds a little less.
    assert rdp * (1 - 1e-9) <= Mechanism(z, "poisson", rate).epsilon(rounds, 1e-5) <= 1.02 * rdp
    by_losses = Mechanism(z, "poisson", rate, accountant="pld").epsilon(rounds, 1e-5)
    # The numerical composition is an upper bound, within its tolerance of 0.01.
    assert pld <= by_losses <= pld + 0.02


def test_epochs_count_how_often_a_client_comes() -> None:
    fresh = Mechanism(2.0, "epochs", 0.2, rounds_per_epoch=5)
    assert fresh.epsilon(5, 1e-5) == fresh.epsilon(1, 1e-5) == exact_gaussian_epsilon(0.5, 1e-5)
    assert fresh.epsilon(6, 1e-5) == exact_gaussian_epsilon(math.sqrt(2) / 2, 1e-5)
    tree = Mechanism(2.0, "epochs", 0.2, rounds_per_epoch=5, tree=True)
    # A tree of five leaves has three levels.
    assert tree.epsilon(10, 1e-5) == exact_gaussian_epsilon(math.sqrt(2 * 3) / 2, 1e-5)


@pytest.mark.parametrize(
    "mechanism",
    [
        Mechanism(1.0, "fixed", 0.1),
        Mechanism(1.0, "poisson", 0.1),
        Mechanism(1.0, "poisson", 1.0),
        Mechanism(1.0, "epochs", 0.1, rounds_per_epoch=10, tree=True),
    ],
)
@pytest.mark.parametrize("epsilon", [0.5, 8.0])
@pytest.mark.slow
def test_the_noise_is_the_least_that_keeps_the_budget(mechanism: Mechanism, epsilon: float) -> None:
    noise = noise_for(mechanism, 20, epsilon, 1e-5)

    def spent(multiplier: float) -> float:
        changed = Mechanism(
            multiplier,
            mechanism.sampling,
            mechanism.rate,
            mechanism.rounds_per_epoch,
            mechanism.tree,
        )
        return changed.epsilon(20, 1e-5)

    assert spent(noise) <= epsilon < spent(noise * (1 - 2e-3))


def test_no_noise_is_enough_for_an_impossible_budget() -> None:
    with pytest.raises(ValueError, match="no noise multiplier up to"):
        noise_for(Mechanism(1.0, "poisson", 1.0), 10_000_000, 1e-9, 1e-12)
