"""Robust strategies of Flower's that need more clients than a round has, or cut none off."""

from __future__ import annotations

from flwr.serverapp.strategy import Bulyan, FedAvg, FedTrimmedAvg, MultiKrum, Strategy

from atoll.errors import InvalidExperimentError
from atoll.platform.config.strategy_wrappers import nested_strategies


def check_robust(strategy: Strategy, clients: int) -> None:
    """Refuse a robust strategy whose promise needs more clients than a round has.

    Krum and Multi-Krum need n >= 2 f + 3 of a round's n clients for f attackers (Blanchard et al.,
    2017), Bulyan n >= 4 f + 3 (El Mhamdi et al., 2018); Flower's Bulyan skips rounds with fewer. A
    trimmed mean that cuts no client off at either end is the mean.

    Parameters
    ----------
    strategy : Strategy
        Any.
    clients : int
        How many there are.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    for inner in nested_strategies(strategy):
        if not isinstance(inner, FedAvg):
            continue
        cohort = min(clients, max(int(inner.fraction_train * clients), inner.min_train_nodes))
        name = type(inner).__name__
        if isinstance(inner, FedTrimmedAvg) and inner.beta > 0.0 and int(inner.beta * cohort) == 0:
            raise InvalidExperimentError(
                f"strategy.beta = {inner.beta!r}: of a round's {cohort} clients it cuts none off; "
                f"expected at least {1 / cohort:.3g}"
            )
        if not isinstance(inner, MultiKrum | Bulyan) or inner.num_malicious_nodes == 0:
            continue
        times, attackers = (4 if isinstance(inner, Bulyan) else 2), inner.num_malicious_nodes
        if cohort < times * attackers + 3:
            most = max(0, (cohort - 3) // times)
            raise InvalidExperimentError(
                f"strategy.num_malicious_nodes = {attackers}: {name} needs {times} times as many "
                f"clients and 3 more, and a round has {cohort}; expected at most {most}"
            )
        chosen = getattr(inner, "num_nodes_to_select", 1)
        if chosen > cohort - attackers:
            raise InvalidExperimentError(
                f"strategy.num_nodes_to_select = {chosen}: of a round's {cohort} clients "
                f"{attackers} may be the attacker's; expected at most {cohort - attackers}"
            )
