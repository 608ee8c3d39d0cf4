"""Several shadow federations at once: a client of all of them is trained as one stack.

The server draws the same clients in each, and each client has as many examples in each, so one
batch of a client's is a batch of as many federations.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from torch import Tensor

from atoll import flower
from atoll.clients.apps.client_resources import ClientResources
from atoll.clients.apps.local_clients import LocalClients
from atoll.clients.apps.training_messages import config_of, proximal_mu_of
from atoll.clients.arrays.tensors import tensor_of
from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.clients.training.stacked.client_batch import ClientBatch
from atoll.clients.training.stacked.stacked_layers import stacked_linear_layers
from atoll.clients.training.stacked.vectorized_training import VectorizedTrainer
from atoll.platform.attack_runs.shadows.local_grid import LocalGrid, random_state_kept
from atoll.platform.attack_runs.shadows.shadow_plan import Losses, Questions, ShadowPlan
from atoll.platform.config.aggregation import aggregation_of
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import Federation
from atoll.randomness import seed_everything

# Federations whose clients are stacked: the same for any number of workers.
AT_ONCE = 8


def obstacle_to_stacking(experiment: Experiment, federation: Federation) -> str | None:
    """Return why shadow federations are run one at a time, or None if they are stacked."""
    spec = federation.spec
    if experiment.client.vectorize is False:
        return "client.vectorize = false"
    if spec.client.mods or is_noprop(spec.model) or spec.frozen is not None:
        return "client.mods, NoProp and frozen parameters are of one client at a time"
    if not type(federation.strategy).__module__.startswith("flwr."):
        return f"{type(federation.strategy).__name__} is not one of Flower's strategies"
    aggregation = aggregation_of(federation.strategy, experiment.strategy.reduce)
    if not aggregation.sum_replies:
        return aggregation.reason
    obstacle = LocalClients(spec).vectorized.obstacle
    if obstacle is not None or experiment.client.vectorize is True:
        return obstacle
    if stacked_linear_layers(spec.build_model(federation.dataset)) is None:
        return "on a processor, stacks of other layers than linear ones are no faster"
    return None


def run_together(plan: ShadowPlan, shadows: Sequence[int], folder: Path) -> list[Losses]:
    """Run shadow federations in step, and return what their models say that are asked.

    Parameters
    ----------
    plan : ShadowPlan
        The plan.
    shadows : Sequence[int]
        The federations' numbers.
    folder : Path
        An empty folder for their partitions.

    Raises
    ------
    ValueError
        If a model's losses are not finite.
    """
    return _Stack(plan, shadows, folder).run()


class _Stack:
    def __init__(self, plan: ShadowPlan, shadows: Sequence[int], folder: Path) -> None:
        specs = [plan.spec_of(shadow, folder / str(shadow)) for shadow in shadows]
        self._plan = plan
        self._each = [ClientResources(spec) for spec in specs]
        first = self._each[0]
        self._model = first.model
        self._questions = Questions(plan, first.dataset)
        self._trainer = VectorizedTrainer(self._model, plan.spec.client, first.dataset.task)
        self._trained = [k for k, p in self._model.named_parameters() if p.requires_grad]
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._strategies = [copy.deepcopy(plan.strategy) for _ in shadows]
        self._grid = LocalGrid(ClientApp(), len(plan.design.clients))
        self._found: list[Losses] = [{} for _ in shadows]

    def run(self) -> list[Losses]:
        seed_everything(self._plan.server_seed)
        arrays = [self._plan.initial for _ in self._each]
        for server_round in range(1, self._plan.rounds + 1):
            arrays = self._round(server_round, arrays)
        return self._found

    def _round(self, server_round: int, arrays: list[ArrayRecord]) -> list[ArrayRecord]:
        messages = self._drawn(server_round, arrays)
        starts = [
            torch.stack([tensor_of(record[name]) for record in arrays]) for name in self._trained
        ]
        totals = [WeightedSum() for _ in arrays]
        for message in sorted(messages, key=flower.address):
            client = message.metadata.dst_node_id - 1
            count = len(self._each[0].training_part(client))
            if count == 0:
                continue
            with random_state_kept():
                stacked = self._train(client, config_of(message), starts)
            for place, total in enumerate(totals):
                total.add_values(self._values([values[place] for values in stacked]), count)
            if (server_round, client) in self._plan.asked:
                self._ask(server_round, client, stacked)
        aggregated = arrays
        if totals[0].weight:
            with random_state_kept():
                aggregated = [
                    _aggregated(strategy, server_round, total)
                    for strategy, total in zip(self._strategies, totals, strict=True)
                ]
        # Evaluations are not run, but their clients are drawn by the same generator.
        list(
            self._strategies[0].configure_evaluate(
                server_round, aggregated[0], ConfigRecord(), self._grid
            )
        )
        return aggregated

    def _drawn(self, server_round: int, arrays: list[ArrayRecord]) -> list[Message]:
        """Return the messages of one federation; every strategy keeps what it is told."""
        for strategy, record in zip(self._strategies[1:], arrays[1:], strict=True):
            with random_state_kept():
                list(strategy.configure_train(server_round, record, ConfigRecord(), self._grid))
        return list(
            self._strategies[0].configure_train(server_round, arrays[0], ConfigRecord(), self._grid)
        )

    def _train(self, client: int, config: ConfigRecord, starts: list[Tensor]) -> list[Tensor]:
        parts = [each.training_part(client) for each in self._each]
        examples = [
            each.examples([client], [part], config)
            for each, part in zip(self._each, parts, strict=True)
        ]
        seeds = [each.seed(config, "train", client) for each in self._each]
        seed_everything(seeds[0])
        return self._trainer.train_stacked(
            ClientBatch(
                torch.cat([inputs for inputs, _ in examples]),
                torch.cat([labels for _, labels in examples]),
                [len(part) for part in parts],
                self._each[0].learning_rate(config),
                [torch.Generator().manual_seed(seed) for seed in seeds],
                proximal_mu_of(config),
                starts=starts,
            )
        )

    def _values(self, trained: list[Tensor]) -> dict[str, NDArray[Any]]:
        """Return what a client would send: its parameters, and buffers that do not change."""
        state = travelling_state(self._model)
        own = dict(zip(self._trained, trained, strict=True))
        return {name: own.get(name, value).numpy() for name, value in state.items()}

    def _ask(self, server_round: int, client: int, stacked: list[Tensor]) -> None:
        kept = [parameter.detach().clone() for parameter in self._parameters]
        with torch.no_grad():
            for place, found in enumerate(self._found):
                for parameter, values in zip(self._parameters, stacked, strict=True):
                    parameter.copy_(values[place])
                found[server_round, client] = self._questions.losses(self._model, client)
            for parameter, values in zip(self._parameters, kept, strict=True):
                parameter.copy_(values)


def _aggregated(strategy: Strategy, server_round: int, total: WeightedSum) -> ArrayRecord:
    """Give the strategy the mean as the one reply."""
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    metrics = MetricRecord({"num-examples": total.weight})
    content = RecordDict({"arrays": total.mean(), "metrics": metrics})
    arrays, _ = strategy.aggregate_train(server_round, [Message(content, reply_to=asked)])
    assert arrays is not None
    return arrays
