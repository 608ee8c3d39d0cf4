"""Checks of ``[unlearn]`` with the strategy and the clients' data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flwr.serverapp.strategy import FedAvg, Strategy

from atoll import flower
from atoll.attacks.poisoning.poison import Poison
from atoll.errors import InvalidExperimentError
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.asynchronous.asynchronous_strategy import AsynchronousStrategy

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment


def check_unlearning(
    experiment: Experiment,
    strategy: Strategy,
    sizes: Sequence[int],
    poison: Poison | None,
) -> None:
    """Refuse a strategy or clients that cannot unlearn so.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    strategy : Strategy
        Its strategy.
    sizes : Sequence[int]
        Examples of each client.
    poison : Poison or None
        Its poison.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    unlearn = experiment.unlearn
    if unlearn is None:
        return
    empty = [node for node in unlearn.nodes if sizes[node - 1] == 0]
    if empty:
        raise InvalidExperimentError(
            f"unlearn.nodes = {list(unlearn.nodes)}: node {empty[0]} has no examples; expected "
            "clients that have some"
        )
    stays = len(sizes) - len(set(unlearn.nodes))
    for inner in nested_strategies(strategy):
        if not isinstance(inner, FedAvg):
            continue
        least = max(inner.min_available_nodes, inner.min_train_nodes)
        if least > stays:
            raise InvalidExperimentError(
                f"unlearn.nodes = {list(unlearn.nodes)}: {stays} clients stay, and "
                f"{type(inner).__name__} waits for {least}; expected fewer that leave, or a "
                f"smaller strategy.min_available_nodes and min_train_nodes"
            )
    if unlearn.ascent_round is None:
        return
    _check_ascent(experiment, strategy, poison)


def _check_ascent(experiment: Experiment, strategy: Strategy, poison: Poison | None) -> None:
    unlearn = experiment.unlearn
    assert unlearn is not None
    for inner in nested_strategies(strategy):
        kinds = (AlignmentStrategy, AsynchronousStrategy)
        if isinstance(inner, kinds) or flower.overrides_start(inner):
            raise InvalidExperimentError(
                f"strategy.name = {type(inner).__name__!r}: has rounds of its own, and "
                f"unlearn.method = {unlearn.method!r} needs one for clients that leave; expected "
                "another, FedAvg say, or 'retrain' or 'fine-tune'"
            )
    if poison is not None and poison.acts_on != "examples":
        both = sorted(set(poison.nodes) & set(unlearn.nodes))
        if both:
            raise InvalidExperimentError(
                f"unlearn.nodes = {list(unlearn.nodes)}: node {both[0]} is one of poison.nodes, "
                f"and poison.attack = {poison.name!r} changes what it sends; expected an attack "
                "on examples"
            )
