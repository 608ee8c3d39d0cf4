"""SecAgg+ around a strategy: it gets the clients' mean, and the server sees no client's update.

The protocol is Flower's ``SecAggPlusWorkflow``, run within ``configure_train``: keys, shares,
masked vectors, and their sum unmasked. Clients have the mod "secure-aggregation".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from atoll.clients.secure_aggregation import KEYS
from atoll.flower.arrays import array_record, to_array, view
from atoll.flower.secure_aggregation import (
    FitIns,
    FitRes,
    Parameters,
    WorkflowState,
    arrayrecord_to_parameters,
    parameters_to_ndarrays,
)
from atoll.strategies.strategy_wrapper import StrategyWrapper

logger = logging.getLogger("atoll")

OnSum = Callable[[int, Sequence[Message], ArrayRecord, int], None]


class SecAggPlus(StrategyWrapper):
    """Another strategy under secure aggregation: it aggregates replies that are all the mean.

    The strategy must be one that uses the replies' weighted mean alone.

    Parameters
    ----------
    strategy : Strategy, optional
        The strategy; FedAvg by default.
    num_shares, reconstruction_threshold : int or float
        As of Flower's workflow: how many shares a client's keys are split into, and how many of
        them undo a mask; as floats, shares of the cohort and of the shares.
    max_weight : float
        The most examples that a client may have.
    clipping_range : float
        The largest size of a parameter; larger ones are clipped.

    Attributes
    ----------
    on_sum : callable
        Called after each round's protocol with all that it told the server: the round, the
        messages to the clients that are in the sum, their mean model, and their examples in all.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from atoll.strategies import SecAggPlus
    >>> strategy = SecAggPlus(FedAvg(fraction_evaluate=0.0), max_weight=100.0)
    >>> type(strategy.strategy).__name__  # what gets the sum of the clients' updates
    'FedAvg'
    """

    def __init__(
        self,
        strategy: Strategy | None = None,
        num_shares: float = 1.0,
        reconstruction_threshold: float = 0.5,
        max_weight: float = 1000.0,
        clipping_range: float = 8.0,
    ) -> None:
        self.strategy = FedAvg() if strategy is None else strategy
        self._workflow = SecAggPlusWorkflow(
            num_shares,
            reconstruction_threshold,
            max_weight=max_weight,
            clipping_range=clipping_range,
        )
        self._replies: list[Message] = []
        self.on_sum: OnSum = _ignore_sum

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Run the round's protocol; no message is left to be sent."""
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        round_context = _Round(server_round, messages)
        state = WorkflowState()
        workflow = self._workflow
        stages = (
            workflow.setup_stage,
            workflow.share_keys_stage,
            workflow.collect_masked_vectors_stage,
            workflow.unmask_stage,
        )
        done = bool(messages) and all(stage(grid, round_context, state) for stage in stages)  # type: ignore[arg-type]
        if messages and not done:
            logger.warning("round %d: secure aggregation was given up", server_round)
        self._replies = round_context.replies() if done else []
        if self._replies:
            mean = self._replies[0].content.array_records["arrays"]
            self.on_sum(server_round, round_context.answered(), mean, round_context.examples())
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the protocol's result."""
        gathered, self._replies = self._replies, []
        return self.strategy.aggregate_train(server_round, gathered)


class _Node:
    """Node id of a client, as Flower's workflow names it."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id


class _Round:
    """One round as Flower's workflow sees it: a context, a strategy and a manager of clients."""

    def __init__(self, server_round: int, messages: Sequence[Message]) -> None:
        self._messages = {message.metadata.dst_node_id: message for message in messages}
        self._results: list[tuple[_Node, FitRes]] = []
        content = messages[0].content if messages else RecordDict()
        self._arrays = next(iter(content.array_records.values()), ArrayRecord())
        self.state = RecordDict(
            {
                "config": ConfigRecord({"current_round": server_round}),
                "parameters": self._arrays,
            }
        )
        self.strategy = self.client_manager = self

    def num_available(self) -> int:
        """Return how many clients there are."""
        return len(self._messages)

    def configure_fit(self, server_round: int, *_: Any) -> list[tuple[_Node, FitIns]]:
        """Return the instruction of each client."""
        keys = json.dumps(list(self._arrays))
        # Clients that get the same model share its parameters.
        sent: dict[int, Parameters] = {}
        instructions = []
        for node_id, message in self._messages.items():
            arrays = next(iter(message.content.array_records.values()), self._arrays)
            if id(arrays) not in sent:
                sent[id(arrays)] = arrayrecord_to_parameters(arrays, keep_input=True)
            config = {**_config(message), KEYS: keys}
            instructions.append((_Node(node_id), FitIns(sent[id(arrays)], config)))
        return instructions

    def aggregate_fit(
        self, server_round: int, results: list[tuple[_Node, FitRes]], failures: list[Exception]
    ) -> tuple[None, dict[str, Any]]:
        """Keep the results: each has the mean in the place of the client's parameters."""
        self._results = results
        return None, {}

    def answered(self) -> list[Message]:
        """Return the messages to the clients that are in the sum."""
        return [self._messages[node.node_id] for node, _ in self._results]

    def examples(self) -> int:
        """Return how many examples the clients in the sum say that they have."""
        return sum(result.num_examples for _, result in self._results)

    def replies(self) -> list[Message]:
        """Return a reply a client, all with the mean of their parameters."""
        if not self._results:
            return []
        mean = parameters_to_ndarrays(self._results[0][1].parameters)
        arrays = array_record(
            {
                key: to_array(np.asarray(values, dtype=view(array).dtype))
                for (key, array), values in zip(self._arrays.items(), mean, strict=True)
            }
        )
        replies = []
        for node, result in self._results:
            metrics = MetricRecord({"num-examples": result.num_examples, **result.metrics})  # type: ignore[dict-item]
            content = RecordDict({"arrays": arrays, "metrics": metrics})
            replies.append(Message(content, reply_to=self._messages[node.node_id]))
        return replies


def _ignore_sum(
    server_round: int, messages: Sequence[Message], mean: ArrayRecord, examples: int
) -> None:
    """Ignore the sum: the default callback."""


def _config(message: Message) -> dict[str, Any]:
    return {k: v for record in message.content.config_records.values() for k, v in record.items()}
