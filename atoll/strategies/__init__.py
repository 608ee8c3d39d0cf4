"""Strategies by name: Flower's, ours, and the user's own by ``module:Class``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from flwr.serverapp import strategy as flower_strategies
from flwr.serverapp.strategy import Strategy

from atoll.errors import InvalidExperimentError
from atoll.registry import Registry, closest
from atoll.strategies.alignment import ALIGNMENT_STRATEGIES
from atoll.strategies.asynchronous import ASYNCHRONOUS_STRATEGIES
from atoll.strategies.layerwise import LAYERWISE_STRATEGIES
from atoll.strategies.sec_agg_plus import SecAggPlus
from atoll.strategies.strategy_arguments import check_arguments

FLOWER_STRATEGIES: dict[str, type[Strategy]] = {
    name: kind
    for name, kind in vars(flower_strategies).items()
    if inspect.isclass(kind) and issubclass(kind, Strategy) and not inspect.isabstract(kind)
}
STRATEGIES: Registry[type[Strategy]] = Registry(
    "strategy",
    {
        **FLOWER_STRATEGIES,
        **ALIGNMENT_STRATEGIES,
        **ASYNCHRONOUS_STRATEGIES,
        **LAYERWISE_STRATEGIES,
        "SecAggPlus": SecAggPlus,
    },
)


def build_strategy(name: str, arguments: Mapping[str, Any], key: str = "strategy") -> Strategy:
    """Build a strategy.

    Parameters
    ----------
    name : str
        A name in :data:`STRATEGIES`, or ``module:Class``.
    arguments : Mapping
        Its keyword arguments. A strategy that wraps another (differential privacy) takes it as a
        table of its own: ``strategy = {name = "FedAvg", ...}``.
    key : str
        The experiment key of the section, for errors.

    Raises
    ------
    InvalidExperimentError
        If it does not take an argument, needs one that is not there, or refuses a value.
    """
    kind = STRATEGIES.find(name, f"{key}.name")
    accepted = _accepted(kind)
    for argument, value in arguments.items():
        if accepted is not None and argument not in accepted:
            raise InvalidExperimentError(
                f"{key}.{argument} = {value!r}: {name} has no such argument; "
                f"{closest(argument, list(accepted))}"
            )
    if ":" not in name and not dataclasses.is_dataclass(kind):
        check_arguments(arguments, key)
    # Our clients name their loss so; QFedAvg would look for another name.
    is_told_of_losses = accepted is not None and "train_loss_key" in accepted
    values = {**({"train_loss_key": "loss"} if is_told_of_losses else {}), **arguments}
    wrapped = values.get("strategy")
    if isinstance(wrapped, Mapping):
        inner = {k: v for k, v in wrapped.items() if k != "name"}
        values["strategy"] = build_strategy(
            str(wrapped.get("name", "FedAvg")), inner, f"{key}.strategy"
        )
    try:
        strategy = kind(**values)
    except InvalidExperimentError:
        raise
    except Exception as error:
        raise InvalidExperimentError(f"{key}.name = {name!r}: {error}") from error
    if not isinstance(strategy, Strategy):
        raise InvalidExperimentError(
            f"{key}.name = {name!r}: makes a {type(strategy).__name__}, expected a Flower Strategy"
        )
    return strategy


def _accepted(kind: Any) -> set[str] | None:
    """Return the names of the keyword arguments, or None where anything is taken."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}
