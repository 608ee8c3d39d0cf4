"""Checks of ``[unlearn]`` with an experiment's other keys, and who has left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.platform.config.unlearning.settings import RETRAIN

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment


def absent_nodes(experiment: Experiment) -> frozenset[int]:
    """Return the nodes that have left: no strategy is told of them."""
    return frozenset() if experiment.unlearn is None else frozenset(experiment.unlearn.nodes)


def never_clients(experiment: Experiment) -> frozenset[int]:
    """Return the clients, from 0, that the run's model has never had: those of a retraining."""
    unlearn = experiment.unlearn
    if unlearn is None or unlearn.method != RETRAIN:
        return frozenset()
    return frozenset(node - 1 for node in unlearn.nodes)


def unlearning_problems(experiment: Experiment) -> Iterator[str]:
    """Yield what ``[unlearn]`` cannot go with."""
    unlearn, clients = experiment.unlearn, experiment.data.clients
    if unlearn is None:
        return
    beyond = [node for node in unlearn.nodes if node > clients]
    if beyond:
        yield (
            f"unlearn.nodes = {list(unlearn.nodes)}: there is no {beyond[0]} (with data.clients = "
            f"{clients}); expected numbers from 1 to {clients}"
        )
    elif len(set(unlearn.nodes)) >= clients:
        yield f"unlearn.nodes = {list(unlearn.nodes)}: is every client; expected fewer"
    if experiment.layers is not None:
        yield "unlearn: is of a federation; expected none with [layers]"
    if experiment.privacy is not None:
        yield "unlearn: its rounds are not in the budget of [privacy]; expected none with [privacy]"
    if experiment.audit is not None:
        yield "unlearn: its clients are not canaries; expected none with [audit]"
    if unlearn.method != RETRAIN:
        yield from _problems_of_a_start(experiment)
    elif unlearn.run is not None:
        yield (
            f"unlearn.run = {str(unlearn.run)!r}: unlearn.method = 'retrain' begins with new "
            "parameters; expected none"
        )


def _problems_of_a_start(experiment: Experiment) -> Iterator[str]:
    """Yield what cannot be where a run's last model is the start."""
    unlearn = experiment.unlearn
    assert unlearn is not None
    if unlearn.run is None:
        yield f"unlearn.run is not set; unlearn.method = {unlearn.method!r} expects a run directory"
    if experiment.client.local is not None or experiment.client.personal is not None:
        key = "local" if experiment.client.local is not None else "personal"
        yield (
            f"unlearn.method = {unlearn.method!r}: what clients have of their own (client.{key}) "
            "is in no run directory; expected 'retrain'"
        )
    first = unlearn.rounds_before_repair
    if experiment.run.rounds < max(first, 1):
        yield (
            f"run.rounds = {experiment.run.rounds}: unlearn.method = {unlearn.method!r} has "
            f"{first} rounds before those of repair; expected at least {first}"
        )
    if unlearn.ascent_round is not None and experiment.client.mods:
        yield (
            f"client.mods: unlearn.method = {unlearn.method!r} has a client send a model that no "
            "mod was made for; expected none, or 'retrain' or 'fine-tune'"
        )
    if unlearn.ascent_round is not None and is_noprop(experiment.model):
        yield (
            f"model.name = {experiment.model.name!r}: NoProp clients train blocks, without a loss "
            "to ascend on; expected unlearn.method = 'retrain' or 'fine-tune'"
        )
