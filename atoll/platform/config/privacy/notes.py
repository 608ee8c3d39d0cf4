"""Warnings about void privacy guarantees, before a run starts.

A guarantee of (epsilon, delta) lets an attacker's odds of telling two data sets apart change by a
factor e^epsilon, and does not hold at all with probability delta. So an epsilon of 50 promises
nothing; and a mechanism that publishes one of n records as it is, and hides the others, has delta =
1 / n (Dwork and Roth, 2014, section 2.3).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from atoll.attacks.defenses.base.privacy_accounting import gaussian_epsilon
from atoll.attacks.defenses.dp_sgd import DPSGD
from atoll.attacks.defenses.local_dp import LocalDP
from atoll.clients.mods import find_mods
from atoll.clients.settings import ClientSettings
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.strategies.privacy.central_dp import CentralDP

logger = logging.getLogger("atoll")

# e^20: an attacker's odds change by a factor of 5e8.
LARGE_EPSILON = 20.0


def warn_of_privacy(
    client: ClientSettings, strategy: Strategy, sizes: NDArray[np.int64], rounds: int
) -> None:
    """Say which of a run's guarantees are none.

    Parameters
    ----------
    client : ClientSettings
        ``[client]``, its mods as they are found by clients.
    strategy : Strategy
        The run's.
    sizes : NDArray[np.int64]
        The clients' examples.
    rounds : int
        The run's.
    """
    for line in privacy_notes(client, strategy, sizes, rounds):
        logger.warning("%s", line)


def privacy_notes(
    client: ClientSettings, strategy: Strategy, sizes: NDArray[np.int64], rounds: int
) -> list[str]:
    """Return a line for each guarantee that is none; the parameters are :func:`warn_of_privacy`'s.

    A client is taken to be in every round.
    """
    lines = list(_of_strategies(strategy))
    for spent in guarantees(client, sizes, rounds):
        lines += _of_delta(spent.name, spent.delta, spent.records, spent.protects)
        if spent.epsilon > LARGE_EPSILON:
            lines.append(_large(spent.name, spent.epsilon, spent.uses))
    return lines


@dataclass(frozen=True)
class Guarantee:
    """What a mod's differential privacy has spent at a run's end.

    Attributes
    ----------
    name : str
        The mod's.
    epsilon, delta : float
        Of a client that is in every round.
    uses : str
        What spends it.
    records : int
        How many records there are, of which one is protected; ``protects`` says what they are.
    protects : str
        "clients", or "examples of a client".
    """

    name: str
    epsilon: float
    delta: float
    uses: str
    records: int
    protects: str


def guarantees(
    client: ClientSettings, sizes: NDArray[np.int64], rounds: int
) -> Iterator[Guarantee]:
    """Yield what each mod of differential privacy spends; parameters as :func:`warn_of_privacy`."""
    held = [int(size) for size in sizes if size]
    for mod in find_mods(client.mods) if client.mods else []:
        if isinstance(mod, DPSGD) and held:
            yield _of_dp_sgd(mod, client, held, rounds)
        elif isinstance(mod, LocalDP):
            epsilon = gaussian_epsilon(mod.std / (2 * mod.clipping_norm), rounds, mod.delta)
            uses = f"{rounds} rounds"
            yield Guarantee("local-dp", epsilon, mod.delta, uses, len(held), "clients")
        elif isinstance(mod, LocalDpMod):
            uses = f"{rounds} rounds of {mod.epsilon:g}"
            spent = mod.epsilon * rounds
            yield Guarantee("LocalDpMod", spent, mod.delta, uses, len(held), "clients")


def _of_dp_sgd(mod: DPSGD, client: ClientSettings, held: Sequence[int], rounds: int) -> Guarantee:
    smallest = min(held)
    passes = client.epochs or 1
    if client.steps is not None:
        passes = math.ceil(client.steps * min(client.batch_size, smallest) / smallest)
    uses = f"{rounds} rounds of {passes} pass{'es' if passes > 1 else ''} over the examples"
    epsilon = gaussian_epsilon(mod.noise_multiplier, rounds * passes, mod.delta)
    return Guarantee("dp-sgd", epsilon, mod.delta, uses, max(held), "examples of a client")


def _of_delta(name: str, delta: float, records: int, what: str) -> Iterator[str]:
    if records and delta >= 1 / records:
        yield (
            f"client.mods has {name!r} with delta = {delta:g}: with {records} {what}, to publish "
            f"one of them as it is has delta = 1/{records}; the guarantee means something well "
            f"below that ({1 / records**2:.0e}, say)"
        )


def _large(name: str, epsilon: float, what: str) -> str:
    return (
        f"client.mods has {name!r}: {what} spend epsilon = {epsilon:.3g}, by which an attacker's "
        f"odds may change by a factor of e^{epsilon:.3g}: no guarantee worth the name (more noise, "
        "or fewer rounds)"
    )


def _of_strategies(strategy: Strategy) -> Iterator[str]:
    """Yield a line for each of Flower's strategies of central privacy that adds no noise."""
    for inner in nested_strategies(strategy):
        if isinstance(inner, CentralDP) and inner.delta >= 1 / inner.clients:
            yield (
                f"privacy.delta = {inner.delta:g}: with {inner.clients} clients, to publish one of "
                f"them as it is has delta = 1/{inner.clients}; the guarantee means something well "
                "below that"
            )
        if getattr(inner, "noise_multiplier", None) == 0:
            yield (
                f"strategy.noise_multiplier = 0: {type(inner).__name__} then clips and adds no "
                "noise; nothing is guaranteed"
            )
