"""Checks of clients' objectives before a run: terms, and strategies that ask clients for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from atoll.clients.mods import KEY as MODS_KEY
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.settings import ClientSettings
from atoll.clients.training.objective import named_terms
from atoll.clients.training.objective.named_terms import (
    KEY,
    find_terms,
    obstacle_to_vectorizing,
)
from atoll.clients.training.terms.class_checks import check_classes
from atoll.errors import InvalidExperimentError
from atoll.platform.config.client_mods import named_mods
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.platform.runs.components import Components
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.heterogeneity.data_diet import DataDiet
from atoll.strategies.heterogeneity.term_strategy import TermStrategy

SELECTION = "client.selection.score"
ONE = "expected one without the other"


def check_objective(experiment: Experiment) -> None:
    """Refuse terms of an objective that are not known, or that another key excludes.

    Raises
    ------
    InvalidExperimentError
        With the term, the other key, and what was expected.
    """
    client, model = experiment.client, experiment.model
    terms = find_terms(client.objective)
    for key in ("masks", "compander"):
        if getattr(model, key) is not None and experiment.capture is not None:
            raise InvalidExperimentError(
                f"model.{key} is set: attacks on [capture] know gradients of weights alone; {ONE}"
            )
    for term in terms:
        if term.term.needs_masks and model.masks is None:
            raise InvalidExperimentError(
                f"{KEY} has {term.name!r}: the model has no masks; expected a table [model.masks]"
            )
    if client.selection is not None:
        first = f"{SELECTION} = {client.selection.score!r}"
        _check_vectorized(client, "client.selection scores the examples of one client at a time")
    elif terms:
        first = f"{KEY} has {terms[0].name!r}"
    else:
        return
    if is_noprop(model):
        raise InvalidExperimentError(
            f"{first}: model.name = {model.name!r} has an objective of its own; {ONE}"
        )
    for name, mod in named_mods(client):
        if _acts_on_steps(name, mod):
            raise InvalidExperimentError(
                f"{first}: client.mods has {name!r}, which makes each step's gradient; {ONE}"
            )
    if experiment.capture is not None:
        raise InvalidExperimentError(
            f"{first}: attacks on [capture] know the task's loss on all examples; {ONE}"
        )
    _check_vectorized(client, obstacle_to_vectorizing(terms))


def check_terms(made: Components) -> None:
    """Refuse terms that have no meaning for the task, the local training or the strategy.

    Raises
    ------
    InvalidExperimentError
        With the term or the strategy, and what was expected.
    """
    client, task = made.experiment.client, made.dataset.task
    terms = find_terms(client.objective)
    named_terms.check_terms(terms, task, client)
    named_terms.check_models(terms, made.model)
    selection = client.selection
    if selection is not None and selection.score == "el2n":
        try:
            check_classes(task, client)
        except ValueError as error:
            raise InvalidExperimentError(f"{SELECTION} = 'el2n': {error}") from None
    strategies = list(nested_strategies(made.strategy))
    is_federated = selection is not None and selection.over == "federation"
    if is_federated and not any(isinstance(strategy, DataDiet) for strategy in strategies):
        raise InvalidExperimentError(
            f"client.selection.over = 'federation': strategy.name = "
            f"{made.experiment.strategy.name!r} does not ask for scores; expected 'DataDiet'"
        )
    for strategy in strategies:
        name = type(strategy).__name__
        if isinstance(strategy, AlignmentStrategy) and (terms or selection is not None):
            first = f"{KEY} has {terms[0].name!r}" if terms else SELECTION
            raise InvalidExperimentError(
                f"{first}: strategy.name = {name!r} has terms of its own; {ONE}"
            )
        if isinstance(strategy, TermStrategy):
            strategy.check_clients(task, client)
            _check_vectorized(client, strategy.obstacle_to_vectorizing)
            for problem in _excluded(made.experiment, strategy):
                raise InvalidExperimentError(f"strategy.name = {name!r}: {problem}; {ONE}")


def _excluded(experiment: Experiment, strategy: TermStrategy) -> Iterator[str]:
    """Yield what a strategy that asks clients for a term cannot go with."""
    if is_noprop(experiment.model):
        yield f"model.name = {experiment.model.name!r} has an objective of its own"
    if strategy.sends_arrays and experiment.capture is not None:
        yield "clients send more than their models, which attacks on a [capture] know nothing of"
    for name, mod in named_mods(experiment.client):
        if not _acts_on_steps(name, mod):
            yield f"{MODS_KEY} has {name!r}, which would change what is sent beside the model"


def _acts_on_steps(name: str, mod: Any) -> bool:
    return getattr(mod, "acts_on", None) == "step" or name == "mixup"


def _check_vectorized(client: ClientSettings, obstacle: str | None) -> None:
    if client.vectorize is True and obstacle is not None:
        raise InvalidExperimentError(
            f"client.vectorize = True: {obstacle}; expected 'auto' or false"
        )
