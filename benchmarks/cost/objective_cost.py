"""Cost of a round of each drift-correcting strategy, by FedAvg's in the same run.

``python -m benchmarks.cost.objective_cost`` prints processor time and bytes. Rounds of all
strategies take turns in one process: messages, ClientApp, each node's state to disk and back,
aggregation. Processor time is of this process alone; how fast a processor is still depends on
others, so the table has the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import time
from collections.abc import Callable
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from atoll import Experiment
from atoll.clients import make_client_app
from atoll.clients.training.memory_allocator import keep_freed_memory
from atoll.flower import assume_identity, convert_arrays_quickly
from atoll.platform.run_directory.node_states import NodeStates
from atoll.platform.runs.federation import prepare
from atoll.platform.worker.node_context import client_context, kept_of
from atoll.strategies import SCAFFOLD, FedDyn, FedExP, FedNova


class Nodes:
    """The nodes of a federation in this process; their states are on disk between messages.

    Parameters
    ----------
    app : ClientApp
        What every node runs.
    count : int
        How many there are.
    """

    def __init__(self, app: ClientApp, count: int) -> None:
        self._app, self._count = app, count
        self._states = NodeStates()

    def get_node_ids(self) -> list[int]:
        """Return the nodes, from 1: all that a strategy asks a grid for."""
        return list(range(1, self._count + 1))

    def answers(self, messages: list[Message]) -> list[Message]:
        """Return each message's reply."""
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            context = client_context(node, self._count, {}, self._states.get(node))
            replies.append(self._app(message, context))
            state = kept_of(context, self._count)
            if state is not None:
                self._states[node] = state
        return replies


def bytes_of(message: Message) -> int:
    """Return the bytes of a message's arrays."""
    return sum(len(a.data) for r in message.content.array_records.values() for a in r.values())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--model", default="cnn-small")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--examples", type=int, default=60, help="of each client")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=42)
    given = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    assume_identity()
    # As the engine's processes do.
    convert_arrays_quickly()
    keep_freed_memory()
    experiment = Experiment.from_dict(
        {
            "data": {
                "dataset": given.dataset,
                "clients": given.clients,
                "examples_per_client": given.examples,
            },
            "model": {"name": given.model},
            "client": {"batch_size": given.batch_size, "epochs": given.epochs},
        }
    )
    federation = prepare(experiment)
    app = make_client_app(federation.spec)
    count = given.clients
    make: dict[str, Callable[[], FedAvg]] = {
        "FedAvg": lambda: FedAvg(min_train_nodes=count, min_available_nodes=count),
        "SCAFFOLD": lambda: SCAFFOLD(min_train_nodes=count, min_available_nodes=count),
        "SCAFFOLD, option 1": lambda: SCAFFOLD(
            option=1, min_train_nodes=count, min_available_nodes=count
        ),
        "FedDyn": lambda: FedDyn(min_train_nodes=count, min_available_nodes=count),
        "FedNova": lambda: FedNova(min_train_nodes=count, min_available_nodes=count),
        "FedExP": lambda: FedExP(min_train_nodes=count, min_available_nodes=count),
    }
    strategies = {name: build() for name, build in make.items()}
    nodes = {name: Nodes(app, given.clients) for name in make}
    arrays: dict[str, ArrayRecord] = dict.fromkeys(make, federation.initial_arrays)
    seconds: dict[str, list[float]] = {name: [] for name in make}
    sizes: dict[str, int] = {}
    # As the engine's processes do: what is there now is not looked at by every collection.
    gc.collect()
    gc.freeze()
    for number in range(1, given.rounds + 1):
        for name, strategy in strategies.items():
            began = time.process_time()
            grid = cast(Grid, nodes[name])
            sent = list(strategy.configure_train(number, arrays[name], ConfigRecord(), grid))
            after, _ = strategy.aggregate_train(number, nodes[name].answers(sent))
            seconds[name].append(time.process_time() - began)
            assert after is not None
            arrays[name], sizes[name] = after, bytes_of(sent[0])
    parameters = sum(len(array.data) for array in federation.initial_arrays.values()) // 4
    print(f"{given.model} ({parameters} parameters), {given.dataset}, {given.clients} clients")
    print("| strategy | processor time of a round, s | by FedAvg's | bytes to a client |")
    print("|---|---|---|---|")
    # The first rounds open files and fill caches.
    plain = seconds["FedAvg"][2:]
    for name, taken in seconds.items():
        ratio = statistics.median(own / of for own, of in zip(taken[2:], plain, strict=True))
        print(f"| {name} | {statistics.median(taken[2:]):.3f} | {ratio:.2f} | {sizes[name]} |")


if __name__ == "__main__":
    main()
