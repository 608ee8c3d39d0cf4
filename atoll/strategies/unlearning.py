"""Strategy that has clients leave: gradient ascent at theirs, the other rounds at the others'.

It stands around the strategy of the federation. In one round it asks the leaving clients, and them
alone, for gradient ascent (:mod:`atoll.clients.apps.leaving_clients`), and takes the mean of their
models for the global one. All other rounds are the inner strategy's, with the clients that stay:
the engine does not name it those that leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from atoll import flower
from atoll.clients.apps.leaving_clients import ASCENT
from atoll.errors import EngineError
from atoll.strategies.strategy_wrapper import StrategyWrapper


class Unlearning(StrategyWrapper):
    """Strategy around another, in one of whose rounds clients that leave ascend on their loss.

    Parameters
    ----------
    strategy : Strategy
        Of all other rounds.
    nodes : tuple[int, ...]
        Who leaves.
    ascent : Mapping[str, int or float or bool]
        What is added to the config of the ascent's messages.
    ascent_round : int
        The round of the ascent, from 1.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from atoll.strategies.unlearning import Unlearning
    >>> strategy = Unlearning(FedAvg(), nodes=(3,), ascent={}, ascent_round=2)
    >>> strategy.aggregate_train(1, [])
    (None, None)
    """

    def __init__(
        self,
        strategy: Strategy,
        nodes: tuple[int, ...],
        ascent: Mapping[str, int | float | bool],
        ascent_round: int,
    ) -> None:
        self.strategy = strategy
        self.nodes = nodes
        self.ascent = dict(ascent)
        self.ascent_round = ascent_round
        with flower.without_evaluation_warning():
            self._mean = FedAvg()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the round's messages: in the round of the ascent to those who leave."""
        if server_round != self.ascent_round:
            return self.strategy.configure_train(server_round, arrays, config, grid)
        asked = ConfigRecord({**config, **self.ascent, "server-round": server_round})
        content = RecordDict({"arrays": arrays, "config": asked})
        kind = f"train.{ASCENT}"
        return [Message(content, dst_node_id=node, message_type=kind) for node in self.nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model and the round's metrics.

        Raises
        ------
        EngineError
            If a client that leaves does not answer: without it nothing would be unlearned.
        """
        if server_round != self.ascent_round:
            return self.strategy.aggregate_train(server_round, replies)
        answered = list(replies)
        failed = [reply for reply in answered if reply.has_error()]
        if failed or len(answered) < len(self.nodes):
            reason = failed[0].error.reason if failed else "no answer"
            raise EngineError(
                f"unlearn.nodes = {list(self.nodes)}: gradient ascent failed there ({reason}); "
                "nothing is unlearned without it"
            )
        return self._mean.aggregate_train(server_round, answered)
