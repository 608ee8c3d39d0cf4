"""``[poison]``: clients that attack, and the mod by which they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from torch import nn

from atoll.attacks.poisoning import POISON_REFERENCES, POISONS
from atoll.attacks.poisoning.poison import Poison
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.mods import as_settings
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.settings import ClientSettings, ModSettings
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.platform.config.client_mods import with_references
from atoll.platform.config.sections import NO_POISON
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.randomness import derive_seed
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.validation import validated

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment

# Fields of an attack that a run sets.
GIVEN = ("seed", "dataset")
SECURE = "secure-aggregation"


def poisoned_nodes(experiment: Experiment, clients: int) -> tuple[int, ...]:
    """Return the attacker's nodes in order; none without an attack.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    clients : int
        How many clients there are.
    """
    settings = experiment.poison
    if settings is None or settings.attack == NO_POISON:
        return ()
    if isinstance(settings.nodes, tuple):
        return tuple(sorted(set(settings.nodes)))
    generator = np.random.default_rng(derive_seed(experiment.run.seed, "poisoned nodes"))
    count = max(1, round(settings.nodes * clients))
    chosen = generator.choice(clients, count, replace=False) + 1
    return tuple(sorted(chosen.tolist()))


def poison_of(experiment: Experiment, clients: int, dataset: Dataset | None) -> Poison | None:
    """Return an experiment's poison, or None if it has none.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    clients : int
        How many clients there are.
    dataset : Dataset or None
        The data set; None before it is there.

    Raises
    ------
    InvalidExperimentError
        If the attack is not known, or its settings are wrong.
    """
    entry = _entry(experiment, clients, dataset)
    if entry is None:
        return None
    kind, arguments = POISONS.find(entry.name, "poison.attack"), entry.arguments
    if not (isinstance(kind, type) and issubclass(kind, Poison)):
        raise InvalidExperimentError(
            f"poison.attack = {entry.name!r}: expected a class derived from atoll.attacks.Poison"
        )
    own = [name for name in kind.model_fields if name not in GIVEN]
    for name, value in (experiment.poison.arguments if experiment.poison else {}).items():
        if name not in own:
            raise InvalidExperimentError(
                f"poison.{name} = {value!r}: {kind.name} has no such setting; {closest(name, own)}"
            )
    return validated(kind, arguments, prefix="poison.")


def poisoned_client(experiment: Experiment, clients: int, dataset: Dataset) -> ClientSettings:
    """Return ``[client]`` as clients are given it: with the poison among the mods, if there is one.

    It is the outermost mod, but for secure aggregation's: that masks what the attacker sends.
    """
    client = with_references(experiment.client)
    entry = _entry(experiment, clients, dataset)
    if entry is None:
        return client
    names = [as_settings(mod).name for mod in experiment.client.mods]
    place = names.index(SECURE) + 1 if SECURE in names else 0
    mods = (*client.mods[:place], entry, *client.mods[place:])
    return client.model_copy(update={"mods": mods})


def _entry(experiment: Experiment, clients: int, dataset: Dataset | None) -> ModSettings | None:
    settings, nodes = experiment.poison, poisoned_nodes(experiment, clients)
    if settings is None or not nodes:
        return None
    name = POISONS.check(settings.attack, "poison.attack")
    given: dict[str, Any] = {
        "nodes": nodes,
        "start_round": settings.start_round,
        "seed": derive_seed(experiment.run.seed, "poison"),
        "dataset": None if dataset is None else dataset.directory,
    }
    return ModSettings(name=POISON_REFERENCES.get(name, name), **settings.arguments | given)


def check_poison_settings(experiment: Experiment, strategy: Strategy) -> None:
    """Refuse an attack that is not known, or cannot be made with such clients or such a strategy.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    poison = poison_of(experiment, experiment.data.clients, None)
    if poison is None or experiment.poison is None:
        return
    attack = experiment.poison.attack
    if poison.acts_on == "examples" and is_noprop(experiment.model):
        raise InvalidExperimentError(
            f"poison.attack = {attack!r}: changes examples, and model.name = "
            f"{experiment.model.name!r} reads its own; expected an attack on updates"
        )
    aligned = any(isinstance(s, AlignmentStrategy) for s in nested_strategies(strategy))
    if poison.acts_on == "moments" and not aligned:
        raise InvalidExperimentError(
            f"poison.attack = {attack!r}: changes answers to queries for moments, of which "
            f"strategy.name = {experiment.strategy.name!r} has none; expected one that aligns "
            "domains"
        )


def check_poison_on(
    experiment: Experiment, clients: int, dataset: Dataset, model: nn.Module
) -> None:
    """Refuse an attack on clients that are not there, or that is not for such data.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    poison = poison_of(experiment, clients, dataset)
    if poison is None or experiment.poison is None:
        return
    beyond = [node for node in poison.nodes if node > clients]
    if beyond:
        raise InvalidExperimentError(
            f"poison.nodes = {list(poison.nodes)}: there is no {beyond[0]} (with data.clients = "
            f"{clients}); expected numbers from 1 to {clients}"
        )
    if len(poison.nodes) == clients:
        raise InvalidExperimentError(
            f"poison.nodes = {experiment.poison.nodes!r}: is every client; expected fewer"
        )
    _check_captured(experiment, poison)
    try:
        poison.check_data(dataset, model)
    except ValueError as error:
        raise InvalidExperimentError(
            f"poison.attack = {experiment.poison.attack!r} on data.dataset = "
            f"{experiment.data.dataset!r}: {error}"
        ) from error


def _check_captured(experiment: Experiment, poison: Poison) -> None:
    """Refuse captures of clients that do not train on what their captures would say."""
    captured: Literal["all"] | tuple[int, ...] | None
    captured = None if experiment.capture is None else experiment.capture.nodes
    if captured is None:
        return
    both = poison.nodes if captured == "all" else sorted(set(poison.nodes) & set(captured))
    if both:
        raise InvalidExperimentError(
            f"capture.nodes = {captured!r}: node {both[0]} is one of poison.nodes, whose messages "
            "are not those of honest training; expected others"
        )
