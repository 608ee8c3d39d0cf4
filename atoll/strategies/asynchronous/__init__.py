"""Asynchronous strategies on a virtual clock: the server does not wait for all clients."""

from __future__ import annotations

from flwr.serverapp.strategy import Strategy

from atoll.strategies.asynchronous.deadline import DeadlineFedAvg
from atoll.strategies.asynchronous.fed_buff import FedBuff

ASYNCHRONOUS_STRATEGIES: dict[str, type[Strategy]] = {
    kind.__name__: kind for kind in (FedBuff, DeadlineFedAvg)
}
