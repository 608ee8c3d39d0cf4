"""Checks of what clients keep to themselves: ``client.local`` and ``[client.personal]``."""

from __future__ import annotations

import logging

from flwr.serverapp.strategy import Strategy
from torch import nn

from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.personal.local_names import local_names
from atoll.clients.personal.method import PersonalMethod
from atoll.clients.personal.methods import check_method
from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.heterogeneity.term_strategy import TermStrategy
from atoll.strategies.layerwise.layerwise_strategy import Layerwise

logger = logging.getLogger("atoll")
LOCAL, PERSONAL = "client.local", "client.personal"
# Strategies that need a client's whole model, and for what.
WHOLE_MODELS: dict[type[Strategy], str] = {
    AlignmentStrategy: "measures moments of clients' data with the whole model",
    Layerwise: "gives each client layers of the model to train",
    TermStrategy: "asks for a term of the whole model in plain local training",
}


def check_personal(experiment: Experiment) -> PersonalMethod | None:
    """Refuse, without data or a model, what clients cannot keep to themselves.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    client = experiment.client
    method = check_method(client)
    given = _given(experiment)
    if given is None:
        if client.personal_every is not None:
            raise InvalidExperimentError(
                f"client.personal_every = {client.personal_every}: clients have no models of their "
                f"own; expected {LOCAL} or [{PERSONAL}]"
            )
        return None
    if is_noprop(experiment.model):
        raise InvalidExperimentError(
            f"{given}: clients of model.name = {experiment.model.name!r} train layers of it; "
            "expected another model"
        )
    if experiment.capture is not None and method is not None and method.own_steps:
        raise InvalidExperimentError(
            f"capture: {given} takes steps of its own, and a capture records those of plain "
            "training; expected one of both"
        )
    return method


def check_personal_on(experiment: Experiment, strategy: Strategy, model: nn.Module) -> None:
    """Refuse local parameters that a model does not have, or a strategy cannot do without.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    given, client = _given(experiment), experiment.client
    if given is None:
        return
    local_names(model, client.local or ())
    method = check_method(client)
    changes = bool(client.local) or (method is not None and method.changes_training)
    own_steps = bool(client.local) or (method is not None and method.own_steps)
    for nested in nested_strategies(strategy):
        for kind, why in WHOLE_MODELS.items():
            if isinstance(nested, kind) and (own_steps if kind is TermStrategy else changes):
                raise InvalidExperimentError(
                    f"{given}: strategy.name = {type(nested).__name__!r} {why}; expected one "
                    "without the other"
                )


def obstacle_to_batching(experiment: Experiment) -> str | None:
    """Return the key for which clients train one at a time, and why; None if they need not."""
    client = experiment.client
    if client.local:
        return f"{LOCAL} = {list(client.local)!r}: its parameters are each client's own"
    method = check_method(client)
    if method is not None and method.changes_training and client.personal is not None:
        return f"{PERSONAL}.name = {client.personal.name!r}: it trains one client at a time"
    return None


def warn_of_evaluation(experiment: Experiment, strategy: Strategy) -> None:
    """Warn where clients' own models are evaluated nowhere, or on what they have trained on."""
    given = _given(experiment)
    if given is None:
        return
    if getattr(strategy, "fraction_evaluate", 1.0) == 0.0:
        logger.warning("%s: strategy.fraction_evaluate = 0, so no client's model is judged", given)
    elif experiment.data.client_test_fraction == 0.0:
        logger.warning(
            "%s: data.client_test_fraction = 0, so clients' own models are judged on the examples "
            "that they are trained on",
            given,
        )


def _given(experiment: Experiment) -> str | None:
    """Return the key by which clients have something of their own, with its value."""
    client = experiment.client
    if client.personal is not None:
        return f"{PERSONAL}.name = {client.personal.name!r}"
    if client.local:
        shown = list(client.local) if len(client.local) > 1 else client.local[0]
        return f"{LOCAL} = {shown!r}"
    return None
