"""Base of strategies whose clients minimise a term that the strategy asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.client_objective import SEPARATOR
from atoll.clients.training.objective.named_terms import RECORD, record_of_term
from atoll.clients.training.objective.term import ObjectiveTerm
from atoll.errors import InvalidExperimentError
from atoll.flower.arrays import array_record
from atoll.strategies.evaluation_weights import weighted_by_examples
from atoll.strategies.mean_only import uses_mean_only


class TermStrategy(FedAvg):
    """FedAvg that asks its clients for a term of their objective, and changes the mean.

    A message has the term's settings as a record ``objective.TERM``. What the server sends for
    the term beside the model is among the message's arrays, named ``TERM:NAME``, and clients reply
    with arrays of the same names, of which the strategy gets the weighted mean.

    Parameters
    ----------
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As for Flower's ``FedAvg``.
    weighted_by_key : str
        The metric of a reply that is its weight.
    """

    # The name by which messages ask for the term.
    term_name: ClassVar[str]

    def __init__(
        self,
        *,
        fraction_train: float,
        fraction_evaluate: float,
        min_train_nodes: int,
        min_evaluate_nodes: int,
        min_available_nodes: int,
        weighted_by_key: str = "num-examples",
    ) -> None:
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
            weighted_by_key=weighted_by_key,
        )
        self._sent = ArrayRecord()
        self._num_nodes = 0

    def term(self) -> ObjectiveTerm:
        """Return the term that clients are asked for."""
        raise NotImplementedError

    def check_clients(self, task: Task, settings: ClientSettings) -> None:
        """Refuse clients whose task or local training the term has no meaning for.

        Raises
        ------
        InvalidExperimentError
            With the strategy's name and what was expected.
        """
        try:
            self.term().check(task, settings)
        except ValueError as error:
            name = type(self).__name__
            raise InvalidExperimentError(f"strategy.name = {name!r}: {error}") from None

    @property
    def obstacle_to_vectorizing(self) -> str | None:
        """The reason why vectorised clients cannot run the term, or None if they can."""
        return self.term().obstacle_to_vectorizing()

    @property
    def sends_arrays(self) -> bool:
        """Whether messages hold arrays beside the model."""
        return type(self).broadcast is not TermStrategy.broadcast

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages, with the term's record and arrays."""
        self._sent = arrays
        self._num_nodes = len(list(grid.get_node_ids()))
        beside = {f"{self.term_name}{SEPARATOR}{k}": a for k, a in self.broadcast(arrays).items()}
        sent = array_record({**arrays, **beside}) if beside else arrays
        messages = list(super().configure_train(server_round, sent, config, grid))
        # Messages share one content, and are sent as fast as that for it.
        for content in {id(m.content): m.content for m in messages}.values():
            content[f"{RECORD}{self.term_name}"] = record_of_term(self.term())
        return messages

    @uses_mean_only
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model, and FedAvg's metrics."""
        replies = list(replies)
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None or metrics is None:
            return mean, metrics
        prefix = f"{self.term_name}{SEPARATOR}"
        model = array_record({k: a for k, a in mean.items() if not k.startswith(prefix)})
        beside = array_record(
            {k.removeprefix(prefix): a for k, a in mean.items() if k.startswith(prefix)}
        )
        weight = _total_of(replies, self.weighted_by_key)
        after = self.next_model(self._sent, model, beside, metrics, weight)
        self._sent = ArrayRecord()
        return after, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the clients' evaluations by their examples."""
        with weighted_by_examples(self):
            return super().aggregate_evaluate(server_round, replies)

    def broadcast(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return what is sent beside the model: nothing, unless a strategy overrides it."""
        return ArrayRecord()

    def next_model(
        self,
        before: ArrayRecord,
        mean: ArrayRecord,
        beside: ArrayRecord,
        metrics: MetricRecord,
        weight: float,
    ) -> ArrayRecord:
        """Return the next model.

        Parameters
        ----------
        before, mean : ArrayRecord
            The model that was sent, and the weighted mean of the clients'.
        beside : ArrayRecord
            The weighted mean of what clients sent beside it.
        metrics : MetricRecord
            The weighted means of their metrics.
        weight : float
            The sum of the weights.
        """
        raise NotImplementedError


def _total_of(replies: Iterable[Message], key: str) -> float:
    """Return the sum of a metric over the replies that are no errors."""
    total = 0.0
    for reply in replies:
        if not reply.has_error():
            for record in reply.content.values():
                if isinstance(record, MetricRecord):
                    total += float(record.get(key, 0.0))  # type: ignore[arg-type]
    return total
