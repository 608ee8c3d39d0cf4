"""A Flower Grid in this process: one client after another, without workers.

A shadow federation is small and there are many, so each is run as a whole in one worker, and its
clients by this grid. Their random state is what :class:`~atoll.platform.grid.ray_grid.RayGrid`
gives them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from atoll import flower
from atoll.clients.apps.training_messages import config_of, round_of
from atoll.errors import EngineError
from atoll.flower import Run
from atoll.platform.grid.node_ids import NodeIds
from atoll.platform.worker.node_context import client_context
from atoll.randomness import derive_seed, seed_everything

# Told of a training message and its reply.
OnReply = Callable[[Message, Message], None]


class LocalGrid(Grid):
    """Answers training messages in this process; evaluations are not answered.

    Parameters
    ----------
    app : ClientApp
        Every node's.
    num_nodes : int
        Nodes 1 to N, of which node i has partition i - 1.
    seed : int
        Of the clients' random states.
    on_reply : callable
        Told of each training message and its reply.
    absent : frozenset[int]
        Nodes that have left, as for :class:`~atoll.platform.grid.grid_config.GridConfig`.
    """

    def __init__(
        self,
        app: ClientApp,
        num_nodes: int,
        seed: int = 0,
        on_reply: OnReply = lambda message, reply: None,
        absent: frozenset[int] = frozenset(),
    ) -> None:
        flower.assume_identity()
        self._app = app
        self._num_nodes = num_nodes
        self._seed = seed
        self._on_reply = on_reply
        self._absent = absent
        self._contexts: dict[int, Context] = {}
        self._run = flower.new_run()

    def set_run(self, run: Run) -> None:
        """Set the run that :attr:`run` reports."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run, as Flower describes it."""
        return self._run

    def get_node_ids(self) -> NodeIds:
        """Return the ids of all nodes, 1 to N, without those that have left."""
        return NodeIds(self._num_nodes, self._absent)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Raise: no strategy that is run here sends without waiting.

        Raises
        ------
        EngineError
            Always.
        """
        raise EngineError("shadow federations: the strategy does not wait for replies")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Raise, as :meth:`push_messages` does.

        Raises
        ------
        EngineError
            Always.
        """
        raise EngineError("shadow federations: the strategy does not wait for replies")

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the replies to training messages, in the order of node ids.

        The time-out has no effect.

        Raises
        ------
        EngineError
            If a client raises.
        """
        asked = sorted(messages, key=flower.address)
        return [
            self._answered(message)
            for message in asked
            if message.metadata.message_type.partition(".")[0] == "train"
        ]

    def _answered(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = self._contexts.get(node)
        if context is None:
            context = self._contexts[node] = client_context(node, self._num_nodes, {})
        with random_state_kept():
            server_round = round_of(config_of(message))
            seed_everything(derive_seed(self._seed, server_round, "train", node - 1))
            flower.speak_for(node)
            try:
                reply: Any = self._app(message, context)
            except Exception as error:
                raise EngineError(
                    f"node {node} raised {type(error).__name__} in round {server_round}: {error}"
                ) from error
        if reply.has_error():
            raise EngineError(f"node {node} failed in round {server_round}: {reply.error.reason}")
        self._on_reply(message, reply)
        return reply  # type: ignore[no-any-return]


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Within this context the global generators may be used; afterwards they are as before.

    On the engine clients are in other processes than the server, whose draws they must not change.
    """
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
