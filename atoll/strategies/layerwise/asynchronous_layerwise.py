"""Asynchronous layer-wise training (after FedBuff, Nguyen et al., 2022).

Clients take a declared number of rounds; until then they are not sampled again. Which update
arrives when depends on the experiment alone, never on the machine, so a run has the same bits
every time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from pydantic import Field

from atoll.clients.noprop.layer_keys import keys_by_layer, layer_of
from atoll.flower.arrays import array_record, to_array, view
from atoll.strategies.layerwise.layerwise_strategy import (
    WEIGHT,
    Layerwise,
    _arrays,
    _is_statistic,
    _metrics_of,
    _with_examples,
)
from atoll.strategies.strategy_fields import Count, NonNegative, check_argument


class AsynchronousLayerwise(Layerwise):
    """Layer-wise strategy that applies updates as they arrive, older ones with less weight.

    An update's age, for each layer apart, is the number of versions that the layer has gone
    through since it was sent out. The update (trained minus sent) is added to the layer as it is
    now, times ``(1 + age) ** -staleness_exponent``; the layer's strategy then averages the updates
    of its buffer. BatchNorm's statistics move that share of the way to the client's instead.

    Parameters
    ----------
    delays : Sequence[int]
        Rounds that clients take, 1 or more; node ``i`` of 1..N has entry ``i - 1``, the list is
        repeated.
    buffer_size : int
        Updates of a layer that are waited for.
    staleness_exponent : float
        0 weighs all updates alike.
    **arguments
        Those of :class:`~atoll.strategies.layerwise.layerwise_strategy.Layerwise`.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from atoll.strategies import AsynchronousLayerwise
    >>> strategy = AsynchronousLayerwise(FedAvg(), layers_per_client=2, delays=[1, 2, 4])
    >>> [round(strategy.staleness_weight(age), 3) for age in (0, 1, 3)]
    [1.0, 0.707, 0.5]
    """

    def __init__(
        self,
        strategy: FedAvg | None = None,
        layers_per_client: int | None = None,
        delays: Sequence[int] = (1,),
        buffer_size: int = 1,
        staleness_exponent: float = 0.5,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 0.0,
        min_train_nodes: int = 1,
        min_evaluate_nodes: int = 1,
        min_available_nodes: int = 1,
    ) -> None:
        super().__init__(
            strategy,
            layers_per_client,
            fraction_train,
            fraction_evaluate,
            min_train_nodes,
            min_evaluate_nodes,
            min_available_nodes,
        )
        check_argument("delays", delays, Annotated[Sequence[Count], Field(min_length=1)])
        check_argument("buffer_size", buffer_size, Count)
        check_argument("staleness_exponent", staleness_exponent, NonNegative)
        self.delays = list(delays)
        self.buffer_size = buffer_size
        self.staleness_exponent = staleness_exponent
        # Updates under way, and arrived ones by layer that wait for others.
        self.under_way: list[dict[str, Any]] = []
        self.buffers: dict[str, list[dict[str, Any]]] = {}

    def staleness_weight(self, age: int) -> float:
        """Return the weight of an update of that age in versions."""
        return float((1 + age) ** -self.staleness_exponent)

    def _sampled(self, messages: Iterable[Message]) -> list[int]:
        busy = {update["node"] for update in self.under_way}
        return [node for node in super()._sampled(messages) if node not in busy]

    def _ask_capacities(self, nodes: Sequence[int], config: Any, grid: Any) -> None:
        if nodes:
            super()._ask_capacities(nodes, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Send the round's updates on their way, and apply those that have arrived."""
        broadcast, self._broadcast = self._broadcast, None
        if broadcast is None:
            return None, None
        valid, _ = self._check_and_log_replies(list(replies), is_train=True, validate=False)
        valid = _with_examples(valid)
        self.under_way += [self._update_of(server_round, broadcast, reply) for reply in valid]
        arrived = [update for update in self.under_way if update["arrives"] <= server_round]
        self.under_way = [u for u in self.under_way if u["arrives"] > server_round]
        ages = self._fill_buffers(sorted(arrived, key=lambda u: (u["arrives"], u["node"])))
        arrays, counts = self._empty_full_buffers(server_round, broadcast, valid)
        metrics = dict(self._metrics(valid, counts)) if valid else {}
        metrics |= {
            "layer_versions": list(self.versions),
            "layer_clients": counts,
            "under_way": len(self.under_way),
            "mean_age": float(np.mean(ages)) if ages else 0.0,
        }
        return arrays, MetricRecord(metrics)

    def _update_of(
        self, server_round: int, broadcast: ArrayRecord, reply: Message
    ) -> dict[str, Any]:
        node, trained = reply.metadata.src_node_id, _arrays(reply)
        change = {
            key: array
            if _is_statistic(key)
            else to_array(np.asarray(view(array) - view(broadcast[key]), np.float32))
            for key, array in trained.items()
        }
        metrics = _metrics_of(reply)
        return {
            "node": node,
            "arrives": server_round + self.delays[(node - 1) % len(self.delays)] - 1,
            "change": array_record(change),
            "versions": list(self.versions),
            "examples": int(metrics[WEIGHT]),
            "loss": float(metrics["loss"]),
        }

    def _fill_buffers(self, arrived: Sequence[dict[str, Any]]) -> list[int]:
        """Share updates out among the layers' buffers; return each layer update's age."""
        ages = []
        for update in arrived:
            for layer, keys in keys_by_layer(update["change"]).items():
                own = array_record({key: update["change"][key] for key in keys})
                entry = {**update, "change": own}
                self.buffers.setdefault(str(layer), []).append(entry)
                if layer is not None:
                    ages.append(self.versions[layer] - update["versions"][layer])
        return ages

    def _empty_full_buffers(
        self, server_round: int, broadcast: ArrayRecord, valid: list[Message]
    ) -> tuple[ArrayRecord, list[int]]:
        arrays = dict(broadcast)
        counts = [0] * len(self.versions)
        for name in list(self.buffers):
            waiting = self.buffers[name]
            if len(waiting) < self.buffer_size:
                continue
            layer = layer_of(next(iter(waiting[0]["change"])))
            replies = [self._reply(update, layer, broadcast) for update in waiting]
            arrays |= self._update(server_round, layer, replies, broadcast)
            if layer is not None:
                counts[layer] = len(waiting)
            del self.buffers[name]
        return array_record(arrays), counts

    def _reply(self, update: dict[str, Any], layer: int | None, now: ArrayRecord) -> Message:
        """Return an update as the reply of a client that trained the layer as it is now."""
        age = 0 if layer is None else self.versions[layer] - update["versions"][layer]
        weight = self.staleness_weight(age)
        moved = {
            key: to_array(_moved(key, view(now[key]), view(change), weight))
            for key, change in update["change"].items()
        }
        content = RecordDict(
            {
                "arrays": array_record(moved),
                "metrics": MetricRecord({WEIGHT: update["examples"], "loss": update["loss"]}),
            }
        )
        return Message(content, update["node"], "train")


def _moved(key: str, now: NDArray[Any], change: NDArray[Any], weight: float) -> NDArray[Any]:
    """Return an array after an update; of a statistic, ``change`` is the client's own value.

    A variance that newer updates have made small would fall below zero if an older one took from
    it what it had seen it lose; a mean of variances cannot.
    """
    if _is_statistic(key):
        return np.asarray((1 - weight) * now + weight * change)
    return np.asarray(now + weight * change)
