"""Poison that is made of several clients' honest updates, which the attacker computes itself.

An attack that needs other clients' updates calls the client's training with their partitions. So
it depends on the message and the seed alone, runs in any worker and on stock Flower, and nothing
travels between clients. What it may compute is a setting: the updates of the attacker's own
clients, or those of all honest ones. A process keeps a round's updates, so each is computed at
most once there.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import Any, Literal

import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from atoll import flower
from atoll.attacks.defenses.base.sent_update import SentUpdate
from atoll.attacks.poisoning.poison import flattened
from atoll.attacks.poisoning.update_poison import UpdatePoison
from atoll.clients.apps.training_messages import config_of, partition_of, round_of
from atoll.randomness import derive_seed, seed_everything


class CollusionPoison(UpdatePoison):
    """Poison that is made of several clients' honest updates; the attacker's clients send the same.

    Attributes
    ----------
    knowledge : "colluders" or "omniscient"
        Whose honest updates the attacker knows: of its own clients, or of all others. An
        omniscient attacker is a bound, not a threat; a worker that has an attacker's client then
        trains every honest client too.

    Examples
    --------
    >>> from atoll.attacks import ALIE, CollusionPoison
    >>> issubclass(ALIE, CollusionPoison), ALIE(nodes=(1, 2)).knowledge
    (True, 'colluders')
    """

    knowledge: Literal["colluders", "omniscient"] = "colluders"

    @abstractmethod
    def craft(self, honest: Tensor, clients: int) -> Tensor:
        """Return what the attacker's clients send, shape (d,).

        Parameters
        ----------
        honest : Tensor
            The honest updates that are known, shape (k, d), float64, in the order of partitions.
        clients : int
            The federation's.
        """

    def forge(self, own: Tensor, generator: torch.Generator) -> Tensor:
        """Return what is crafted of the client's own update alone, of a federation of one."""
        return self.craft(own[None], 1)

    def trained(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Return the reply that any worker would compute for the client's partition."""
        seed_everything(self._seed(message, partition_of(context)))
        return call_next(message, context)

    def forged(
        self,
        own: Tensor,
        message: Message,
        context: Context,
        call_next: flower.ClientAppCallable,
    ) -> Tensor:
        """Return what is crafted of the honest updates that are known."""
        clients = int(context.node_config["num-partitions"])
        mine = tuple(node - 1 for node in self.nodes)
        known = mine
        if self.knowledge == "omniscient":
            known = tuple(p for p in range(clients) if p not in mine) or mine
        kept = _KEPT.of(self._key(message))
        kept[partition_of(context)] = own
        honest = [
            self._update_of(partition, message, context, call_next, kept) for partition in known
        ]
        there = [update for update in honest if update is not None]
        return self.craft(torch.stack(there or [own]), clients)

    def _update_of(
        self,
        partition: int,
        message: Message,
        context: Context,
        call_next: flower.ClientAppCallable,
        kept: dict[int, Tensor | None],
    ) -> Tensor | None:
        """Return the honest update of a partition; None if its client would fail."""
        if partition not in kept:
            config: dict[str, Any] = {**context.node_config, "partition-id": partition}
            other = Context(
                context.run_id, context.node_id, config, RecordDict(), context.run_config
            )
            update = SentUpdate(message)
            seed_everything(self._seed(message, partition))
            try:
                reply = call_next(message, other)
                is_there = not reply.has_error() and update.is_in(reply)
                kept[partition] = flattened(update.read(reply)) if is_there else None
            except Exception:
                # What a client raises is an error reply of its own; the attacker does without it.
                kept[partition] = None
        return kept[partition]

    def _seed(self, message: Message, partition: int) -> int:
        return derive_seed(self.seed, round_of(config_of(message)), "honest update", partition)

    def _key(self, message: Message) -> str:
        """Return a text that two messages share only if every client answers them alike."""
        digest = hashlib.sha256(repr((self.seed, self.nodes, dict(config_of(message)))).encode())
        for record in message.content.array_records.values():
            for name, array in record.items():
                digest.update(name.encode() + array.data)
        return digest.hexdigest()


class _Kept:
    """The honest updates of the last message, by partition; a process's."""

    def __init__(self) -> None:
        self._key = ""
        self._updates: dict[int, Tensor | None] = {}

    def of(self, key: str) -> dict[int, Tensor | None]:
        """Return what is kept for a message."""
        if key != self._key:
            self._key, self._updates = key, {}
        return self._updates


_KEPT = _Kept()
