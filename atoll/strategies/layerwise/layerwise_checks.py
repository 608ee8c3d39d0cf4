"""Checks of a layer-wise federation before it starts."""

from __future__ import annotations

from typing import cast

from flwr.serverapp.strategy import Strategy
from torch import nn

from atoll.clients.noprop.block_training.training_memory import ClientMemory, budget_of
from atoll.clients.noprop.networks.network import NoPropNetwork
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.errors import InvalidExperimentError
from atoll.strategies.layerwise.layerwise_strategy import Layerwise


def check_layerwise(
    strategy: Strategy,
    settings: ModelSettings,
    client: ClientSettings,
    model: nn.Module,
    clients: int,
) -> None:
    """Refuse a federation whose layers, embedding and memory do not go together.

    Parameters
    ----------
    strategy : Strategy
        The federation's.
    settings, client
        ``[model]`` and ``[client]``.
    model : nn.Module
        The model.
    clients : int
        How many there are.

    Raises
    ------
    InvalidExperimentError
        If the strategy is layerwise and the model's layers cannot be trained apart, the embedding
        would need the clients' images, or a client's memory holds no layer.
    """
    if not is_noprop(settings):
        if isinstance(strategy, Layerwise):
            raise InvalidExperimentError(
                f"model.name = {settings.name!r}: its layers cannot be trained apart; expected "
                f"'noprop-dt', 'noprop-ct' or 'noprop-fm' with strategy.name = "
                f"{type(strategy).__name__!r}"
            )
        return
    network = cast(NoPropNetwork, model)
    if network.design.settings.embedding == "prototype":
        raise InvalidExperimentError(
            "model.embedding = 'prototype': prototypes are training images, which a federation's "
            "server must not see; expected 'one-hot', 'orthogonal' or 'learned'"
        )
    if client.memory_mb:
        _check_memory(ClientMemory(network.design, client), client, clients)


def _check_memory(memory: ClientMemory, client: ClientSettings, clients: int) -> None:
    for partition in range(min(clients, len(client.memory_mb))):
        budget = budget_of(client, partition)
        if memory.fitting(budget) == 0:
            raise InvalidExperimentError(
                f"client.memory_mb = {list(client.memory_mb)}: {client.memory_mb[partition]:g} MB "
                f"hold no layer; expected at least {memory.needed(1) / 1e6:.1f} for this model and "
                f"client.batch_size = {client.batch_size}"
            )
