"""Layer-wise strategy: one Flower strategy a layer."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from atoll.clients.apps.noprop_clients import CAPACITY
from atoll.clients.noprop.layer_keys import keys_by_layer
from atoll.errors import EngineError, InvalidExperimentError
from atoll.flower.arrays import array_record, to_array, view
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.layerwise.layer_assignment import deal_layers
from atoll.strategies.strategy_fields import Count, check_argument

logger = logging.getLogger("atoll")

# Where the shared part's strategy is, beside those of layers 0 and on.
SHARED = "shared"
WEIGHT = "num-examples"
# BatchNorm's buffers, which are averaged whatever a layer's strategy does with parameters.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class LayerStrategies:
    """A strategy a layer: copies of one, each with a state of its own.

    Parameters
    ----------
    pattern : FedAvg
        What is copied.
    """

    def __init__(self, pattern: FedAvg) -> None:
        self._pattern = pattern
        self._by_name: dict[str, FedAvg] = {}

    def of(self, layer: int | None) -> FedAvg:
        """Return a layer's strategy, or with None that of the shared part."""
        return self._named(SHARED if layer is None else str(layer))

    def _named(self, name: str) -> FedAvg:
        if name not in self._by_name:
            own = copy.deepcopy(self._pattern)
            # Clients are sampled once for all layers, and not by these.
            own.fraction_train, own.fraction_evaluate = 0.0, 0.0
            self._by_name[name] = own
        return self._by_name[name]

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return each strategy's attributes; callables are part of its code."""
        return {
            name: {key: value for key, value in vars(own).items() if not callable(value)}
            for name, own in self._by_name.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore the state of a checkpoint."""
        for name, attributes in state.items():
            vars(self._named(name)).update(attributes)


class Layerwise(FedAvg):
    """Strategy that averages each layer over the clients that trained it, by a strategy of its own.

    A client is asked once how many layers its memory holds. In each round the sampled clients are
    dealt layers, balanced, and get and send nothing but these and the small part that all share.

    Parameters
    ----------
    strategy : FedAvg, optional
        Strategy that aggregates a layer: FedAvg by default, or one derived from it (FedProx,
        FedAdam, ...). Each layer has a copy with a state of its own.
    layers_per_client : int, optional
        The most layers that a client trains in a round, whatever its memory holds.
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As Flower's FedAvg. Clients evaluate the whole model, whatever their memory, so by default
        none does.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAdam
    >>> from atoll.strategies import Layerwise
    >>> strategy = Layerwise(FedAdam(eta=0.01), layers_per_client=2, fraction_train=0.5)
    >>> strategy.layers_per_client, strategy.fraction_evaluate
    (2, 0.0)
    """

    def __init__(
        self,
        strategy: FedAvg | None = None,
        layers_per_client: int | None = None,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 0.0,
        min_train_nodes: int = 1,
        min_evaluate_nodes: int = 1,
        min_available_nodes: int = 1,
    ) -> None:
        if layers_per_client is not None:
            check_argument("layers_per_client", layers_per_client, Count)
        if strategy is not None and not isinstance(strategy, Strategy):
            raise InvalidExperimentError(
                f"strategy.strategy = {strategy!r}: expected the table of a strategy, "
                "{ name = 'FedAvg' } say"
            )
        if strategy is not None and not isinstance(strategy, FedAvg):
            raise InvalidExperimentError(
                f"strategy.strategy: a {type(strategy).__name__} does not average; expected a "
                "strategy derived from FedAvg"
            )
        if isinstance(strategy, Layerwise | AlignmentStrategy):
            raise InvalidExperimentError(
                f"strategy.strategy: {type(strategy).__name__} looks at the whole model; expected "
                "FedAvg, FedProx, FedAdam or another that averages arrays by themselves"
            )
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
        )
        self.strategies = LayerStrategies(strategy or FedAvg())
        self.layers_per_client = layers_per_client
        self.capacities: dict[int, int] = {}
        self.dealt: list[int] = []
        self.versions: list[int] = []
        self._broadcast: ArrayRecord | None = None

    # --- a round's start -----------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Deal layers to the sampled clients."""
        self._broadcast = arrays
        by_layer = keys_by_layer(arrays)
        if not self.versions:
            layers = sum(layer is not None for layer in by_layer)
            self.versions, self.dealt = [0] * layers, [0] * layers
        sampled = self._sampled(super().configure_train(server_round, arrays, config, grid))
        for layer, keys in by_layer.items():
            # Tells a layer's strategy the round's arrays, and lets it say what clients are to know.
            own = array_record({key: arrays[key] for key in keys if not _is_statistic(key)})
            list(self.strategies.of(layer).configure_train(server_round, own, config, grid))
        config["server-round"] = server_round
        self._ask_capacities(sampled, config, grid)
        layers = len(self.versions)
        limit = min(self.layers_per_client or layers, layers)
        wanted = {node: min(self.capacities.get(node, 0), limit) for node in sampled}
        assigned = deal_layers(wanted, self.dealt)
        contents: dict[tuple[int, ...], RecordDict] = {}
        messages = []
        for node, chosen in assigned.items():
            key = tuple(chosen)
            if key not in contents:
                keys = [k for layer in [*chosen, None] for k in by_layer.get(layer, [])]
                own = array_record({k: arrays[k] for k in keys})
                contents[key] = RecordDict(
                    {self.arrayrecord_key: own, self.configrecord_key: config}
                )
            messages.append(Message(contents[key], node, MessageType.TRAIN))
        return messages

    def _sampled(self, messages: Iterable[Message]) -> list[int]:
        """Return the nodes that may be asked to train."""
        return [message.metadata.dst_node_id for message in messages]

    def _ask_capacities(self, nodes: Sequence[int], config: ConfigRecord, grid: Grid) -> None:
        """Query nodes with unknown capacity for the number of layers that their memory holds."""
        unknown = [node for node in nodes if node not in self.capacities]
        if not unknown:
            return
        question = RecordDict({self.configrecord_key: config})
        messages = [Message(question, node, f"{MessageType.QUERY}.{CAPACITY}") for node in unknown]
        reasons = dict.fromkeys(unknown, "no reply")
        for reply in grid.send_and_receive(messages):
            node = reply.metadata.src_node_id
            if reply.has_error():
                reasons[node] = reply.error.reason or "an error without a reason"
                continue
            self.capacities[node] = int(reply.content.metric_records["metrics"]["blocks"])  # type: ignore[arg-type]
            del reasons[node]
        for node, reason in reasons.items():
            logger.warning("node %d does not say what it holds: %s", node, reason)
        if not any(self.capacities.get(node) for node in nodes):
            raise EngineError(_no_capacity(len(nodes), list(reasons.values())))

    # --- a round's end -------------------------------------------------------------------------

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let each layer's strategy aggregate the replies of that layer."""
        broadcast, self._broadcast = self._broadcast, None
        valid, _ = self._check_and_log_replies(list(replies), is_train=True, validate=False)
        trained = _with_examples(valid)
        if broadcast is None or not trained:
            return None, None
        return self._aggregate(server_round, broadcast, trained)

    def _aggregate(
        self, server_round: int, broadcast: ArrayRecord, replies: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays = dict(broadcast)
        counts = []
        for layer, keys in sorted(keys_by_layer(broadcast).items(), key=_order):
            own = [_part(reply, keys) for reply in replies if keys[0] in _arrays(reply)]
            if layer is not None:
                counts.append(len(own))
            if own:
                arrays |= self._update(server_round, layer, own, broadcast)
        return array_record(arrays), self._metrics(replies, counts)

    def _update(
        self,
        server_round: int,
        layer: int | None,
        replies: list[Message],
        broadcast: ArrayRecord,
    ) -> dict[str, Any]:
        """Return a layer's new arrays, of the types that it had."""
        keys = list(_arrays(replies[0]))
        trained = [key for key in keys if not _is_statistic(key)]
        parts = [_part(reply, trained) for reply in replies]
        changed, _ = self.strategies.of(layer).aggregate_train(server_round, parts)
        if changed is None:
            return {}
        if layer is not None:
            self.versions[layer] += 1
        arrays = dict(changed)
        if len(trained) < len(keys):
            # A server's optimiser could make a variance negative; a mean cannot.
            statistics = [key for key in keys if _is_statistic(key)]
            parts = [_part(reply, statistics) for reply in replies]
            mean, _ = FedAvg().aggregate_train(server_round, parts)
            arrays |= mean or {}
        return {key: _like(array, broadcast[key]) for key, array in arrays.items()}

    def _metrics(self, replies: Sequence[Message], counts: list[int]) -> MetricRecord:
        rows = [_metrics_of(reply) for reply in replies]
        weights = np.asarray([float(row[WEIGHT]) for row in rows])
        losses = np.asarray([float(row["loss"]) for row in rows])
        total = float(weights.sum())
        return MetricRecord(
            {
                "loss": float(losses @ weights / total) if total else 0.0,
                "layer_versions": list(self.versions),
                "layer_clients": counts,
            }
        )


def _no_capacity(nodes: int, reasons: Sequence[str]) -> str:
    """Return the reason why no sampled client can train a layer: failed queries, or memory."""
    if not reasons:
        return "no sampled client has memory for a layer"
    reason, times = Counter(line.partition("\n")[0] for line in reasons).most_common(1)[0]
    others = "" if len(reasons) == nodes else "; the others have memory for none"
    return (
        f"no sampled client can be given a layer: {len(reasons)} of {nodes} did not say what they "
        f"hold, {times} of them with: {reason}{others}"
    )


def _with_examples(replies: Iterable[Message]) -> list[Message]:
    """Return the replies of clients that had examples: of others alone there is no mean."""
    return [reply for reply in replies if _metrics_of(reply)[WEIGHT]]


def _is_statistic(key: str) -> bool:
    return key.rpartition(".")[2] in STATISTICS


def _like(array: Array, before: Array) -> Array:
    """Return an array in the dtype that it had: means of counters are floats."""
    values, dtype = view(array), np.dtype(before.dtype)
    rounded = np.rint(values) if dtype.kind in "iu" else values
    return to_array(np.asarray(rounded, dtype))


def _order(item: tuple[int | None, Any]) -> int:
    return -1 if item[0] is None else item[0]


def _arrays(reply: Message) -> ArrayRecord:
    (arrays,) = reply.content.array_records.values()
    return arrays


def _metrics_of(reply: Message) -> dict[str, Any]:
    (metrics,) = reply.content.metric_records.values()
    return dict(metrics)


def _part(reply: Message, keys: Sequence[str]) -> Message:
    """Return a reply as if the client had sent these arrays only."""
    arrays, metrics = _arrays(reply), _metrics_of(reply)
    part = copy.copy(reply)
    part.content = RecordDict(
        {
            "arrays": array_record({key: arrays[key] for key in keys}),
            "metrics": MetricRecord({name: metrics[name] for name in (WEIGHT, "loss")}),
        }
    )
    return part
