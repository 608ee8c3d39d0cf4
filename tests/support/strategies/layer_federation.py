"""A layerwise federation in this process: real clients, real strategies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from atoll.clients.apps.client_app import make_client_app
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import prepare
from tests.support.strategies.small_federation import LocalGrid

CLIENTS = 4


def experiment(**sections: Any) -> Experiment:
    tables: dict[str, Any] = {
        "run": {"rounds": 2, "seed": 3},
        "data": {"dataset": "digits", "clients": CLIENTS, "train_examples": 200},
        "model": {"name": "noprop-dt", "block": "small", "steps": 3, "mean_of": 1},
        "client": {"optimizer": "adamw", "learning_rate": 0.002, "batch_size": 16},
        "strategy": {"name": "Layerwise"},
        "log": {"progress": False},
    }
    for name, section in sections.items():
        tables[name] = {**tables[name], **section}
    return Experiment.from_dict(tables)


@dataclass
class Round:
    messages: list[Message]
    replies: list[Message]
    before: ArrayRecord
    after: ArrayRecord
    metrics: MetricRecord


class LayerFederation:
    def __init__(self, asked: Experiment) -> None:
        check_settings(asked)
        self.parts = prepare(asked)
        self.strategy: Any = self.parts.strategy
        self.grid = LocalGrid(make_client_app(self.parts.spec), asked.data.clients)
        self.arrays = self.parts.initial_arrays
        self.rounds = 0

    def run_round(self) -> Round:
        self.rounds += 1
        before = self.arrays
        messages = sorted(
            self.strategy.configure_train(self.rounds, before, ConfigRecord(), self.grid),
            key=lambda message: message.metadata.dst_node_id,
        )
        replies = self.grid.send_and_receive(messages)
        for reply in replies:
            assert not reply.has_error(), reply.error.reason
        self.arrays, metrics = self.strategy.aggregate_train(self.rounds, replies)
        return Round(messages, replies, before, self.arrays, metrics)
