"""The messages and contexts of a chunk's clients, made from what travels once an exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Context, Message, RecordDict

from atoll import flower
from atoll.platform.messages.exchange import Chunk, Exchange
from atoll.platform.messages.packing import PackedRecords, fresh_copy, unpack
from atoll.platform.worker.node_context import client_context


class ChunkMessages:
    """Makes each client's message and context; contents are unpacked once an exchange.

    Parameters
    ----------
    run_config : dict
        The run configuration in each client's ``Context``.
    """

    def __init__(self, run_config: dict[str, Any]) -> None:
        self.run_config = run_config
        self._unpacked_for = -1
        self._unpacked: dict[int, RecordDict] = {}
        self._templates: list[flower.InstructionTemplate] = []

    def load(
        self, exchange: Exchange, contents: Mapping[int, PackedRecords], envelopes: tuple[int, ...]
    ) -> None:
        """Unpack the contents that messages in these envelopes have."""
        if self._unpacked_for != exchange.number:
            self._unpacked_for = exchange.number
            self._unpacked = {}
            self._templates = [
                flower.InstructionTemplate(
                    e.message_type, e.group_id, e.ttl, e.created_at, exchange.delivered_at
                )
                for e in exchange.envelopes
            ]
        for envelope in set(envelopes):
            index = exchange.envelopes[envelope].content
            if index not in self._unpacked:
                self._unpacked[index] = unpack(contents[index])

    def category(self, envelope: int) -> str:
        """Return the kind of the messages in an envelope: "train"."""
        return self._templates[envelope].category

    def request(self, exchange: Exchange, chunk: Chunk, place: int) -> Message:
        """Return the message of a chunk's client."""
        envelope = chunk.envelopes[place]
        content = self._unpacked[exchange.envelopes[envelope].content]
        return self._templates[envelope].message(
            fresh_copy(content), chunk.nodes[place], chunk.message_ids[place]
        )

    def context(self, exchange: Exchange, chunk: Chunk, place: int) -> Context:
        """Return the context of a chunk's client."""
        node_id = chunk.nodes[place]
        return client_context(
            node_id, exchange.num_partitions, dict(self.run_config), chunk.states.get(node_id)
        )
